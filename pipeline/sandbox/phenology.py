"""Land covers and their year: double-logistic growth, senescence and litter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cycle:
    """One rise and fall of a cover fraction.

    Attributes:
        start, end: day of the year of the steepest rise and fall (start may be below 0: sown in
            the year before).
        up, down: steepness of rise and fall, 1/day.
        peak: amplitude, as a share of the ground.
    """

    start: float
    end: float
    up: float
    down: float
    peak: float


@dataclass(frozen=True)
class Cover:
    """One land cover.

    Attributes:
        name: as written into the points.
        cropland: True for temporary crops (the truth's class 1).
        green, dry: permanent share of the ground under green and dry vegetation.
        growth: cycles of green cover on top of ``green`` (the largest counts).
        litter: cycles of dry cover (ripe crop, stubble, leaf litter).
        kind: ``herb`` cures with the season, ``woody`` only loses water, ``bare`` is water or
            town; decides the fuel-moisture rule.
        wet, parched: fuel moisture of well-watered and of parched vegetation, percent.
        leaf_mass: dry leaf mass per area, g/cm2 (links fuel moisture to water thickness).
        dry_matter: dry mass of a closed green canopy, kg/m2 (links it to water content).
        volume: radar volume term, gamma0 of a closed canopy, VV and VH, linear.
        rough: adds to the bare-soil backscatter, dB.
        shade: share of the canopy in its own shadow.
        open: share of the radar signal that stems, trunks and walls let through, whatever the
            leaves hold.
    """

    name: str
    cropland: bool
    green: float
    dry: float
    growth: tuple[Cycle, ...]
    litter: tuple[Cycle, ...]
    kind: str
    wet: float
    parched: float
    leaf_mass: float
    dry_matter: float
    volume: tuple[float, float]
    rough: float = 0.0
    shade: float = 0.05
    open: float = 1.0


def _herb(name: str, cropland: bool, base: float, growth: tuple[Cycle, ...],
          litter: tuple[Cycle, ...], mass: float, volume: tuple[float, float],
          rough: float = 0.0, dry: float = 0.03) -> Cover:
    return Cover(name, cropland, base, dry, growth, litter, "herb", 230, 35, 0.005, mass, volume,
                 rough)


# Calendars are those of Provence, rounded; amplitudes and masses are typical textbook values.
COVERS: tuple[Cover, ...] = (
    _herb("winter cereal", True, 0.02,
          (Cycle(-30, 168, 0.06, 0.10, 0.30), Cycle(82, 168, 0.09, 0.10, 0.84)),
          (Cycle(168, 190, 0.10, 0.5, 0.70), Cycle(190, 265, 0.5, 0.06, 0.35)),
          0.85, (0.032, 0.008), 1.2),
    _herb("maize", True, 0.03, (Cycle(162, 262, 0.10, 0.10, 0.86),),
          (Cycle(262, 290, 0.10, 0.25, 0.60), Cycle(290, 340, 0.25, 0.05, 0.25)),
          1.30, (0.135, 0.038), 1.6),
    _herb("rapeseed", True, 0.02,
          (Cycle(-85, 165, 0.08, 0.10, 0.45), Cycle(70, 160, 0.09, 0.10, 0.86)),
          (Cycle(162, 188, 0.10, 0.5, 0.65), Cycle(188, 250, 0.5, 0.06, 0.25)),
          0.95, (0.120, 0.036), 1.2),
    _herb("sunflower", True, 0.03, (Cycle(146, 228, 0.10, 0.09, 0.78),),
          (Cycle(230, 262, 0.09, 0.5, 0.55), Cycle(262, 310, 0.5, 0.05, 0.20)),
          0.95, (0.125, 0.036), 1.6),
    # sown fodder: mown like a meadow, so that only its thin winter stand tells it apart
    _herb("alfalfa", True, 0.16,
          (Cycle(80, 142, 0.07, 0.6, 0.66), Cycle(158, 188, 0.11, 0.6, 0.58),
           Cycle(203, 238, 0.11, 0.6, 0.52), Cycle(252, 325, 0.08, 0.06, 0.46)),
          (Cycle(142, 156, 0.6, 0.2, 0.25), Cycle(188, 202, 0.6, 0.2, 0.25)),
          0.60, (0.075, 0.021), 0.6, 0.06),
    _herb("pasture", False, 0.34,
          (Cycle(75, 205, 0.06, 0.04, 0.44), Cycle(268, 345, 0.07, 0.05, 0.25)),
          (Cycle(190, 275, 0.05, 0.06, 0.38),), 0.40, (0.060, 0.015), -1.2, 0.10),
    _herb("hay meadow", False, 0.30,
          (Cycle(75, 150, 0.07, 0.6, 0.58), Cycle(170, 215, 0.10, 0.5, 0.42),
           Cycle(240, 320, 0.08, 0.05, 0.38)),
          (Cycle(150, 165, 0.6, 0.2, 0.35), Cycle(215, 238, 0.5, 0.15, 0.35)),
          0.50, (0.060, 0.015), -1.2, 0.08),
    # annual grasses that green and cure with the cereals
    _herb("dry grassland", False, 0.10,
          (Cycle(-45, 160, 0.05, 0.06, 0.30), Cycle(78, 160, 0.07, 0.07, 0.60)),
          (Cycle(160, 300, 0.07, 0.03, 0.55),), 0.35, (0.055, 0.014), -0.8, 0.14),
    Cover("vineyard", False, 0.08, 0.10, (Cycle(115, 298, 0.08, 0.10, 0.34),), (), "woody",
          190, 95, 0.008, 0.45, (0.190, 0.034), 2.8, 0.05, 0.50),
    Cover("lavender", False, 0.24, 0.10, (Cycle(110, 208, 0.06, 0.20, 0.30),),
          (Cycle(205, 300, 0.2, 0.05, 0.15),), "woody", 160, 65, 0.010, 0.45, (0.110, 0.030), 1.8,
          0.05, 0.55),
    Cover("deciduous forest", False, 0.12, 0.40, (Cycle(108, 305, 0.12, 0.10, 0.74),), (), "woody",
          180, 85, 0.008, 0.55, (0.165, 0.042), 1.5, 0.18, 0.35),
    Cover("evergreen forest", False, 0.74, 0.12, (Cycle(120, 280, 0.04, 0.04, 0.06),), (), "woody",
          140, 85, 0.016, 0.85, (0.170, 0.040), 1.5, 0.25, 0.35),
    Cover("shrubland", False, 0.44, 0.16, (Cycle(95, 215, 0.05, 0.03, 0.18),), (), "woody",
          150, 55, 0.013, 0.60, (0.125, 0.032), 0.8, 0.12, 0.50),
    Cover("water", False, 0.0, 0.0, (), (), "bare", 150, 55, 0.01, 0.0, (0.0, 0.0), 0.0, 0.0),
    Cover("built-up", False, 0.18, 0.04, (Cycle(105, 300, 0.08, 0.08, 0.10),), (), "bare",
          150, 55, 0.01, 0.3, (0.40, 0.075), 6.0, 0.10, 0.35),
    Cover("track", False, 0.10, 0.08, (), (), "bare", 150, 55, 0.01, 0.1, (0.05, 0.012), 0.0, 0.0),
)

COVER_CODE: dict[str, int] = {c.name: k for k, c in enumerate(COVERS)}
CROPLAND = np.array([c.cropland for c in COVERS])


def double_logistic(day: np.ndarray | float, cycle: Cycle, shift: np.ndarray | float = 0.0
                    ) -> np.ndarray:
    """Seasonal course of Beck et al. 2006, eq. 3 (doi:10.1016/j.rse.2005.10.021), between 0 and 1:
    ``1 / (1 + exp(-up (t - start))) + 1 / (1 + exp(down (t - end))) - 1``.

    Args:
        day: day of the year.
        cycle: its inflection days and rates (``peak`` is not applied).
        shift: days by which both inflections come later, broadcastable.
    """
    t = np.asarray(day, np.float64) - shift
    up = 1 / (1 + np.exp(-cycle.up * (t - cycle.start)))
    down = 1 / (1 + np.exp(cycle.down * (t - cycle.end)))
    return np.clip(up + down - 1, 0, 1)


def fraction(cycles: tuple[Cycle, ...], day: float, shift: np.ndarray) -> np.ndarray:
    """Cover fraction of the strongest cycle on a day of the year; every year is the same.

    Args:
        cycles: of a cover.
        day: day of the year, 1 to 366.
        shift: [N] days by which each field is late.

    Returns:
        [N] fraction, 0 without cycles.
    """
    best = np.zeros(np.shape(shift))
    for cycle in cycles:
        for lap in (-365, 0, 365):  # a cycle that spans New Year is seen from both sides
            best = np.maximum(best, cycle.peak * double_logistic(day + lap, cycle, shift))
    return best
