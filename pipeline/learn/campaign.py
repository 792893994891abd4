"""All cells of a table: made once, in worker processes where asked, and found again next time."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from pipeline.learn.cell import Cell, Split, run_cell
from pipeline.learn.cell_store import ENGINE, fingerprint, load_cell, save_cell, weights_of
from pipeline.learn.contenders import why_not
from pipeline.learn.protocols import Plan, part_of
from pipeline.learn.recipe import Row
from pipeline.learn.report.scoring import Done
from pipeline.learn.table import Table, tensors
from pipeline.spec.card import FEATURE_PATH
from pipeline.spec.errors import BadRequest, DataTrouble

Train = Callable[..., Cell]  # (table, split, row, *, features) -> Cell
Key = tuple[str, str]  # text and encoder of a row


@dataclass(frozen=True)
class Work:
    """One cell to be made; ``config`` is everything that decides its content, as plain JSON."""

    row: Row
    split: Split
    share: float
    config: dict[str, Any]

    @property
    def key(self) -> Key:
        return self.row.text, self.row.encoder


@dataclass(frozen=True)
class Campaign:
    """What is trained and scored.

    Attributes:
        benchmark: key.
        table: its samples.
        plan: the splits.
        rows: of the table to be made.
        shares: of the training samples, each a learning curve's point.
        folder: of the finished cells.
        device: where they are trained: another rounds differently, so that its cells are others.
    """

    benchmark: str
    table: Table
    plan: Plan
    rows: tuple[Row, ...]
    shares: tuple[float, ...]
    folder: Path
    device: str = "cpu"

    def work(self) -> list[Work]:
        """All cells, fold by fold: what a killed run leaves compares every row in some folds."""
        data, found = fingerprint(self.table), []
        own = {(r.text, r.encoder): {"row": r.text, "weights": weights_of(r),
                                     **json.loads(r.config())} for r in self.rows}
        for share in sorted(self.shares, reverse=True):
            for split in self.plan.splits:
                part = part_of(self.table, split, share)
                common = {
                    "benchmark": self.benchmark, "data": data, "protocol": self.plan.protocol,
                    "folds": split.folds, "seed": split.seed, "fold": split.fold, "share": share,
                    "split": fingerprint((part.train, part.test)),
                    "sensors": list(self.table.sensors), "feature_path": FEATURE_PATH,
                    "engine": ENGINE, **({} if self.device == "cpu" else {"device": self.device}),
                }
                found += [Work(row, part, share, {**common, **own[row.text, row.encoder]})
                          for row in self.rows]
        return found


@dataclass(frozen=True)
class Outcome:
    """What came of a campaign.

    Attributes:
        done: finished cells of the rows that could run.
        empty: why a row could not.
        trained: cells that were made now; the others were there.
    """

    done: tuple[Done, ...]
    empty: dict[Key, str]
    trained: int


def run(
    campaign: Campaign, *, jobs: int = 1, tick: Callable[[], object] = lambda: None,
    train: Train | None = None,
) -> Outcome:
    """Make the cells that are not there yet.

    A row that refuses (``BadRequest``) is left empty, with its reason; the others go on.

    Args:
        campaign: what to train.
        jobs: worker processes, each with one thread; 1 = this process.
        tick: called once for every cell, found or made.
        train: makes a cell, ``run_cell`` if None; importable where ``jobs`` is above 1.

    Raises:
        DataTrouble: the cells cannot be written, or a worker was killed.
    """
    train = train or partial(run_cell, device=campaign.device)
    work = campaign.work()
    data = tensors(campaign.table, campaign.table.primary & campaign.table.labelled)
    empty = {(row.text, row.encoder): reason for row in campaign.rows
             if (reason := why_not(row, campaign.table, data))}
    cells: dict[int, Cell] = {}
    todo = []
    for number, w in enumerate(work):
        cell = None if w.key in empty else load_cell(campaign.folder, w.config)
        if cell is not None:
            cells[number] = cell
        if cell is not None or w.key in empty:
            tick()
        else:
            todo.append((number, w))
    for number, w, reason in _train_all(campaign, todo, empty, jobs, train):
        if reason:
            empty.setdefault(w.key, reason)
        else:
            cells[number] = _written(campaign.folder, w)
        tick()
    done = tuple(Done(w.row, w.split, w.share, cells[number]) for number, w in enumerate(work)
                 if w.key not in empty)
    return Outcome(done, empty, len(todo))


Numbered = tuple[int, Work]


def _train_all(
    campaign: Campaign, todo: Sequence[Numbered], empty: dict[Key, str], jobs: int, train: Train
) -> Iterator[tuple[int, Work, str]]:
    """Number and work of each cell as it is finished, and why it could not be."""
    if not todo:
        return
    if jobs == 1:
        for number, w in todo:
            yield number, w, (empty.get(w.key)
                              or _make(campaign.table, campaign.folder, train, w))
        return
    queue, running = iter(todo), dict[Future[str], Numbered]()
    # spawned, not forked: a forked copy of a process whose libraries run threads may hang
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker,
                               (campaign.table, campaign.folder, train))
    try:
        while True:
            while len(running) < 2 * jobs and (item := next(queue, None)):
                if reason := empty.get(item[1].key):
                    yield *item, reason
                else:
                    running[pool.submit(_make_shared, item[1])] = item
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield *running.pop(future), future.result()
    except BrokenProcessPool:
        raise DataTrouble("a worker process was killed, perhaps for want of memory",
                          then="finished cells are kept; type the command again with fewer "
                          "--jobs") from None
    finally:
        pool.shutdown(cancel_futures=True)


Shared = tuple[Table, Path, Train]  # what every cell of a process needs
_shared: list[Shared] = []  # of a worker process: sent once, not with every cell


def _start_worker(table: Table, folder: Path, train: Train) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once, without a traceback
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _shared[:] = [(table, folder, train)]


def _end_with_parent() -> None:
    """A worker of a killed run would wait for its next cell for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make_shared(work: Work) -> str:
    return _make(*_shared[0], work)


def _make(table: Table, folder: Path, train: Train, work: Work) -> str:
    """Make and store a cell; returns why it cannot be made.

    Features are kept in the first fold of the first seed only: one picture needs no more.
    """
    first = work.split.seed == 0 and work.split.fold == 0
    try:
        cell = train(table, work.split, work.row, features=first)
    except BadRequest as error:
        return str(error)
    save_cell(folder, work.config, cell)
    return ""


def _written(folder: Path, work: Work) -> Cell:
    cell = load_cell(folder, work.config)
    if cell is None:
        raise DataTrouble("a cell cannot be read back", got=str(folder),
                          then="check the disk and type the command again")
    return cell
