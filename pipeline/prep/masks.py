"""Quality bands -> clear pixels. Quality bands are only ever resampled by nearest neighbour."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.spec.source import MaskRule

# Sentinel-2 scene classification kept as clear: 2 dark area, 4 vegetation, 5 bare, 6 water,
# 7 unclassified. Dropped: 0 nodata, 1 saturated, 3 shadow, 8-10 cloud and cirrus, 11 snow.
SCL_CLEAR = (2, 4, 5, 6, 7)
SCL_VEGETATION = 4
_SCL_BITS = np.uint32(sum(1 << code for code in SCL_CLEAR))

# Landsat Collection 2 QA_PIXEL (USGS LSDS-1619): fill, dilated cloud, cirrus, cloud, shadow, snow.
LANDSAT_C2_BAD = sum(1 << bit for bit in (0, 1, 2, 3, 4, 5))

# Landsat Collection 1 pixel_qa (USGS LSDS-1368): fill, cloud shadow, snow, cloud; cirrus
# confidence is bits 8-9, "high" when both are set.
LANDSAT_C1_BAD = sum(1 << bit for bit in (0, 3, 4, 5))
LANDSAT_C1_CIRRUS = 0b11 << 8


def scl_clear(qa: np.ndarray) -> np.ndarray:
    """Clear pixels of a Sentinel-2 scene classification layer."""
    return (_SCL_BITS >> qa.astype(np.uint32) & 1).astype(bool)  # codes above 31 are none


def landsat_c2_clear(qa: np.ndarray) -> np.ndarray:
    """Clear pixels of a Landsat Collection 2 QA_PIXEL band."""
    return (qa.astype(np.uint16) & LANDSAT_C2_BAD) == 0


def landsat_c1_clear(qa: np.ndarray) -> np.ndarray:
    """Clear pixels of a Landsat Collection 1 pixel_qa band (0 is fill there, too)."""
    bits = qa.astype(np.uint16)
    cirrus = (bits & LANDSAT_C1_CIRRUS) == LANDSAT_C1_CIRRUS
    return (bits != 0) & ((bits & LANDSAT_C1_BAD) == 0) & ~cirrus


MASKS: dict[MaskRule, Callable[[np.ndarray], np.ndarray]] = {
    "scl": scl_clear,
    "landsat-c2": landsat_c2_clear,
    "landsat-c1": landsat_c1_clear,
}
