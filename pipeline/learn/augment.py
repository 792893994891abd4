"""What training does to its inputs: lost observations and common level shifts.

Both act on the model input (z-scores), which is what a changed observation would have become.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.spec.card import SensorCard
from pipeline.spec.sensors import SENSORS

S1_SHIFT_DB = 1.5  # covers gamma0 against sigma0: 10 log10(cos(incidence)), 0.6 to 1.6 dB
OPTICAL_GAIN = 0.05  # covers Landsat Collection 1 against 2, and atmospheric correction

# A common shift in decibels or a common gain leaves differences and normalised differences alone.
_UNMOVED = ("vh_vv", "ndvi", "ndwi")

# Radiometries that differ by no more than the level jitter.
COVERED = {
    "sigma0": ("gamma0-rtc",),
    "gamma0-rtc": ("sigma0",),
    "landsat-c1-sr": ("landsat-c2-sr",),
    "landsat-c2-sr": ("landsat-c1-sr",),
}


def thin(x: Tensor, features: int, count: Tensor, generator: torch.Generator) -> Tensor:
    """Keep at most ``count`` random valid steps of each row; the others become gaps.

    Args:
        x: (N, T, C) model input.
        features: F; channel F says whether the step is valid.
        count: (N,) steps to keep.
        generator: of the random choice.
    """
    valid = x[..., features]  # (N, T)
    noise = torch.rand(valid.shape, generator=generator) + valid  # valid steps rank first
    rank = noise.argsort(1, descending=True).argsort(1)
    keep = valid * (rank < count[:, None])
    return torch.cat([x[..., :features] * keep[..., None], keep[..., None],
                      x[..., features + 1 :]], dim=-1)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of one sensor's training rows.

    Attributes:
        features: F.
        drop: share of the rows that lose observations; such a row keeps a uniformly drawn number
            of its valid steps, at least one.
        shift, gain: (F,) z' = z + shift * u and z' = z + (z + offset) * gain * u, with u uniform
            in [-1, 1], one for the whole row: a common level, not noise.
        offset: (F,) mean / std.
    """

    features: int
    drop: float
    shift: Tensor
    gain: Tensor
    offset: Tensor

    @classmethod
    def of(cls, sensor: str, card: SensorCard, *, drop: float, jitter: bool) -> Augmentation:
        """Augmentation of a sensor; ``jitter`` switches the level shifts."""
        moved = torch.tensor([float(jitter and f not in _UNMOVED) for f in card.features])
        std, mean = torch.tensor(card.std), torch.tensor(card.mean)
        sar = SENSORS[sensor].kind == "sar"
        none = torch.zeros_like(moved)
        return cls(
            len(card.features), drop,
            shift=moved * S1_SHIFT_DB / std if sar else none,
            gain=none if sar else moved * OPTICAL_GAIN,
            offset=mean / std,
        )

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """(N, T, C) -> (N, T, C); gaps stay gaps."""
        n, f = len(x), self.features
        u = 2 * torch.rand((n, 1, 1), generator=generator) - 1
        z, valid = x[..., :f], x[..., f : f + 1]
        z = (z + u * (self.shift + (z + self.offset) * self.gain)) * valid
        x = torch.cat([z, x[..., f:]], dim=-1)
        if self.drop == 0:
            return x
        steps = valid.sum((1, 2))
        fewer = 1 + torch.floor(torch.rand(n, generator=generator) * steps)
        lose = torch.rand(n, generator=generator) < self.drop
        return thin(x, f, torch.where(lose, fewer, steps), generator)


def augmentations(
    cards: Mapping[str, SensorCard], *, drop: float, jitter: bool
) -> dict[str, Augmentation]:
    """One augmentation a sensor."""
    return {k: Augmentation.of(k, c, drop=drop, jitter=jitter) for k, c in cards.items()}
