"""Temperatures of rows that no inner split can give one: averages of several models, and trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from pipeline.learn.cell import Found
from pipeline.learn.fit import FUSED
from pipeline.learn.metrics import fit_temperature
from pipeline.learn.outcomes import FEWEST
from pipeline.learn.report.scoring import Done
from pipeline.spec.tasks import Task


def with_temperatures(done: Sequence[Done], task: Task, target: np.ndarray) -> tuple[Done, ...]:
    """Cells whose every sensor has a temperature, where there are rows to fit it on.

    What a cell lacks is fitted on what the same row says of the other folds' rows under the same
    seed (cross-fitting; Guo et al. 2017, arXiv:1706.04599): none of them is scored in its fold.
    No row of the training part is left for an average, each of whose networks has seen most of
    them, and for trees, which have seen all.

    Args:
        done: finished cells.
        task: of the benchmark; only classes have temperatures.
        target: (N,) class indices.
    """
    if task.kind != "classification":
        return tuple(done)
    cells: dict[tuple[object, ...], list[Done]] = {}
    for d in done:
        cells.setdefault((d.row.text, d.row.encoder, d.share, d.split.seed), []).append(d)
    return tuple(
        replace(d, cell=replace(d.cell, temperature={
            **dict(_lacking(d, cells[d.row.text, d.row.encoder, d.share, d.split.seed], target)),
            **d.cell.temperature}))
        for d in done)


def _lacking(one: Done, folds: Sequence[Done], target: np.ndarray) -> Iterator[tuple[str, float]]:
    for sensor in set(one.cell.found) - {FUSED, *one.cell.temperature}:
        mine = one.cell.found[sensor]
        rest = [_without(d.cell.found[sensor], mine) for d in folds
                if d is not one and sensor in d.cell.found]
        rows = np.concatenate([r.rows for r in rest]) if rest else mine.rows[:0]
        if len(rows) >= FEWEST:
            raw = np.concatenate([r.raw for r in rest])
            yield sensor, fit_temperature(raw, target[rows])


def _without(found: Found, other: Found) -> Found:
    """What is said of rows that the other does not have."""
    fresh = ~np.isin(found.rows, other.rows)
    return Found(found.rows[fresh], found.value[fresh], found.raw[fresh])
