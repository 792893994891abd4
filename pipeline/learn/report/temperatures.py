"""Temperatures of rows that no inner split can give one: averages of several models, and trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from pipeline.learn.metrics import fit_temperature
from pipeline.learn.outcomes import FEWEST
from pipeline.learn.report.scoring import Done
from pipeline.spec.tasks import Task


def with_temperatures(done: Sequence[Done], task: Task, target: np.ndarray) -> tuple[Done, ...]:
    """Cells whose every sensor has a temperature, where there are rows to fit it on.

    What a cell lacks is fitted on what the same row says, in the other folds of the same seed, of
    rows of the cell's training part (cross-fitting; Guo et al. 2017, arXiv:1706.04599): none of
    them is scored in its fold. No inner split is left for an average, each of whose networks has
    seen most of the training part, and for trees, which have seen all of it.

    Args:
        done: finished cells.
        task: of the benchmark; only classes have temperatures.
        target: (N,) class indices.
    """
    if task.kind != "classification":
        return tuple(done)
    cells: dict[tuple[object, ...], list[Done]] = {}
    for d in done:
        cells.setdefault(_row(d), []).append(d)
    return tuple(
        replace(d, cell=replace(d.cell, temperature={
            **dict(_lacking(d, cells[_row(d)], target)), **d.cell.temperature}))
        for d in done)


def _row(one: Done) -> tuple[object, ...]:
    """What the folds of a row have in common."""
    return one.row.text, one.row.encoder, one.share, one.split.seed


def _lacking(one: Done, folds: Sequence[Done], target: np.ndarray) -> Iterator[tuple[str, float]]:
    for sensor in set(one.cell.found) - set(one.cell.temperature):
        said = [d.cell.found[sensor] for d in folds if d is not one and sensor in d.cell.found]
        mine = [one.split.train[found.rows] for found in said]
        if sum(m.sum() for m in mine) >= FEWEST:
            rows = np.concatenate([f.rows[m] for f, m in zip(said, mine, strict=True)])
            raw = np.concatenate([f.raw[m] for f, m in zip(said, mine, strict=True)])
            yield sensor, fit_temperature(raw, target[rows])
