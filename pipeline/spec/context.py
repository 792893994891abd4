"""Season and place: what a map knows everywhere, whichever sensor is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# Channels that may be appended to every step: is there an observation, and the season.
CONTEXT = ("valid", "month_sin", "month_cos")


# Layers that maps fetch, whatever the sensor: elevation model and land cover.
LAYERS = ("dem", "landcover")


@dataclass(frozen=True)
class PlaceFeature:
    """One static feature of a place, of the size of a map pixel.

    Attributes:
        name: key; ``samples.parquet`` has it as ``static_NAME``.
        unit: UDUNITS; 1 = share of the pixel, 0 to 1.
        layer: what it is computed from when mapping: ``dem``, ``landcover``, ``grid`` (the
            pixel's own place); empty = no map layer gives it, it is a column for training only.
    """

    name: str
    unit: str
    layer: str


# Groups that land-cover legends are brought to.
GROUPS = ("tree", "shrub", "herb", "crop", "built", "bare", "snow", "water", "wetland")

PLACE: dict[str, PlaceFeature] = {
    f.name: f
    for f in (
        PlaceFeature("elevation", "m", "dem"),
        PlaceFeature("slope", "degree", "dem"),
        PlaceFeature("canopy_height", "m", ""),
        *(PlaceFeature(group, "1", "landcover") for group in GROUPS),
        PlaceFeature("lon", "degree", "grid"),
        PlaceFeature("lat", "degree", "grid"),
    )
}

# Elevations that exist on land: the shore of the Dead Sea to Mount Everest, with some room. Fill
# values of digital elevation models lie far outside.
ELEVATION_M = (-500.0, 9000.0)

Legend = Mapping[int, Mapping[str, float]]  # code -> share of each group; no entry = unknown

# ESA WorldCover 10 m, v100 and v200: Zanaga et al. 2022, doi:10.5281/zenodo.7254221. Mangroves
# are trees; moss and lichen are low green cover, as herbs are.
WORLDCOVER: Legend = {
    10: {"tree": 1.0}, 20: {"shrub": 1.0}, 30: {"herb": 1.0}, 40: {"crop": 1.0},
    50: {"built": 1.0}, 60: {"bare": 1.0}, 70: {"snow": 1.0}, 80: {"water": 1.0},
    90: {"wetland": 1.0}, 95: {"tree": 1.0}, 100: {"herb": 1.0},
}

# GlobCover 2009, 300 m: Bontemps et al. 2011, Products Description and Validation Report, with the
# legend's own shares: a mosaic of 50-70 % and 20-50 % counts as 0.6 and 0.4, parts that it names
# together ("forest/shrubland") share alike. Sparse vegetation is bare, as in WorldCover's 60;
# flooded forest (160, 170) is tree, as in WorldCover's 95.
GLOBCOVER: Legend = {
    11: {"crop": 1.0}, 14: {"crop": 1.0},
    20: {"crop": 0.6, "tree": 0.4 / 3, "shrub": 0.4 / 3, "herb": 0.4 / 3},
    30: {"crop": 0.4, "tree": 0.2, "shrub": 0.2, "herb": 0.2},
    **{code: {"tree": 1.0} for code in (40, 50, 60, 70, 90, 100, 160, 170)},
    110: {"tree": 0.3, "shrub": 0.3, "herb": 0.4},
    120: {"tree": 0.2, "shrub": 0.2, "herb": 0.6},
    130: {"shrub": 1.0}, 140: {"herb": 1.0}, 150: {"bare": 1.0}, 180: {"wetland": 1.0},
    190: {"built": 1.0}, 200: {"bare": 1.0}, 210: {"water": 1.0}, 220: {"snow": 1.0},
}


def layers_needed(names: Iterable[str]) -> tuple[str, ...]:
    """Layers to fetch for these place features."""
    wanted = {PLACE[name].layer for name in names}
    return tuple(layer for layer in LAYERS if layer in wanted)
