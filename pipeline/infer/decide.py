"""The plan meets the pixels: which sensor makes which pixel, once it is known what was clear."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from pipeline.infer.plan import PlanRow
from pipeline.spec.card import CheckpointCard
from pipeline.spec.sensors import SENSORS


def decide(
    row: PlanRow, inside: np.ndarray, card: CheckpointCard, min_steps: int,
    steps: Callable[[str], np.ndarray],
) -> dict[str, np.ndarray]:
    """Pixels of a tile that each sensor makes.

    The sensors of a cell are looked at in the plan's order. In an order that the user gave, a pixel
    takes the first with enough observations. Otherwise it goes on looking as long as what it has
    got is worth less than what the plan promises of the next one, and takes the best it has seen.
    Each pixel decides by its own observations: no tile size changes it.

    Args:
        row: of the plan.
        inside: [Y, X] bool, pixels of the area.
        card: its scores by number of steps say what observations are worth.
        min_steps: fewest steps with data that a sensor needs.
        steps: gives a sensor's [Y, X] steps with data; asked only for the sensors that are needed.

    Returns:
        [Y, X] bool by sensor key, disjoint; a pixel in none has no usable sensor.
    """
    left = inside.copy()
    best = np.full(inside.shape, -np.inf)
    taken = np.zeros(inside.shape, np.uint8)
    for rank in range(len(row.choices)):
        for choice in row.choices:
            wanted = left & row.where(choice.sensor, rank)
            if wanted.any():
                seen = steps(choice.sensor)
                worth = score_by_steps(card, choice.sensor)[seen]
                better = wanted & (seen >= min_steps) & (worth > best)
                taken[better] = SENSORS[choice.sensor].code
                best[better] = worth[better]
        left &= taken == 0 if row.mode == "order" else best < row.promised(rank + 1)
    made = {choice.sensor: taken == SENSORS[choice.sensor].code for choice in row.choices}
    return {key: mask for key, mask in made.items() if mask.any()}


def score_by_steps(card: CheckpointCard, sensor: str) -> np.ndarray:
    """[T + 1] expected score of a sensor with 0 to T steps with data."""
    return np.array([card.sensors[sensor].score_at(k) for k in range(card.steps + 1)])


def changes(
    row: PlanRow, inside: np.ndarray, made: Mapping[str, np.ndarray],
    steps: Mapping[str, np.ndarray],
) -> str:
    """Where another sensor was taken than planned, and what the planned one had; empty if nowhere.

    Args:
        row, inside: as in ``decide``.
        made: what it returned.
        steps: [Y, X] of the sensors that were looked at.
    """
    parts = []
    for planned in row.choices:
        first = inside & row.where(planned.sensor, 0)
        for key, mask in made.items():
            moved = first & mask
            if key != planned.sensor and moved.any():
                parts.append(
                    f"planned {planned.sensor}, took {key} for {int(moved.sum())} pixels: "
                    f"{steps[planned.sensor][moved].mean():.1f} of {planned.expected_steps:.1f} "
                    "expected steps clear")
    return "; ".join(parts)
