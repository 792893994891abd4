"""Would other places tell two methods apart? The paired permutation test over places."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.learn.cell import Found
from pipeline.learn.recipe import Row
from pipeline.learn.report.scoring import Done, encoder_of, scorable, together
from pipeline.spec.tasks import Task

_DRAWS = 1999  # p cannot be below 1 / 2000


class Places:
    """Held-out predictions of every row, to be swapped between two rows place by place.

    Where two methods are alike, it is chance which of them said what of a place: its predictions
    may be exchanged. The p value is the share of random exchanges that move the difference of the
    scores as far from zero as it is (approximate randomisation, Noreen 1989; Yeh 2000,
    arXiv:cs/0008005; never zero, Phipson & Smyth 2010, doi:10.2202/1544-6115.1585). Samples of one
    place go together, in all folds and seeds, since they are alike.

    It takes the trained models as given, and says whether other places of the kind would show the
    same. What another draw of training samples would change it does not know: that is what
    ``significance.corrected_t`` is for, which in five folds sees large differences only.
    """

    def __init__(self, done: Sequence[Done], task: Task, target: np.ndarray,
                 groups: np.ndarray) -> None:
        """Collect what was predicted.

        Args:
            done: finished cells.
            task: of the benchmark.
            target: (N,) class indices or values, (N, K) labels for multi-label.
            groups: (N,) place of each row.
        """
        self._task, self._target = task, target
        self._place = np.unique(groups, return_inverse=True)[1].reshape(-1)
        size = (_DRAWS + 1, int(self._place.max()) + 1)
        self._swap = np.random.default_rng(0).integers(0, 2, size, np.int8)
        self._swap[0] = 0  # as it was found
        self._told: dict[tuple[object, ...], float] = {}  # tables and files ask for the same
        self._found: dict[tuple[str, str, float, str], dict[tuple[int, int], Found]] = {}
        for d in done:
            for sensor, found in {**d.cell.found, **together(d.cell, task)}.items():
                key = (d.row.text, encoder_of(d.row), d.share, sensor)
                self._found.setdefault(key, {})[d.split.seed, d.split.fold] = found

    def p(self, row: Row, sensor: str, reference: Row, theirs: str, share: float) -> float:
        """Two-sided p of the difference in the mean score of the folds that both have.

        Args:
            row, sensor: one method, and what it predicts from.
            reference, theirs: the other.
            share: of the training samples.

        Returns:
            p; NaN where no fold is scored for both.
        """
        pair = ((row.text, encoder_of(row), share, sensor),
                (reference.text, encoder_of(reference), share, theirs))
        if pair not in self._told:
            mine, other = (self._found.get(key, {}) for key in pair)
            self._told[pair] = self._p(mine, other)
        return self._told[pair]

    def _p(self, mine: Mapping[tuple[int, int], Found],
           other: Mapping[tuple[int, int], Found]) -> float:
        """``p`` of what two rows predict from a sensor, by seed and fold."""
        folds = (self._fold(mine[k], other[k]) for k in sorted(mine.keys() & other.keys()))
        moved = [difference for difference in folds if difference is not None]
        if not moved:
            return math.nan
        far = np.abs(np.mean(moved, axis=0))
        return float((far >= far[0] - 1e-9).mean())

    def _fold(self, mine: Found, other: Found) -> np.ndarray | None:
        """(draws,) difference of the scores in one fold, first as it is; None without a score."""
        rows = np.intersect1d(mine.rows, other.rows)
        y = self._target[rows]
        if not scorable(self._task, y):
            return None
        places, at = np.unique(self._place[rows], return_inverse=True)
        a, b = (parts_of_score(self._task, y, f.value[np.searchsorted(f.rows, rows)])
                for f in (mine, other))
        apart = np.zeros((len(places), a.shape[1]))
        np.add.at(apart, at.reshape(-1), b - a)
        change = self._swap[:, places].astype(float) @ apart
        return (score_of_parts(self._task, y, a.sum(0) + change)
                - score_of_parts(self._task, y, b.sum(0) - change))


def parts_of_score(task: Task, target: np.ndarray, value: np.ndarray) -> np.ndarray:
    """(n, M) what each sample adds to the sums that the score is made of.

    Its squared error; of classes and labels whether it is a true positive, a false positive and a
    false negative of each.
    """
    if task.kind == "regression":
        return ((target - value) ** 2)[:, None].astype(float)
    if task.kind == "classification":
        one = np.eye(len(task.classes))
        target, value = one[target], one[value]
    return np.concatenate([target * value, (1 - target) * value, target * (1 - value)], axis=1)


def score_of_parts(task: Task, target: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """(...,) R2 or weighted F1, as ``metrics.score`` has it, of (..., M) sums over the samples."""
    if task.kind == "regression":
        return 1 - sums[..., 0] / np.sum((target - target.mean()) ** 2)
    hit, false, missed = np.split(sums, 3, axis=-1)
    f1 = 2 * hit / np.maximum(2 * hit + false + missed, 1)
    there = hit + missed
    return (f1 * there).sum(-1) / np.maximum(there.sum(-1), 1)
