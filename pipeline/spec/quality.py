"""How far a pixel can be trusted: the rules behind ``quality.tif``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.spec.card import CheckpointCard
from pipeline.spec.layers import FEW, GOOD, LOW, UNLIKE
from pipeline.spec.tasks import Task

LOW_PERCENT = 70.0  # a class that is wrong more often than in three of ten cases
FEW_SHARE = 0.5  # of the timeline's steps
# The 90 % interval of a normal distribution is so many standard deviations wide to each side: a
# value whose interval is wider than the training targets' own says less than their mean.
GUESS = 1.645
NOT_COMPUTED = "not computed"


@dataclass(frozen=True)
class QualityRules:
    """Thresholds of the quality classes; the last rule that applies wins.

    Attributes:
        low: low confidence: the probability of the mapped class lies below so many percent, or the
            half-width of the interval above so many units.
        few: few observations: fewer steps with data than this.
        steps: of the timeline.
        domain: outside the training domain: dissimilarity index above this, per sensor; None where
            the checkpoint cannot tell, and no pixel is flagged by it.
        needy: sensors whose training always knew the place: where it is unknown, a pixel is
            outside the training domain, too (its index is infinite).
        classes: whether ``low`` is a probability.
        unit: of ``low``.
    """

    low: float
    few: int
    steps: int
    domain: Mapping[str, float | None]
    classes: bool
    unit: str
    needy: tuple[str, ...] = ()

    @classmethod
    def of(cls, task: Task, card: CheckpointCard) -> QualityRules:
        """Rules of a checkpoint's maps."""
        classes = task.kind == "classification"
        return cls(
            low=LOW_PERCENT if classes else round(GUESS * card.target_std, 1),
            few=int(np.ceil(FEW_SHARE * card.steps)), steps=card.steps,
            domain={key: s.domain_threshold for key, s in card.sensors.items()},
            classes=classes, unit="%" if classes else task.unit,
            needy=tuple(key for key, s in card.sensors.items() if s.place_needed),
        )

    def codes(
        self, sensor: str, confidence: np.ndarray, steps: np.ndarray, index: np.ndarray
    ) -> np.ndarray:
        """(P,) uint8 quality classes of pixels with a value.

        Args:
            sensor: that made them.
            confidence: (P,) percent, or half-width in the task's unit.
            steps: (P,) steps with data.
            index: (P,) dissimilarity index; NaN where it is not known.
        """
        found = np.full(confidence.shape, GOOD, np.uint8)
        found[confidence < self.low if self.classes else confidence > self.low] = LOW
        found[steps < self.few] = FEW
        found[self.outside(sensor, index)] = UNLIKE
        return found

    def outside(self, sensor: str, index: np.ndarray) -> np.ndarray:
        """(P,) bool: outside the sensor's training domain, of (P,) dissimilarity index: infinite
        where something was unknown that training always knew."""
        limit = self.domain[sensor]
        return np.isposinf(index) | (index > np.float32(np.inf if limit is None else limit))

    def to_json(self, sensors: Iterable[str]) -> dict[str, str]:
        """The rules in words, by quality class, for the sensors that a map may use."""
        what = ("probability of the mapped class below" if self.classes
                else "half-width of the 90 % interval above")
        limits = {key: self.domain[key] for key in sensors}
        known = ", ".join(f"{k} {v:.3g}" for k, v in limits.items() if v is not None)
        parts = [f"dissimilarity index above {known}"] if known else []
        if unknown := ", ".join(k for k, v in limits.items() if v is None):
            parts.append(f"{NOT_COMPUTED} for {unknown} (the checkpoint has no prototypes of its "
                         "training data)")
        if needy := ", ".join(k for k in limits if k in self.needy):
            parts.append(f"place unknown, for {needy}")
        return {
            "low confidence": f"{what} {self.low:g} {self.unit}",
            "few observations": f"fewer than {self.few} of {self.steps} steps with data",
            "outside the training domain": ", ".join(parts),
        }
