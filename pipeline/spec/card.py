"""The checkpoint's card: everything that must be known to use a model safely, as plain JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.spec.card_checks import bad_card, check_card, oversized
from pipeline.spec.context import CONTEXT
from pipeline.spec.typed import misfit

# Version of units, masks, composite and features (pipeline/prep). Raise it whenever the same
# scene would give another model input: old checkpoints are then refused instead of misread.
FEATURE_PATH = "1"

CARD_SCHEMA = 1

LEAST_SPREAD = 0.3


@dataclass(frozen=True)
class SensorCard:
    """What a checkpoint knows of one sensor.

    Attributes:
        features: names, in the order of the model's input.
        mean, std: normaliser per feature, from the training rows only.
        radiometry: what the training data was (``Source.radiometry``).
        accepts: radiometries that mapping may use (the first is ``radiometry``; others only when
            training covered the difference, see ``notes``).
        coverage_steps: numbers of valid steps that the next three lists are given at, ascending.
        coverage_score: held-out score with at most that many valid steps (weighted F1 or R2),
            brought to one footing where a sensor was scored on easier samples than the others:
            what ``auto`` compares.
        coverage_half_width: half-width of the 90 % interval at that many valid steps where
            ``interval_spread`` is 1, in the task's unit; empty for classification.
        interval_spread: (a, b): the half-width is a + b times the predicted value as wide
            (``spread``), since a value's error may grow with it.
        interval_coverage: share of held-out values, with all steps, within intervals that were
            taken from the other folds, mean over the places; None when it was not measured.
        temperature: softmax temperature, fitted on rows that neither the network learned from nor
            a score was taken over; 1 for regression.
        ece: expected calibration error of the held-out probabilities before and after that
            temperature; None when it was not measured.
        domain_threshold: dissimilarity index (``models.domain``) above which an input lies outside
            the training domain; None where the checkpoint has no prototypes of the sensor.
        score, score_std: held-out score with all steps, mean and standard deviation over folds;
            None when it was not measured.
        context: channels beside the features at every step, of ``spec.context.CONTEXT``; none are
            the paper's inputs.
        static: place features (``spec.context``) repeated at every step after the context, in the
            order of the input; followed by one channel that says whether they are known.
        static_mean, static_std: their normaliser.
        median: per feature that of the training rows, what ``--adapt`` levels an area to (clouds
            that slipped through move the mean); empty on older cards.
        place_needed: every training sample knew its place: a pixel of which it is unknown is
            outside the training domain.
    """

    features: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    radiometry: str
    accepts: tuple[str, ...]
    coverage_steps: tuple[int, ...]
    coverage_score: tuple[float, ...]
    coverage_half_width: tuple[float, ...] = ()
    temperature: float = 1.0
    score: float | None = None
    score_std: float | None = None
    interval_spread: tuple[float, float] = (1.0, 0.0)
    interval_coverage: float | None = None
    ece: tuple[float, float] | None = None
    domain_threshold: float | None = None
    context: tuple[str, ...] = CONTEXT
    static: tuple[str, ...] = ()
    static_mean: tuple[float, ...] = ()
    static_std: tuple[float, ...] = ()
    median: tuple[float, ...] = ()
    place_needed: bool = False

    @property
    def channels(self) -> int:
        """Channels of the model input."""
        place = len(self.static) + 1 if self.static else 0
        return len(self.features) + len(self.context) + place

    def score_at(self, steps: float) -> float:
        """Expected score with that many valid steps (linear between the measured ones)."""
        return _interpolate(steps, self.coverage_steps, self.coverage_score)

    def half_width_at(self, steps: float) -> float:
        """Half-width of the 90 % interval with that many valid steps where the spread is 1, in the
        task's unit."""
        return _interpolate(steps, self.coverage_steps, self.coverage_half_width)

    def half_width(self, steps: np.ndarray, value: np.ndarray) -> np.ndarray:
        """(N,) half-widths of the 90 % intervals around predicted values, in the task's unit.

        Args:
            steps: (N,) whole numbers of valid steps.
            value: (N,) predictions.
        """
        by_steps = np.array([self.half_width_at(k) for k in range(int(steps.max(initial=0)) + 1)])
        return by_steps[steps] * spread(self.interval_spread, value)


