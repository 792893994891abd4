"""Confidence that means something: temperatures and intervals, and what held-out rows say of them.

Nothing here is measured on rows that it was fitted on: a fold's temperature comes from rows that
are not scored in it, and a fold's intervals from the residuals of the other folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.learn.metrics import fit_temperature
from pipeline.learn.outcomes import FEWEST
from pipeline.learn.reliability import reliability
from pipeline.spec.card import spread

LEVEL = 0.9  # of the intervals


@dataclass(frozen=True)
class Logits:
    """Predictions of some rows: (n, K) logits and (n,) class indices."""

    raw: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Temperature:
    """Temperature scaling and what it changed.

    Attributes:
        value: what logits are divided by.
        ece: expected calibration error of the scored rows before and after; None without any.
        adaptive: the same over bins of equal count.
    """

    value: float
    ece: tuple[float, float] | None = None
    adaptive: tuple[float, float] | None = None


def scale_temperature(
    aside: Sequence[Logits], scored: Sequence[Logits], final: Sequence[Logits] = ()
) -> Temperature:
    """Temperature scaling (Guo et al. 2017, arXiv:1706.04599, section 4.2), fold by fold.

    Args:
        aside: per fold, rows to fit its temperature on; none of them is scored in that fold.
        scored: per fold, rows that its temperature is measured on; empty = nothing is measured.
        final: rows that the returned temperature is fitted on; empty = all that are set aside.

    Returns:
        A temperature for new rows, and the errors of the scored rows under their own fold's. A
        fold with fewer than ``FEWEST`` rows aside keeps its logits.
    """
    every = final or aside
    whole = fit_temperature(np.concatenate([a.raw for a in every]),
                            np.concatenate([a.target for a in every]))
    if not scored:
        return Temperature(whole)
    own = [fit_temperature(a.raw, a.target) if len(a.target) >= FEWEST else 1.0 for a in aside]
    raw = np.concatenate([s.raw for s in scored])
    target = np.concatenate([s.target for s in scored])
    after = np.repeat(own, [len(s.target) for s in scored])

    def errors(adaptive: bool) -> tuple[float, float]:
        return (reliability(raw, target, adaptive=adaptive).ece,
                reliability(raw, target, after, adaptive=adaptive).ece)

    return Temperature(whole, errors(False), errors(True))


@dataclass(frozen=True)
class Residuals:
    """Held-out predictions of values.

    Attributes:
        target, value: (n,) in the task's unit.
        group: (n,) place of each row.
        fold: (n,) number of the fold that predicted it.
    """

    target: np.ndarray
    value: np.ndarray
    group: np.ndarray
    fold: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """(n,) absolute error."""
        return np.abs(self.target - self.value)

    def take(self, rows: np.ndarray) -> Residuals:
        """Some of the rows."""
        return Residuals(self.target[rows], self.value[rows], self.group[rows], self.fold[rows])


@dataclass(frozen=True)
class Intervals:
    """Half-width per number of valid steps where the spread is 1, and the spread's line."""

    half_width: Mapping[int, float]
    line: tuple[float, float]

    def covers(self, kept: int, residuals: Residuals) -> np.ndarray:
        """(n,) bool: the target lies within its interval."""
        return residuals.error <= self.half_width[kept] * spread(self.line, residuals.value)


def hierarchical_quantile(score: np.ndarray, group: np.ndarray, level: float = LEVEL) -> float:
    """Bound that a new group's score stays below with probability ``level`` or more.

    Hierarchical conformal prediction: with K groups of n_k rows each row weighs 1 / ((K + 1) n_k)
    and infinity weighs 1 / (K + 1); the bound is that distribution's quantile (Lee, Barber &
    Willett 2023, arXiv:2306.06342; with the mass at infinity, the CDF pooling of Dunn,
    Wasserman & Ramdas 2023, doi:10.1080/01621459.2022.2060112, holds for any K). Rows of one place
    resemble each other: counting rows instead of places would promise too much of new ones.

    Args:
        score: (n,) nonconformity, e.g. absolute error.
        group: (n,) place.
        level: of the coverage.

    Returns:
        The bound; infinite where K / (K + 1) < level (fewer than 9 places at 90 %).
    """
    weight = _even(group)
    groups = round(weight.sum())
    order = np.argsort(score, kind="stable")
    mass = np.cumsum(weight[order]) / (groups + 1)
    at = int(np.searchsorted(mass, level - 1e-12))
    return float(score[order[at]]) if at < len(score) else float("inf")


def fit_intervals(parts: Mapping[int, Residuals], level: float = LEVEL) -> Intervals:
    """Split conformal intervals on normalised residuals (Lei et al. 2018,
    doi:10.1080/01621459.2017.1307116, section 5.2) by place.

    Where there are too few places for the level, the widest error seen is taken. Fewer steps never
    have a narrower interval.

    Args:
        parts: residuals per number of valid steps kept; the line of the spread is taken at the
            largest.
        level: of the coverage.
    """
    line = spread_line(parts[max(parts)])
    widths: dict[int, float] = {}
    widest = 0.0
    for kept in sorted(parts, reverse=True):
        r = parts[kept]
        score = r.error / spread(line, r.value)
        bound = hierarchical_quantile(score, r.group, level)
        widest = max(widest, bound if np.isfinite(bound) else float(score.max()))
        widths[kept] = widest
    return Intervals(dict(sorted(widths.items())), line)


def spread_line(residuals: Residuals) -> tuple[float, float]:
    """Least-squares line of the absolute error over the predicted value, every place weighing the
    same, divided by the mean absolute error: 1 in the mean."""
    weight = _even(residuals.group)
    x, y = residuals.value, residuals.error
    mean_x, mean_y = np.average(x, weights=weight), np.average(y, weights=weight)
    variance = np.average((x - mean_x) ** 2, weights=weight)
    if mean_y <= 0 or variance <= 0:
        return 1.0, 0.0
    slope = np.average((x - mean_x) * (y - mean_y), weights=weight) / variance / mean_y
    return float(1 - slope * mean_x), float(slope)


def measure_coverage(
    parts: Mapping[int, Residuals], level: float = LEVEL
) -> dict[int, float]:
    """Share of each fold's targets within intervals of the other folds, mean over the places.

    Args:
        parts: residuals per number of valid steps kept.
        level: that the intervals are made for.

    Returns:
        Coverage per number of steps; empty where there is a single fold.
    """
    found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {kept: [] for kept in parts}
    for fold in np.unique(parts[max(parts)].fold):
        held = {k: r.take(r.fold == fold) for k, r in parts.items()}
        # a place of this fold is in other folds, too, where the folds are repeated with other seeds
        others = {k: r.take((r.fold != fold) & ~np.isin(r.group, held[k].group))
                  for k, r in parts.items()}
        if any(len(r.target) < FEWEST for r in others.values()):
            return {}
        intervals = fit_intervals(others, level)
        for kept, r in held.items():
            found[kept].append((intervals.covers(kept, r), r.group))
    return {
        kept: float(np.average(np.concatenate([hit for hit, _ in pairs]),
                               weights=_even(np.concatenate([group for _, group in pairs]))))
        for kept, pairs in found.items()
    }


def _even(group: np.ndarray) -> np.ndarray:
    """(n,) weights that sum to 1 in each group."""
    _, own, count = np.unique(group, return_inverse=True, return_counts=True)
    return 1 / count[own]
