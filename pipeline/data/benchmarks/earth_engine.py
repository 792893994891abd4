"""The Earth Engine exports that CropHarvest's arrays are cut from: one GeoTIFF a sample.

Each step has 17 bands (``VV``, ``VH``, ``B1`` to ``B12``, temperature, rain; step k > 0 with the
suffix ``_k``), then come ``elevation`` and ``slope``.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.errors import RasterioError
from rasterio.transform import rowcol

from pipeline.spec.errors import DataTrouble

# Columns of CropHarvest's arrays, in their order: the bands of a step but B1 and B10. An 18th that
# the arrays have is left out here (``cropharvest`` says why).
COLUMNS = (
    "VV", "VH", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12",
    "temperature_2m", "total_precipitation", "elevation", "slope",
)


def export_series(path: Path, lon: float, lat: float, steps: int) -> np.ndarray | None:
    """(steps, 17) of the pixel that holds a point, see ``export_arrays``; None where none does."""
    arrays, transform = export_arrays(path, steps)
    row, column = rowcol(transform, lon, lat)
    height, width = arrays.shape[2:]
    inside = 0 <= row < height and 0 <= column < width
    return arrays[:, :, row, column] if inside else None


def export_arrays(path: Path, steps: int) -> tuple[np.ndarray, Affine]:
    """All pixels of an export in the layout of CropHarvest's arrays.

    Args:
        path: of the export.
        steps: the first so many are returned.

    Returns:
        (steps, 17, H, W) float64, columns ``COLUMNS``, and the pixel-to-degrees transform. Missing
        values stay missing, where the published arrays hold the mean over time instead.

    Raises:
        DataTrouble: the file is unreadable, or no such export.
    """
    try:
        with rasterio.open(path) as file:
            bands, names, transform = file.read(), file.descriptions, file.transform
    except RasterioError as error:
        raise DataTrouble(f"cannot read {path}", got=str(error)[:200]) from None
    at = {_name(n): k for k, n in enumerate(names) if n}
    static = ("elevation", "slope")
    wanted = [[n if n in static else f"{n}_{k}" for n in COLUMNS] for k in range(steps)]
    if missing := [n for step in wanted for n in step if n not in at]:
        raise DataTrouble(f"{path} is no CropHarvest export of {steps} steps",
                          got=f"no band {missing[0]}")
    x = np.stack([bands[[at[n] for n in step]] for step in wanted])
    return x.astype(np.float64), transform


def _name(band: str) -> str:
    """``VV`` -> ``VV_0``, ``VV_3`` stays; ``elevation`` and ``slope`` have no step."""
    return band if band in ("elevation", "slope") or re.search(r"_\d+$", band) else f"{band}_0"
