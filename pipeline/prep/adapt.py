"""Level shifts that bring images of another radiometry to that of a checkpoint (``--adapt``).

A shift says by how much the median of the area differs from that of the training data. It
cannot tell a difference of radiometry from a difference of land cover, which is why it is small,
stated, and only made when asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.spec.card import SensorCard
from pipeline.spec.errors import DataTrouble
from pipeline.spec.sensors import Sensor

MOST_DB = 3.0
GAINS = (0.8, 1.25)


@dataclass(frozen=True)
class Shift:
    """One shift a band, of one sensor.

    Attributes:
        sensor: key.
        given: radiometry of the images.
        wanted: radiometry of the checkpoint.
        unit: ``dB`` (amounts are added) or ``1`` (amounts are gains of reflectance).
        amount: per band.
        observations: valid monthly values that it was estimated from.
    """

    sensor: str
    given: str
    wanted: str
    unit: str
    amount: Mapping[str, float]
    observations: int

    def apply(self, x: np.ndarray, bands: Sequence[str]) -> np.ndarray:
        """Shifted series, before any feature is computed from them.

        Args:
            x: [T, B, Y, X] float32, dB or reflectance, NaN for gaps.
            bands: name of each of the B bands; those without an amount are left as they are.
        """
        same = 0.0 if self.unit == "dB" else 1.0
        by_band = np.array([self.amount.get(b, same) for b in bands], np.float32)
        by_band = by_band[:, None, None]
        return x + by_band if self.unit == "dB" else x * by_band

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    def __str__(self) -> str:
        sign = "+.2f" if self.unit == "dB" else ".3f"
        by = ", ".join(f"{band} {amount:{sign}}" for band, amount in self.amount.items())
        return f"{self.given} to {self.wanted}, {by}" + (" dB" if self.unit == "dB" else " times")


def estimate(
    sensor: Sensor, given: str, card: SensorCard, values: Mapping[str, np.ndarray]
) -> Shift:
    """The shift from an area's median to that of the training data, band by band.

    Cards that do not say their median are taken by their mean.

    Args:
        sensor: of the images.
        given: their radiometry.
        card: of the checkpoint; bands that are none of its features are not shifted.
        values: per band, all valid monthly values of the area, dB or reflectance.

    Raises:
        DataTrouble: there is no value, or a shift is beyond its bounds: so much is no matter of
            radiometry.
    """
    amount, levels = {}, card.median or card.mean
    for band, found in values.items():
        if band not in card.features:
            continue
        if not found.size:
            raise DataTrouble(f"no valid {sensor.key} pixel to estimate a level shift from",
                              then="leave --adapt out, or try another --period or --sensor")
        level, middle = levels[card.features.index(band)], float(np.median(found))
        amount[band] = round(_amount(sensor, band, level, middle), 4)
    size = min((v.size for v in values.values()), default=0)
    return Shift(sensor.key, given, card.radiometry, sensor.unit, amount, size)


def _amount(sensor: Sensor, band: str, level: float, middle: float) -> float:
    """The shift of one band, within its bounds."""
    if sensor.unit == "dB":
        low, high, unit, amount = -MOST_DB, MOST_DB, "dB", level - middle
    else:
        low, high, unit = *GAINS, "times"
        amount = level / middle if middle > 0 else np.inf
    if not low <= amount <= high:
        raise DataTrouble(
            f"--adapt would have to shift {sensor.key} {band} by more than radiometries differ",
            got=f"{amount:.3g} {unit} (median of the area {middle:.3f}, of the training data "
                f"{level:.3f})", allowed=f"{low:g} to {high:g} {unit}",
            then="use another --catalog, or sample your training points from this one with "
                 "python -m pipeline.sample and train again")
    return float(amount)
