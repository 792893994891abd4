"""Sensors and their bands. A sensor's key is one string from the command line to the COG's tag."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.spec.errors import BadRequest


@dataclass(frozen=True)
class Band:
    """One band, in the unit that a cube carries it in.

    Attributes:
        name: canonical name, the column of sample tables and the ``band`` coordinate of cubes.
        common_name: STAC ``eo:common_name`` or polarisation.
        resolution_m: native pixel size, metres.
        wavelength_um: centre wavelength in micrometres; None for radar.
    """

    name: str
    common_name: str
    resolution_m: int
    wavelength_um: float | None = None


@dataclass(frozen=True)
class Sensor:
    """A satellite sensor as the models know it.

    Attributes:
        key: ``s1``, ``s2`` or ``l8``.
        code: value of the sensor in ``sensor.tif`` (0 is kept for "none").
        title: human-readable name.
        kind: decides the composite: ``optical`` = median of clear observations of reflectance,
            ``sar`` = mean in linear power, then decibel.
        unit: unit of a composited cube: ``1`` (reflectance) or ``dB``.
        bands: in the order of a cube's band axis.
    """

    key: str
    code: int
    title: str
    kind: Literal["sar", "optical"]
    unit: str
    bands: tuple[Band, ...]

    @property
    def band_names(self) -> tuple[str, ...]:
        return tuple(b.name for b in self.bands)


S1 = Sensor(
    "s1", 1, "Sentinel-1 C-SAR", "sar", "dB", (Band("vv", "VV", 10), Band("vh", "VH", 10))
)

# Centre wavelengths of Sentinel-2A: ESA Sentinel-2 Spectral Response Functions (S2-SRF) v3.1.
S2 = Sensor(
    "s2",
    2,
    "Sentinel-2 MSI",
    "optical",
    "1",
    (
        Band("B02", "blue", 10, 0.492),
        Band("B03", "green", 10, 0.560),
        Band("B04", "red", 10, 0.665),
        Band("B05", "rededge1", 20, 0.704),
        Band("B06", "rededge2", 20, 0.741),
        Band("B07", "rededge3", 20, 0.783),
        Band("B08", "nir", 10, 0.833),
        Band("B8A", "nir08", 20, 0.865),
        Band("B11", "swir16", 20, 1.614),
        Band("B12", "swir22", 20, 2.202),
    ),
)

# Landsat 8 and 9 carry the same OLI band passes (USGS Landsat 8 Data Users Handbook, LSDS-1574).
L8 = Sensor(
    "l8",
    3,
    "Landsat 8/9 OLI",
    "optical",
    "1",
    (
        Band("blue", "blue", 30, 0.482),
        Band("green", "green", 30, 0.561),
        Band("red", "red", 30, 0.655),
        Band("nir", "nir08", 30, 0.865),
        Band("swir16", "swir16", 30, 1.609),
        Band("swir22", "swir22", 30, 2.201),
    ),
)

SENSORS: dict[str, Sensor] = {s.key: s for s in (S1, S2, L8)}


def sensor(key: str) -> Sensor:
    """The sensor of that key.

    Raises:
        BadRequest: no such sensor; the message lists the valid keys.
    """
    try:
        return SENSORS[key]
    except KeyError:
        raise BadRequest(
            "unknown sensor", got=key, allowed=", ".join(SENSORS), then="try --sensor s1"
        ) from None
