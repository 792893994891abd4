"""The state of the ground on a day: cover fractions, fuel moisture and the water in the leaves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np

from pipeline.sandbox.landscape import Ground
from pipeline.sandbox.phenology import COVER_CODE, COVERS, double_logistic, fraction
from pipeline.sandbox.phenology import Cycle as _Cycle
from pipeline.sandbox.weather import day_of_year, drought, wetness

_FLUSH = _Cycle(start=105, end=150, up=0.15, down=0.08, peak=1.0)  # young leaves are moist


@dataclass(frozen=True)
class Canopy:
    """The state of one grid on one day, [Y, X] float32 each.

    Attributes:
        green, dry, soil, paved, water: shares of the ground, summing to 1.
        shade: share of the pixel in its own shadow.
        lfmc: live fuel moisture content, percent of dry mass.
        thickness: equivalent water thickness of the leaves, cm.
        content: vegetation water content, kg/m2.
        moisture: volumetric moisture of the top soil, m3/m3.
    """

    green: np.ndarray
    dry: np.ndarray
    soil: np.ndarray
    paved: np.ndarray
    water: np.ndarray
    shade: np.ndarray
    lfmc: np.ndarray
    thickness: np.ndarray
    content: np.ndarray
    moisture: np.ndarray


def _table(name: str) -> np.ndarray:
    return np.array([getattr(c, name) for c in COVERS], np.float32)


_WET, _PARCHED, _LEAF, _MASS, _SHADE = (
    _table(n) for n in ("wet", "parched", "leaf_mass", "dry_matter", "shade"))
_HERB = np.array([c.kind == "herb" for c in COVERS])
_PAVED = {COVER_CODE["built-up"]: 0.85, COVER_CODE["track"]: 0.35}


def canopy(seed: int, ground: Ground, when: date) -> Canopy:
    """State of the ground on a day.

    Fuel moisture falls with the seasonal drought index, more on exposed sites; herbs also cure
    (their green share falls). It reaches the sensors by two published relations:

    * equivalent water thickness = LFMC / 100 x leaf mass per area (Danson & Bowyer 2004,
      doi:10.1016/j.rse.2004.03.017), which darkens the short-wave infrared;
    * vegetation water content = LFMC / 100 x green dry mass per ground area, the descriptor of
      the water cloud model (Attema & Ulaby 1978, doi:10.1029/RS013i002p00357).

    Args:
        seed: of the sandbox.
        ground: what does not change.
        when: the day.
    """
    doy = day_of_year(when)
    dryness = drought(seed, when)
    by_field = _fractions(ground, doy)
    at = ground.field
    green0, dry0 = by_field[0][at], by_field[1][at]  # (F,) -> (Y, X)
    c = ground.cover
    herb = _HERB[c]

    # water at the plants' disposal: 1 = plenty, 0 = none
    supply = np.clip(1 - dryness * (0.72 + 0.32 * ground.exposure), 0.02, 1).astype(np.float32)
    cured = np.where(herb, 1 - 0.35 * (1 - supply), np.float32(1))
    green = np.clip(green0 * ground.texture * cured, 0, 0.97)
    dry = np.clip(dry0 + (green0 - green).clip(0) * 0.7, 0, 1 - green)

    bare = 1 - green - dry
    water = (c == COVER_CODE["water"]).astype(np.float32)
    paved = bare * sum(np.float32(v) * (c == k) for k, v in _PAVED.items())
    soil = (bare - paved) * (1 - water)

    living = np.where(herb, (green + 0.04) / (green + dry + 0.06), np.float32(1))
    flush = np.float32(25 * double_logistic(doy, _FLUSH))
    lfmc = _PARCHED[c] + (_WET[c] - _PARCHED[c]) * supply * living + flush * (0.4 + 0.6 * supply)
    lfmc = np.clip(lfmc, 30, 260)
    moisture = 0.08 + 0.26 * wetness(seed, when) * (1 - 0.4 * dryness) - 0.018 * ground.exposure
    return Canopy(
        green=green, dry=dry, soil=soil, paved=paved.astype(np.float32), water=water,
        shade=_SHADE[c] * (green + 0.3 * dry), lfmc=lfmc,
        thickness=lfmc / 100 * _LEAF[c] * ground.leaf.astype(np.float32)[at],
        content=lfmc / 100 * _MASS[c] * green,
        moisture=np.clip(moisture, 0.04, 0.42).astype(np.float32),
    )


def _fractions(ground: Ground, doy: float) -> tuple[np.ndarray, np.ndarray]:
    """Green and dry share of each field, [F] float32, before drought."""
    green = np.zeros(ground.field_cover.shape)
    dry = np.zeros(ground.field_cover.shape)
    for code, cover in enumerate(COVERS):
        member = ground.field_cover == code
        # woods keep their own time: only farmed land varies with sowing and mowing dates
        shift = ground.shift[member] * (1.0 if cover.kind == "herb" else 0.3)
        green[member] = cover.green + fraction(cover.growth, doy, shift)
        dry[member] = cover.dry + fraction(cover.litter, doy, shift)
    green *= ground.vigour
    dry = np.minimum(dry, 1 - np.minimum(green, 0.97))
    return green.astype(np.float32), dry.astype(np.float32)
