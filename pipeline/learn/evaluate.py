"""Held-out evaluation of what is trained: its rivals in the same folds, each stopped on rows that
are not scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.learn.augment import Layout, thin
from pipeline.learn.cell import Split, run_cell
from pipeline.learn.domain import domain_of, held_out_index
from pipeline.learn.fit import pick_rows, predict_from
from pipeline.learn.members import Trained, train_row
from pipeline.learn.metrics import decide
from pipeline.learn.outcomes import Evaluation, Outcome
from pipeline.learn.recipe import TREES, Row
from pipeline.learn.splits import folds, hold_out
from pipeline.learn.table import Table

Log = Callable[[str], None]
Train = Callable[[Table, Row, np.ndarray, str, int], Trained]  # as of ``train_row``

# suffix of the first row's scores on the rows that stopped it: what settings are chosen by
INNER = ", inner split"
_DRAWS = 3  # random choices of the steps that are kept, per coverage
FIRST_OF = 5  # a single fold is the first of so many


@dataclass(frozen=True)
class Protocol:
    """How samples are split.

    Attributes:
        kind: ``site`` = whole groups, ``random`` = single samples.
        count: folds; 1 = only the first of ``FIRST_OF``.
        seeds: repetitions with other folds and other initial weights.
        seed: of the first.
        hold_out: sets that make the only test fold; empty = folds.
    """

    kind: str = "site"
    count: int = 5
    seeds: int = 1
    seed: int = 0
    hold_out: tuple[str, ...] = ()

    def splits(self, table: Table) -> Iterator[tuple[int, np.ndarray]]:
        """Seed and (N,) bool test rows of each fold."""
        groups = split_groups(table, self.kind)
        for seed in range(self.seed, self.seed + self.seeds):
            rng = np.random.default_rng(seed)
            if self.hold_out:
                masks = hold_out(table.names, groups, self.hold_out)
            else:
                parts = self.count if self.count > 1 else FIRST_OF
                masks = folds(groups, table.names, parts, rng)[: self.count]
            yield from ((seed, test) for test in masks)


def split_groups(table: Table, kind: str) -> np.ndarray:
    """(N,) what a split must not cut: groups, or samples for a random one."""
    return table.groups if kind == "site" else table.sample


def coverage_steps(steps: int) -> tuple[int, ...]:
    """Numbers of valid steps at which the coverage curve is measured."""
    return (*(k for k in (1, 2, 3, 4, 6, 8, 10, 12) if k < steps), steps)


def evaluate(table: Table, protocol: Protocol, rows: Sequence[Row], log: Log,
             train: Train = train_row) -> Evaluation:
    """Train and score every row in every fold; ``log`` is told once a fold.

    Args:
        table: all samples.
        protocol: how they are split.
        rows: of different methods; the first is the one whose coverage curve is taken.
        log: told about progress.
        train: what trains networks; trees are fitted all the same.
    """
    result = Evaluation(table.task, table.target, table.names)
    for number, (seed, test) in enumerate(protocol.splits(table)):
        for row in rows:
            if row.method in TREES:
                _add_trees(result, table, row, protocol, test, number, seed)
            else:
                trained = train(table, row, ~test, protocol.kind, seed * 100 + number)
                result.epochs.setdefault(row.method, []).append(round(trained.epochs))
                _add(result, trained, row.method, test, number)
                if row is rows[0]:
                    _add_inner(result, trained, row.method + INNER, number)
                    _add_thinned(result, trained, row.method, test, number, seed)
                    _add_index(result, trained, row, ~test, test, seed)
        means = (f"{s} {result.mean_of_last(rows[0].method, s):.3f}" for s in table.sensors)
        log(f"fold {number + 1}: {', '.join(means)}; epochs "
            f"{', '.join(f'{m} {e[-1]}' for m, e in result.epochs.items())}")
    return result


def evaluate_inner(trained: Trained, row: Row) -> Evaluation:
    """Scores on the rows that stopped the training: quick, and optimistic."""
    table, name = trained.table, row.method
    result = Evaluation(table.task, table.target, table.names)
    result.epochs[name] = [round(trained.epochs)]
    _add_inner(result, trained, name, 0)
    for fitted, held in zip(trained.fitted, trained.held, strict=True):
        alone = Trained(table, trained.data, (fitted,), (held,), fitted.module, {})
        _add_thinned(result, alone, name, held, 0, 0)
        _add_index(result, alone, row, ~held, held, 0)
    return result


def _add(result: Evaluation, trained: Trained, name: str, test: np.ndarray, split: int) -> None:
    for sensor in trained.sensors:
        rows = np.flatnonzero(test & trained.table.scored(sensor))
        if len(rows):
            _append(result, trained, name, sensor, split, rows, trained.raw(sensor, rows))


def _add_inner(result: Evaluation, trained: Trained, name: str, split: int) -> None:
    for sensor in trained.sensors:
        rows, raw = trained.out_of_fold(sensor)
        use = trained.table.scored(sensor)[rows]
        _append(result, trained, name, sensor, split, rows[use], raw[use])


def _add_thinned(result: Evaluation, trained: Trained, name: str, test: np.ndarray, split: int,
                 seed: int) -> None:
    """The same rows with only so many of their valid steps."""
    table, data = trained.table, trained.data
    generator = torch.Generator().manual_seed(seed)
    for sensor in trained.sensors:
        rows = np.tile(np.flatnonzero(test & table.scored(sensor)), _DRAWS)
        if not len(rows):
            continue
        x, seen = data.inputs[sensor][rows], data.seen[sensor][rows]
        layout = Layout.of(data.cards[sensor])
        for kept in coverage_steps(table.task.steps):
            few = thin(x, seen, layout, torch.full((len(x),), kept), generator)
            raw = predict_from(trained.module, sensor, few).float().cpu().numpy()
            _append(result, trained, name, sensor, split, rows, raw * data.std + data.mean, kept)


def _add_index(result: Evaluation, trained: Trained, row: Row, train: np.ndarray,
               test: np.ndarray, seed: int) -> None:
    """How far the test rows lie from what the network learned from."""
    settings, table, data = row.recipe.settings, trained.table, trained.data
    for sensor in trained.sensors:
        rows = np.flatnonzero(test & table.scored(sensor))
        if len(rows):
            learned = pick_rows(data, train & table.primary, sensor)
            domain = domain_of(trained.module, data, sensor, learned, settings, seed)
            result.index.setdefault(sensor, []).append(held_out_index(
                domain, trained.module, data, sensor, rows, settings, seed))


def _append(result: Evaluation, trained: Trained, name: str, sensor: str, split: int,
            rows: np.ndarray, raw: np.ndarray, kept: int = 0) -> None:
    value = decide(trained.table.task, raw, 0.0, 1.0)
    result.outcomes.append(Outcome(name, sensor, split, rows, value, raw, kept))


def _add_trees(result: Evaluation, table: Table, row: Row, protocol: Protocol, test: np.ndarray,
               number: int, seed: int) -> None:
    cell = run_cell(table, Split(seed, number, protocol.count, ~test, test, protocol.kind), row)
    for sensor, found in cell.found.items():
        if len(found.rows):
            result.outcomes.append(
                Outcome(row.method, sensor, number, found.rows, found.value, found.raw))
