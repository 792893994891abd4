"""Endmember spectra and band passes: what a patch of leaf, straw, soil, water or town reflects.

The curves are rounded, typical values: leaves without their water (as PROSPECT gives them,
Jacquemoud & Baret 1990, doi:10.1016/0034-4257(90)90100-Z), straw, a bright loam, river water and
mixed roofs and asphalt in the range of the USGS spectral library (Kokaly et al. 2017,
doi:10.3133/ds1035). Band passes are box-shaped, at the sensors' true centres and widths.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.sandbox.canopy import Canopy
from pipeline.sandbox.landscape import Ground

_KNOTS_UM = np.array([0.44, 0.49, 0.53, 0.56, 0.60, 0.65, 0.68, 0.70, 0.72, 0.74, 0.78, 0.86,
                      1.00, 1.30, 1.61, 1.80, 2.10, 2.20, 2.32])
_CURVES: dict[str, list[float]] = {
    "green": [.032, .036, .075, .098, .068, .042, .034, .080, .225, .360, .455, .485,
              .490, .480, .445, .430, .370, .340, .300],
    "dry": [.095, .125, .155, .180, .210, .250, .265, .275, .290, .305, .325, .360,
            .400, .430, .420, .410, .320, .300, .280],
    "soil": [.095, .125, .155, .175, .205, .235, .248, .256, .264, .272, .290, .318,
             .350, .390, .405, .405, .375, .360, .330],
    "water": [.045, .052, .058, .055, .042, .030, .026, .022, .016, .013, .012, .010,
              .005, .003, .002, .002, .002, .002, .002],
    "paved": [.125, .145, .155, .165, .180, .195, .200, .203, .207, .210, .218, .235,
              .250, .265, .272, .272, .265, .260, .250],
}
# Absorption coefficient of liquid water, 1/cm (Hale & Querry 1973, doi:10.1364/AO.12.000555)
_WATER_UM = np.array([0.44, 0.70, 0.86, 0.95, 1.00, 1.10, 1.20, 1.30, 1.61, 1.80, 2.10, 2.20, 2.32])
_WATER_CM = np.array([0.0, 0.006, 0.05, 0.39, 0.36, 0.19, 1.05, 1.1, 6.7, 8.0, 22.0, 16.5, 24.0])
# Light crosses the leaves of a closed canopy several times before it leaves it.
_PATH = 5.0

# Sensor -> band -> (centre, full width at half maximum), micrometres.
BAND_PASS: dict[str, dict[str, tuple[float, float]]] = {
    "s2": {"B02": (0.492, 0.066), "B03": (0.560, 0.036), "B04": (0.665, 0.031),
           "B05": (0.704, 0.015), "B06": (0.741, 0.015), "B07": (0.783, 0.020),
           "B08": (0.833, 0.106), "B8A": (0.865, 0.021), "B11": (1.614, 0.091),
           "B12": (2.202, 0.175)},
    "l8": {"blue": (0.482, 0.060), "green": (0.561, 0.057), "red": (0.655, 0.037),
           "nir": (0.865, 0.028), "swir16": (1.609, 0.085), "swir22": (2.201, 0.187)},
}


def band_mean(centre: float, width: float, knots: np.ndarray, curve: np.ndarray) -> float:
    """Mean of a curve over a box-shaped band pass (micrometres)."""
    at = np.linspace(centre - width / 2, centre + width / 2, 21)
    return float(np.interp(at, knots, curve).mean())


def endmembers(centre: float, width: float) -> Mapping[str, float]:
    """Reflectance of each endmember in a band."""
    return {k: band_mean(centre, width, _KNOTS_UM, np.array(v)) for k, v in _CURVES.items()}


def surface(ground: Ground, state: Canopy, sensor: str, band: str) -> np.ndarray:
    """Surface reflectance of the mixture in one band, [Y, X] float32.

    Leaves: ``rho_dry * exp(-absorption * path * thickness)``, the exponential law of Ceccato et
    al. 2001 (doi:10.1016/S0034-4257(01)00191-2), which is what NDWI (Gao 1996,
    doi:10.1016/S0034-4257(96)00067-3) responds to. Soil: wet soil is about half as bright (Lobell
    & Asner 2002, doi:10.2136/sssaj2002.7220).

    Args:
        ground, state: of the same grid.
        sensor: ``s2`` or ``l8``.
        band: canonical band name.
    """
    centre, width = BAND_PASS[sensor][band]
    rho = endmembers(centre, width)
    absorb = band_mean(centre, width, _WATER_UM, _WATER_CM)
    leaf = np.float32(rho["green"]) * np.exp(np.float32(-absorb * _PATH) * state.thickness)
    if centre < 0.73:  # pigments act up to the red edge
        leaf = leaf * ground.chlorophyll.astype(np.float32)[ground.field]
    soil = ground.soil.astype(np.float32)[ground.field]
    soil = soil * (1 - np.float32(1.3) * state.moisture) * np.float32(1.08 * rho["soil"])
    lit = 1 - np.float32(0.8) * state.shade
    mixture = (state.green * leaf + state.dry * np.float32(rho["dry"]) + state.soil * soil
               + state.paved * np.float32(rho["paved"]))
    return lit * mixture + state.water * np.float32(rho["water"])
