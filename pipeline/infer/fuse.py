"""``--sensor all``: one prediction from those of all sensors that see a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.infer.decide import score_by_steps
from pipeline.infer.part import Part
from pipeline.spec.card import CheckpointCard
from pipeline.spec.layers import UNLIKE, sensor_code
from pipeline.spec.quality import QualityRules
from pipeline.spec.tasks import Task

_LEAST_WEIGHT = 0.05  # of a sensor that the card finds no better than chance
_LEAST_PROBABILITY = 1e-3  # no sensor alone proves that a class is not there


@dataclass(frozen=True)
class Fused:
    """What is written for P pixels: codes of the layers, [P] each.

    Attributes:
        value, confidence, quality, observations: of the layers of that name.
        sensor: code of the sensors that took part (``spec.layers.sensor_code``).
    """

    value: np.ndarray
    confidence: np.ndarray
    quality: np.ndarray
    sensor: np.ndarray
    observations: np.ndarray


def fuse(parts: Sequence[Part], task: Task, card: CheckpointCard, rules: QualityRules) -> Fused:
    """Fuse the predictions of several sensors; a pixel of one sensor is as from it alone.

    A sensor whose pixel lies outside its training domain is left out where another's does not.

    Args:
        parts: of the same P pixels; each pixel has a prediction in at least one of them.
        task: of the checkpoint.
        card: its scores or half-widths by number of steps are the weights.
        rules: of the quality classes.
    """
    has = np.stack([part.has for part in parts])  # (S, P)
    far = np.stack([rules.outside(part.sensor, part.index) for part in parts]) & has
    use = has & ~(far & (has & ~far).any(0))
    steps = np.where(use, np.stack([part.steps for part in parts]), 0).max(0)
    unknown = np.full(steps.shape, np.nan, np.float32)
    some = parts[0].sensor  # of the rules only the domain is a sensor's own: it is seen to below
    if task.classes:
        score = _log_pool(parts, use, card)
        value = np.array([c.code for c in task.classes], task.dtype)[score.argmax(0)]
        confidence = np.rint(100 * score.max(0)).astype(task.dtype)
        quality = rules.codes(some, confidence, steps, unknown)
    else:
        physical, width = _weigh(parts, use, task, card)
        value = np.rint(physical / task.scale).astype(task.dtype)
        confidence = np.clip(np.rint(width / task.scale), 0, task.nodata - 1).astype(task.dtype)
        quality = rules.codes(some, width, steps, unknown)
    quality[(far | ~use).all(0)] = UNLIKE
    count = np.where(use, np.stack([part.count for part in parts]), 0).sum(0)
    return Fused(value, confidence, quality, _codes(parts, use), count.astype(np.uint16))


def _log_pool(parts: Sequence[Part], use: np.ndarray, card: CheckpointCard) -> np.ndarray:
    """[K, P] float32 probabilities of the logarithmic opinion pool.

    Weighted means of log-probabilities, the weights of a pixel adding up to 1 (Genest & Zidek 1986,
    doi:10.1214/ss/1177013825). The sensors look at one field, so that their errors are related: a
    product of the probabilities (weights adding up to their number) would count the same evidence
    twice. A mean of the probabilities themselves would be too unsure of its choice (Ranjan &
    Gneiting 2010, doi:10.1111/j.1467-9868.2009.00726.x). A weight is what a vote of that
    reliability is worth among K classes, log(s / (1 - s)) + log(K - 1) (Zhu et al. 2009, algorithm
    2, doi:10.4310/SII.2009.v2.n3.a8), s = the card's score at the pixel's steps.
    """
    k = len(parts[0].score)
    weight = np.stack([_votes(card, part, k) for part in parts]) * use  # (S, P)
    weight /= weight.sum(0)
    logs = np.zeros((k, use.shape[1]))
    for part, w, used in zip(parts, weight, use, strict=True):
        logs += w * np.log(np.where(used, np.maximum(part.score, _LEAST_PROBABILITY), 1.0))
    pooled = np.exp(logs)
    pooled /= pooled.sum(0)
    for part, used in zip(parts, use, strict=True):
        alone = used & (use.sum(0) == 1)
        pooled[:, alone] = part.score[:, alone]
    return pooled.astype(np.float32)


def _votes(card: CheckpointCard, part: Part, classes: int) -> np.ndarray:
    """[P] weights of a sensor's probabilities."""
    score = np.clip(score_by_steps(card, part.sensor), 0.01, 0.99)
    worth = np.log(score / (1 - score)) + np.log(max(classes - 1, 1))
    return np.maximum(worth, _LEAST_WEIGHT)[part.steps]


def _weigh(
    parts: Sequence[Part], use: np.ndarray, task: Task, card: CheckpointCard
) -> tuple[np.ndarray, np.ndarray]:
    """[P] values in the task's unit, and [P] half-widths of their 90 % intervals.

    Weights are the inverse squares of the half-widths. The half-width of the mean is the mean of
    the half-widths: that is what fully related errors give, and the most that any can (Minkowski);
    how related the sensors' errors are is not on the card.
    """
    value = np.stack([np.clip(np.where(used, part.score[0], 0), *task.valid_range)
                      for part, used in zip(parts, use, strict=True)])
    width = np.stack([card.sensors[part.sensor].half_width(part.steps, v)
                      for part, v in zip(parts, value, strict=True)])
    weight = np.where(use, width ** -2.0, 0.0)
    weight /= weight.sum(0)
    return (weight * value).sum(0), (weight * width).sum(0)


def _codes(parts: Sequence[Part], use: np.ndarray) -> np.ndarray:
    """[P] uint8 codes of the sensors that took part."""
    codes = np.zeros(use.shape[1], np.uint8)
    for took in np.unique(use, axis=1).T:
        keys = [part.sensor for part, one in zip(parts, took, strict=True) if one]
        if keys:
            codes[(use == took[:, None]).all(0)] = sensor_code(keys)
    return codes
