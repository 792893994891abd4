"""Sentinel-1 acquisitions: water cloud model, speckle, borders."""

from __future__ import annotations

import math

import numpy as np

from pipeline.sandbox.canopy import Canopy
from pipeline.sandbox.landscape import Ground
from pipeline.sandbox.phenology import COVERS

LOOKS = 4.4  # equivalent number of looks of IW GRDH, as the items state it
NODATA = np.float32(-32768)

_ROUGH = np.array([c.rough for c in COVERS], np.float32)
_OPEN = np.array([c.open for c in COVERS], np.float32)
_VOLUME = np.array([c.volume for c in COVERS], np.float32)
# per polarisation: gamma0 of dry smooth soil (dB), its rise per moisture (dB), attenuation of
# the canopy per water content (m2/kg), gamma0 of calm water (dB)
_POL = {"vv": (0, -14.5, 22.0, 0.40, -20.0), "vh": (1, -22.5, 16.0, 0.36, -27.0)}


def backscatter(
    ground: Ground, state: Canopy, pol: str, incidence: float, wind: float
) -> np.ndarray:
    """gamma0 without speckle, linear power, [Y, X] float32.

    Water cloud model of Attema & Ulaby 1978 (doi:10.1029/RS013i002p00357):
    ``volume * (1 - t) + soil * t`` with the two-way transmissivity
    ``t = exp(-2 B W / cos(incidence))``, W the vegetation water content. Soil backscatter rises
    linearly in dB with moisture (Ulaby et al. 1978, doi:10.1109/TGE.1978.294586).

    Args:
        ground, state: of the grid.
        pol: ``vv`` or ``vh``.
        incidence: degrees.
        wind: brightens water, dB.
    """
    k, dry_db, slope, attenuation, water_db = _POL[pol]
    cos = math.cos(math.radians(incidence))
    rough = _ROUGH[ground.cover] + ground.roughness.astype(np.float32)[ground.field]
    # gamma0 = sigma0 / cos: steeper views see brighter soil
    soil_db = dry_db + slope * state.moisture + rough - 0.12 * (incidence - 38)
    standing = state.green + 0.25 * state.dry
    through = np.exp(np.float32(-2 * attenuation / cos) * (state.content + 0.25 * state.dry))
    through = through * _OPEN[ground.cover]
    volume = _VOLUME[ground.cover, k] * (0.55 + 0.45 * standing)
    land = volume * (1 - through) + through * np.float32(10) ** (soil_db / 10)
    calm = np.float32(10 ** ((water_db + wind) / 10))
    return np.where(state.water > 0.5, calm, land).astype(np.float32)


def speckle(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Multiplicative speckle: gamma distributed, mean 1, variance 1 / ``LOOKS`` (Ulaby et al.
    1986, Microwave Remote Sensing III, ch. 21)."""
    return rng.standard_gamma(LOOKS, shape, dtype=np.float32) / np.float32(LOOKS)
