"""How many tiles are under way at once on this machine: some read, some predicted, one written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from pipeline.infer.plan import PlanRow
from pipeline.spec.machine import cores
from pipeline.spec.tasks import Task

AHEAD = 2  # tiles that are read before anyone waits for them
HELD_BYTES = 192 << 20  # of composites that are held at once, for each core

Read = TypeVar("Read")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Lanes:
    """How much goes on at once; no pixel depends on it.

    Attributes:
        workers: tiles that are predicted at once, each on one thread of a CPU.
        ahead: tiles that are read, or held read, beyond those.
    """

    workers: int = 1
    ahead: int = AHEAD


def lanes_for(
    task: Task, bands: int, tile_px: int, device: torch.device, workers: int | None = None
) -> Lanes:
    """Lanes that keep all cores busy within their ``HELD_BYTES``, or the only device.

    Args:
        task: steps of its timeline.
        bands: most bands of a sensor.
        tile_px: tile size.
        device: a GPU is fed by one worker: it takes one batch after the other anyway.
        workers: asked for by the user; None = one a core.
    """
    size = task.steps * bands * 4 * tile_px**2
    fit = max(cores() * HELD_BYTES // size, 2)
    most = workers or (cores() if device.type == "cpu" else 1)
    count = most if workers else min(most, fit - 1)
    return Lanes(count, min(AHEAD, max(fit - count, 1)))


def in_order(
    rows: Sequence[PlanRow],
    read: Callable[[PlanRow], Read],
    work: Callable[[PlanRow, Future[Read]], Made],
    lanes: Lanes,
) -> Generator[tuple[PlanRow, Made], None, None]:
    """What becomes of each row, in their order, while later rows are read and worked on.

    At most ``workers + ahead`` rows are under way: a slow consumer, worker or reader makes all
    others wait. Close the iterator to end early; what has begun is waited for.

    Args:
        rows: the work.
        read: the first step of a row, in a thread of its own.
        work: the rest of it, from the first step's future, in another thread.
        lanes: how many at once.
    """
    reading = ThreadPoolExecutor(lanes.ahead, thread_name_prefix="reader")
    working = ThreadPoolExecutor(lanes.workers, thread_name_prefix="worker")
    waiting: deque[tuple[PlanRow, Future[Made]]] = deque()
    try:
        for row in rows:
            waiting.append((row, working.submit(work, row, reading.submit(read, row))))
            if len(waiting) >= lanes.workers + lanes.ahead:
                first, made = waiting.popleft()
                yield first, made.result()
        while waiting:
            first, made = waiting.popleft()
            yield first, made.result()
    finally:
        for pool in (reading, working):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (reading, working):
            pool.shutdown(wait=True)


@contextmanager
def one_thread_each(device: torch.device) -> Iterator[None]:
    """On a CPU: one torch thread a worker. Several would wait for each other (beside a busy
    neighbour, two were five times slower than one), and a sum's order must not depend on them."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
