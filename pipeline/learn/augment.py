"""What training does to its inputs: lost observations and common level shifts.

Both act on the model input (z-scores), which is what a changed observation would have become.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.learn.haze import S1_DB, Haze
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


@dataclass(frozen=True)
class Layout:
    """Where the channels of a sensor's model input lie (``prep.features.model_input``).

    Attributes:
        features: F; channels 0..F-1 are the z-scored features.
        valid: channel that says whether the step is valid; None where the card has none.
        static: first channel of the place features; None where there are none.
    """

    features: int
    valid: int | None
    static: int | None

    @classmethod
    def of(cls, card: SensorCard) -> Layout:
        """Layout of a card's model input."""
        f = len(card.features)
        valid = f + card.context.index("valid") if "valid" in card.context else None
        return cls(f, valid, f + len(card.context) if card.static else None)


def thin(
    x: Tensor, seen: Tensor, layout: Layout, count: Tensor, generator: torch.Generator
) -> Tensor:
    """Keep at most ``count`` random valid steps of each row; the others become gaps.

    Args:
        x: (N, T, C) model input.
        seen: (N, T) bool, valid steps.
        layout: of the channels.
        count: (N,) steps to keep.
        generator: of the random choice.
    """
    noise = _uniform(seen.shape, generator, x) + seen  # valid steps rank first
    rank = noise.argsort(1, descending=True).argsort(1)
    return _gaps(x, seen & (rank < count.to(x.device)[:, None]), layout)


def _uniform(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    """Random numbers in [0, 1), drawn on the CPU: the same ones whatever device trains."""
    return torch.rand(shape, generator=generator).to(like.device)


def _gaps(x: Tensor, keep: Tensor, layout: Layout) -> Tensor:
    """Model input with the steps outside ``keep`` ((N, T) bool) as gaps."""
    x = x.clone()
    x[:, :, : layout.features] *= _as(keep, x)
    if layout.valid is not None:
        x[:, :, layout.valid] = keep.to(x.dtype).view(*keep.shape, *[1] * (x.dim() - 3))
    return x


def _as(keep: Tensor, x: Tensor) -> Tensor:
    """(N, T) -> (N, T, 1, ...): one value for all channels, and pixels of an image."""
    return keep.view(*keep.shape, *[1] * (x.dim() - 2))


@dataclass(frozen=True)
class Augmentation:
    """Random changes of one sensor's training rows.

    Attributes:
        layout: of the channels.
        drop: share of the rows that lose observations; such a row keeps a uniformly drawn number
            of its valid steps, at least one.
        hide: share of the rows whose place features are withheld, so that a map without them works.
        blur: standard deviation of the noise on each z-scored place feature: places are few, and
            a network would learn them by heart.
        shift, gain: (F,) z' = z + shift * u and z' = z + (z + offset) * gain * u, with u uniform
            in [-1, 1], one for the whole row: a common level, not noise.
        offset: (F,) mean / std.
        haze: of an optical sensor, if it is switched on.
    """

    layout: Layout
    drop: float
    hide: float
    blur: float
    shift: Tensor
    gain: Tensor
    offset: Tensor
    haze: Haze | None = None

    @classmethod
    def of(
        cls, sensor: str, card: SensorCard, *, drop: float, jitter: bool, hide: float = 0.0,
        blur: float = 0.0, haze: bool = False,
    ) -> Augmentation:
        """Augmentation of a sensor; ``jitter`` switches the level shifts, ``haze`` wider ones."""
        free = torch.tensor([float(f not in _UNMOVED) for f in card.features])
        moved = free * jitter
        std, mean = torch.tensor(card.std), torch.tensor(card.mean)
        sar = sensor in SENSORS and SENSORS[sensor].kind == "sar"
        none = torch.zeros_like(moved)
        return cls(
            Layout.of(card), drop, hide if card.static else 0.0,
            blur if card.static else 0.0,
            shift=(free * S1_DB if haze else moved * S1_SHIFT_DB) / std if sar else none,
            gain=none if sar else moved * OPTICAL_GAIN,
            offset=mean / std,
            haze=Haze.of(sensor, card) if haze else None,
        )

    def __call__(self, x: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
        """(N, T, C, ...) and valid steps (N, T) -> (N, T, C, ...); gaps stay gaps."""
        n, f = len(x), self.layout.features
        if self.haze is not None:
            x = torch.cat([self.haze(x[:, :, :f], seen, generator), x[:, :, f:]], dim=2)
        if self.shift.any() or self.gain.any():
            u = 2 * _uniform((n, *[1] * (x.dim() - 1)), generator, x) - 1
            shift, offset, gain = (v.to(x.device).view(f, *[1] * (x.dim() - 3))
                                   for v in (self.shift, self.offset, self.gain))
            z = x[:, :, :f]
            z = (z + u * (shift + (z + offset) * gain)) * _as(seen, x)
            x = torch.cat([z, x[:, :, f:]], dim=2)
        if self.drop > 0:
            steps = seen.sum(1)
            fewer = 1 + torch.floor(_uniform((n,), generator, x) * steps)
            lose = _uniform((n,), generator, x) < self.drop
            x = thin(x, seen, self.layout, torch.where(lose, fewer, steps), generator)
        if self.blur > 0:
            x = x.clone()
            place = x[:, :, self.layout.static : -1]  # the last channel: known or not
            noise = torch.randn((n, 1, *place.shape[2:3], *[1] * (x.dim() - 3)),
                                generator=generator).to(x.device)
            place += self.blur * noise * x[:, :, -1:]
        if self.hide > 0:
            x = x.clone()
            hidden = _uniform((n,), generator, x) < self.hide
            x[hidden, :, self.layout.static :] = 0
        return x


def augmentations(
    cards: Mapping[str, SensorCard], *, drop: float, jitter: bool, hide: float = 0.0,
    blur: float = 0.0, haze: bool = False,
) -> dict[str, Augmentation]:
    """One augmentation a sensor."""
    return {k: Augmentation.of(k, c, drop=drop, jitter=jitter, hide=hide, blur=blur,
                               haze=haze)
            for k, c in cards.items()}
