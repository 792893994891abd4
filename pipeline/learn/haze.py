"""Haze and offsets of reflectance, put into training inputs.

Both are added to the bands themselves, and indices are computed again: what is added to two bands
does not leave their normalised difference alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.prep.features import INDICES
from pipeline.spec.card import SensorCard
from pipeline.spec.sensors import SENSORS

HAZE = 0.03  # reflectance that the haziest step adds at the blue end
OFFSET = 0.01  # reflectance, common to all bands and steps of a sample: of another correction
S1_DB = 2.0  # of radar, common to a sample, in place of ``augment.S1_SHIFT_DB``

_BLUE_UM = 0.49
_MORE_UM = {"B01": 0.443, "B09": 0.945, "B10": 1.374}  # that benchmarks have, and maps do not need
_POWER = -2.0  # scattering of a clear atmosphere: Chavez 1988, doi:10.1016/0034-4257(88)90019-3


@dataclass(frozen=True)
class Haze:
    """What is added to one optical sensor's rows.

    Attributes:
        mean, std: (F,) normaliser of the features.
        share: (F,) of the haze that a band gets; 0 for indices.
        band: (F,) 1 for bands, 0 for indices.
        indices: of each index among the features: its place, and the places of the two bands of its
            normalised difference; whether it is multiplied by the first of them.
    """

    mean: Tensor
    std: Tensor
    share: Tensor
    band: Tensor
    indices: tuple[tuple[int, int, int, bool], ...]

    @classmethod
    def of(cls, sensor: str, card: SensorCard) -> Haze | None:
        """That of a sensor; None for radar, and where a feature is no band and stands
        without its bands."""
        known = SENSORS.get(sensor)
        if known is None or known.kind != "optical":
            return None
        um = {**_MORE_UM, **{b.name: b.wavelength_um for b in known.bands}}
        share = [(w / _BLUE_UM) ** _POWER if (w := um.get(f)) else 0.0 for f in card.features]
        found = []
        for k, name in enumerate(card.features):
            if name in um:
                continue
            pairs = INDICES[name][0] if name in INDICES else ()
            pair = next((p for p in pairs if set(p) <= set(card.features)), None)
            if pair is None:
                return None
            first, second = (card.features.index(b) for b in pair)
            found.append((k, first, second, name == "nirv"))
        band = [float(f in um) for f in card.features]
        mean, std, part, is_band = (torch.tensor(v, dtype=torch.float32)
                                    for v in (card.mean, card.std, share, band))
        return cls(mean, std, part, is_band, tuple(found))

    def __call__(self, z: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor:
        """Hazier features.

        Args:
            z: (N, T, F, ...) standardised.
            seen: (N, T) bool, valid steps; the others stay as they are.
            generator: of the amounts: a square of a uniform number at each step, since most
                observations are clear, and an offset of either sign for each sample.
        """
        n, steps, more = len(z), z.shape[1], [1] * (z.dim() - 2)
        haze = HAZE * torch.rand((n, steps, *more), generator=generator).square()
        off = OFFSET * (2 * torch.rand((n, 1, *more), generator=generator) - 1)
        mean, std, share, band = (v.to(z.device).view(-1, *more[1:]) for v in (
            self.mean, self.std, self.share, self.band))
        raw = z * std + mean + haze.to(z.device) * share + off.to(z.device) * band
        for place, first, second, times in self.indices:
            raw[:, :, place] = _difference(raw[:, :, first], raw[:, :, second], times)
        return torch.where(seen.view(n, steps, *more), (raw - mean) / std, z)


def _difference(a: Tensor, b: Tensor, times: bool) -> Tensor:
    """Normalised difference as in ``prep.features``, perhaps times its first band."""
    total = a + b
    safe = torch.where(total.abs() > 1e-6, total, torch.ones_like(total))
    value = torch.where(total.abs() > 1e-6, (a - b) / safe, torch.zeros_like(total)).clamp(-1, 1)
    return a * value if times else value
