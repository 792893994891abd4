"""The checkpoint's card: everything that must be known to use a model safely, as plain JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.spec.errors import BadRequest

# Version of units, masks, composite and features (pipeline/prep). Raise it whenever the same
# scene would give another model input: old checkpoints are then refused instead of misread.
FEATURE_PATH = "1"

CARD_SCHEMA = 1


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
        coverage_half_width: held-out 90 % quantile of the absolute error at that many valid
            steps, in the task's unit; empty for classification.
        temperature: softmax temperature, fitted on held-out predictions; 1 for regression.
        score, score_std: held-out score with all steps, mean and standard deviation over folds;
            None when it was not measured.
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

    def score_at(self, steps: float) -> float:
        """Expected score with that many valid steps (linear between the measured ones)."""
        return _interpolate(steps, self.coverage_steps, self.coverage_score)

    def half_width_at(self, steps: float) -> float:
        """Half-width of the 90 % interval with that many valid steps, in the task's unit."""
        return _interpolate(steps, self.coverage_steps, self.coverage_half_width)


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
            raise _bad("card.json is of another schema", got=str(got), allowed=str(CARD_SCHEMA))
        body = {k: v for k, v in raw.items() if k != "schema"}
        try:
            sensors = {k: SensorCard(**_tuples(v)) for k, v in body.pop("sensors").items()}
            card = cls(**_tuples(body), sensors=sensors)
        except (TypeError, KeyError, AttributeError) as error:
            raise _bad("card.json has missing or unknown fields", got=str(error)) from None
        if card.feature_path != FEATURE_PATH:
            raise _bad("the checkpoint is of another feature path", got=str(card.feature_path),
                       allowed=FEATURE_PATH)
        for key, s in card.sensors.items():
            _check_sensor(key, s)
        return card


def _check_sensor(key: str, s: SensorCard) -> None:
    n = len(s.features)
    if n == 0 or len(s.mean) != n or len(s.std) != n or not all(v > 0 for v in s.std):
        raise _bad(f"card.json: mean and std of {key} do not fit its {n} features",
                   got=f"{len(s.mean)} and {len(s.std)}")
    if not all(math.isfinite(v) for v in (*s.mean, *s.std)):
        raise _bad(f"card.json: mean or std of {key} is not finite")
    k = len(s.coverage_steps)
    if k == 0 or len(s.coverage_score) != k or len(s.coverage_half_width) not in (0, k):
        raise _bad(f"card.json: the coverage curve of {key} is incomplete", got=f"{k} steps")


def _bad(what: str, **kwargs: str) -> BadRequest:
    kwargs.setdefault("then", "train it again with python -m pipeline.train")
    return BadRequest(what, **kwargs)


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
