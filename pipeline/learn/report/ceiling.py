"""What the labels themselves say of the scores: their noise, and what a known place gives away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.learn.cell import Split
from pipeline.learn.metrics import metric_name, scores
from pipeline.learn.report.scoring import scorable
from pipeline.learn.table import Table

_FEWEST_PAIRS = 100  # label differences that a noise estimate needs
# months between two labels of a place. Few: the least of many estimates would be too small
_LAGS = (0, 1, 12)


@dataclass(frozen=True)
class LabelNoise:
    """How much noise the labels can have at most, and the R2 that it leaves room for.

    Attributes:
        months: between the two labels of a pair.
        pairs: of labels of one place, so many months apart.
        std: of the noise, at most, in the task's unit.
        r2: highest pooled R2, at least: noise alone does not stop a prediction below it.
    """

    months: int
    pairs: int
    std: float
    r2: float


def label_noise(table: Table) -> LabelNoise | None:
    """Bound on the noise in the labels of a regression; None where no place has several labels.

    Half the mean squared difference of two labels of a place (the semivariance) is the variance of
    their noise plus what really changed in between: a bound from above, as far as the noise of the
    two is independent. Of all lags the one with the least counts.
    """
    if table.task.kind != "regression":
        return None
    at = np.flatnonzero(table.known)
    y, month = table.target[at], table.months[at, -1]
    place = table.groups[at]
    half, count = np.zeros(max(_LAGS) + 1), np.zeros(max(_LAGS) + 1, int)
    for one in np.unique(place):
        mine = np.flatnonzero(place == one)
        a, b = (mine[k] for k in np.triu_indices(len(mine), 1))
        lag = np.abs(month[a] - month[b])
        near = lag < len(half)
        half += np.bincount(lag[near], 0.5 * (y[a] - y[b])[near] ** 2, len(half))
        count += np.bincount(lag[near], minlength=len(half))
    enough = [k for k in _LAGS if count[k] >= _FEWEST_PAIRS]
    if not enough:
        return None
    best = min(enough, key=lambda k: half[k] / count[k])
    within = float(half[best] / count[best])
    return LabelNoise(best, int(count[best]), within**0.5, 1 - within / float(y.var()))


def own_place(table: Table, splits: Sequence[Split]) -> dict[str, tuple[float, float]]:
    """What it is worth to recognise a place: its other labels are known, held-out ones included.

    It predicts the mean (most frequent class) of the place's other samples, and where there are
    none that of the training samples. No ceiling for methods that know the season, but the size
    of what random folds give away.

    Args:
        table: of the benchmark.
        splits: folds in which it is scored, as every row of a table is.

    Returns:
        Per sensor mean and standard deviation of the task's score over the folds; empty for
        multi-label tasks.
    """
    if table.task.kind == "multilabel":
        return {}
    said, known = _others(table)
    result = {}
    for sensor in table.sensors:
        values = []
        for split in splits:
            rows = np.flatnonzero(split.test & table.scored(sensor))
            y = table.target[rows]
            if not scorable(table.task, y):
                continue
            usual = _usual(table, table.target[split.train & table.known])
            guess = np.where(known[rows], said[rows], usual)
            values.append(scores(table.task, y, guess)[metric_name(table.task)])
        if values:
            result[sensor] = (float(np.mean(values)),
                              float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)
    return result


def _others(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """(N,) what the other primary samples of the place say, and whether there are any."""
    place = np.unique(table.groups, return_inverse=True)[1].reshape(-1)
    count = np.bincount(place, table.known)
    own = table.known.astype(float)
    others = count[place] - own
    if table.task.kind == "regression":
        total = np.bincount(place, table.target * own)
        return (total[place] - table.target * own) / np.maximum(others, 1), others > 0
    votes = np.zeros((place.max() + 1, len(table.task.classes)))
    np.add.at(votes, (place[table.known], table.target[table.known]), 1)
    mine = votes[place]
    mine[np.arange(len(mine)), table.target] -= own
    return mine.argmax(1), others > 0


def _usual(table: Table, target: np.ndarray) -> float | int:
    if table.task.kind == "regression":
        return float(target.mean())
    return int(np.bincount(target).argmax())