def spread(line: tuple[float, float], value: np.ndarray) -> np.ndarray:
    """How much wider the intervals are at a value than in the mean: a + b value, at least
    ``LEAST_SPREAD``, so that no prediction far off the line is given as certain."""
    return np.maximum(line[0] + line[1] * np.asarray(value, np.float64), LEAST_SPREAD)


@dataclass(frozen=True)
class CheckpointCard:
    """A checkpoint's card (``card.json`` beside ``model.safetensors``).

    Attributes:
        name: of the checkpoint.
        task: task key.
        method, encoder: registry keys of ``models``.
        options: arguments that build the encoder and method (widths, feature size ...).
        feature_path: ``FEATURE_PATH`` at training time.
        steps: monthly steps of the timeline.
        sensors: per sensor key.
        metric: what ``score`` is, e.g. ``weighted F1``.
        protocol: split, folds, seeds and stopping, in words.
        baselines: name -> sensor -> score in the same folds.
        data: the sample sets: name, rows, licence, radiometry.
        target_mean, target_std: scaling of a regression target (0 and 1 for classes).
        commit, created: of the code and the run.
        notes: what a user must know, one sentence each.
        teacher: of a student (a small network that learned from another checkpoint): the other's
            ``name`` and ``sha256``, and per sensor ``flops``, the nominal operations a pixel of
            the other and of this one; else empty.
        sha256: of ``model.safetensors``.
    """

    name: str
    task: str
    method: str
    encoder: str
    options: Mapping[str, Any]
    feature_path: str
    steps: int
    sensors: Mapping[str, SensorCard]
    metric: str
    protocol: str
    baselines: Mapping[str, Mapping[str, float]]
    data: tuple[Mapping[str, Any], ...]
    sha256: str
    target_mean: float = 0.0
    target_std: float = 1.0
    commit: str = ""
    created: str = ""
    notes: tuple[str, ...] = field(default=())
    teacher: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON object, with the schema's version."""
        return {"schema": CARD_SCHEMA, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, raw: Any) -> CheckpointCard:
        """Card of a JSON object.

        Raises:
            BadRequest: another schema or feature path, fields missing, unknown or inconsistent.
        """
        if not isinstance(raw, dict) or raw.get("schema") != CARD_SCHEMA:
            got = raw.get("schema") if isinstance(raw, dict) else type(raw).__name__
            raise bad_card("card.json is of another schema", got=str(got), allowed=str(CARD_SCHEMA))
        body = {k: v for k, v in raw.items() if k != "schema"}
        try:
            sensors = {k: SensorCard(**_tuples(v)) for k, v in body.pop("sensors").items()}
            card = cls(**_tuples(body), sensors=sensors)
        except (TypeError, KeyError, AttributeError) as error:
            raise bad_card("card.json has missing or unknown fields", got=str(error)) from None
        if wrong := misfit(card, cls) or oversized(card.options):
            raise bad_card("card.json has a field of another kind", got=wrong)
        if card.feature_path != FEATURE_PATH:
            raise bad_card("the checkpoint is of another feature path",
                           got=str(card.feature_path), allowed=FEATURE_PATH)
        check_card(card)
        return card


def _tuples(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}


def _interpolate(at: float, xs: tuple[int, ...], ys: tuple[float, ...]) -> float:
    if not ys:
        return math.nan
    if at <= xs[0]:
        return ys[0]
    for (x0, y0), (x1, y1) in zip(zip(xs, ys, strict=True), zip(xs[1:], ys[1:], strict=True),
                                  strict=False):
        if at <= x1:
            return y0 + (y1 - y0) * (at - x0) / (x1 - x0)
    return ys[-1]
