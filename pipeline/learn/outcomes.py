"""Held-out predictions of all methods, and the scores that are taken over them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pipeline.learn.metrics import metric_name, score, scores
from pipeline.spec.tasks import Task

_NEARLY_ALL = 0.8  # share of the samples that makes two sensors' scores comparable as they are
FEWEST = 10  # held-out rows that a fold's score needs


@dataclass(frozen=True)
class Outcome:
    """Predictions of one method from one sensor in one split.

    Attributes:
        method, sensor: keys.
        split: number of the fold, counted over all seeds.
        rows: (n,) rows of the table.
        value: (n,) predicted class indices, or values in the task's unit.
        raw: (n, K) logits, or (n, 1) values in the task's unit.
        kept: valid steps that were left at most; 0 = all.
    """

    method: str
    sensor: str
    split: int
    rows: np.ndarray
    value: np.ndarray
    raw: np.ndarray
    kept: int = 0


@dataclass
class Evaluation:
    """All outcomes.

    Attributes:
        task, target, names: of the table.
        outcomes: of all methods.
        epochs: that the networks took, per method.
        index: per sensor, and for each split, the dissimilarity of held-out rows to the training
            rows (``learn.domain``), by the first method's network.
    """

    task: Task
    target: np.ndarray
    names: np.ndarray
    outcomes: list[Outcome] = field(default_factory=list)
    epochs: dict[str, list[int]] = field(default_factory=dict)
    index: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def of(self, method: str, sensor: str, kept: int = 0) -> list[Outcome]:
        """Outcomes of a method, in the order of the splits."""
        return [o for o in self.outcomes
                if (o.method, o.sensor, o.kept) == (method, sensor, kept)]

    def per_split(self, method: str, sensor: str, kept: int = 0,
                  among: np.ndarray | None = None) -> np.ndarray:
        """Score of each split, over all its rows or those of ``among`` ((N,) bool)."""
        values = []
        for o in self.of(method, sensor, kept):
            use = slice(None) if among is None else among[o.rows]
            target, value = self.target[o.rows[use]], o.value[use]
            if len(target) >= FEWEST:
                values.append(score(self.task, target, value))
        return np.array(values)

    def mean(self, method: str, sensor: str, kept: int = 0) -> tuple[float, float]:
        """Mean and standard deviation over the splits; NaN where there is none."""
        values = self.per_split(method, sensor, kept)
        if values.size == 0:
            return float("nan"), float("nan")
        return float(values.mean()), float(values.std(ddof=1) if values.size > 1 else 0.0)

    def advantage(self, method: str, sensor: str) -> float:
        """How much easier the sensor's own held-out samples are than everyone's.

        The other sensors' mean score on the samples that this one is scored on, less their mean
        score on all. Zero where this sensor is scored on (nearly) as many samples as any other.
        """
        rows = {s: np.unique(np.concatenate([o.rows for o in self.of(method, s)]))
                for s in {o.sensor for o in self.outcomes if o.method == method}}
        if len(rows[sensor]) > _NEARLY_ALL * max(map(len, rows.values())):
            return 0.0
        own = np.isin(np.arange(len(self.target)), rows[sensor])
        gains = [
            self.per_split(method, s, among=own).mean() - self.per_split(method, s).mean()
            for s in sorted(rows)
            if s != sensor and self.per_split(method, s, among=own).size
        ]
        return float(np.mean(gains)) if gains else 0.0

    def mean_of_last(self, method: str, sensor: str) -> float:
        """Score of the latest split; NaN where it has too few rows."""
        values = self.per_split(method, sensor)
        return float(values[-1]) if values.size else float("nan")

    def by_set(self, method: str, sensor: str) -> dict[str, dict[str, float]]:
        """All measures per set, predictions of all splits pooled; ``n`` counts samples once."""
        found = self.of(method, sensor)
        rows = np.concatenate([o.rows for o in found])
        value = np.concatenate([o.value for o in found])
        sets = {}
        for name in np.unique(self.names[rows]):
            mine = self.names[rows] == name
            if mine.sum() > 1:
                measures = scores(self.task, self.target[rows[mine]], value[mine])
                sets[str(name)] = {**measures, "n": float(len(np.unique(rows[mine])))}
        return sets

    @property
    def metric(self) -> str:
        return metric_name(self.task)

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(o.method for o in self.outcomes))
