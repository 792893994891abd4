"""Writing small cloud-optimised GeoTIFFs fast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS

_BLOCK = 256
_BIGGEST_PLAIN = 512


def write_cog(path: Path, data: np.ndarray, transform: Affine, crs: CRS, nodata: float) -> None:
    """Write one band as a valid COG.

    A tiled GeoTIFF of at most 512 x 512 pixels needs no overviews and so is a COG as it is, at
    half the time that GDAL's copying COG driver takes; larger ones go through that driver.

    Args:
        path: of the file.
        data: [Y, X] array, dtype of the file.
        transform, crs: of the grid.
        nodata: value that means "no measurement".
    """
    h, w = data.shape
    profile = {
        "height": h, "width": w, "count": 1, "dtype": data.dtype.name, "crs": crs,
        "transform": transform, "nodata": nodata, "compress": "ZSTD",
    }
    if max(h, w) <= _BIGGEST_PLAIN:
        block = min(_BLOCK, -(-max(h, w) // 16) * 16)
        profile |= {"driver": "GTiff", "tiled": True, "blockxsize": block, "blockysize": block,
                    "zstd_level": 1, "predictor": 3 if data.dtype.kind == "f" else 2}
    else:
        profile |= {"driver": "COG", "blocksize": 512, "level": 1, "predictor": "YES",
                    "overview_resampling": "NEAREST", "bigtiff": "IF_SAFER"}
    with rasterio.open(path, "w", **profile) as file:
        file.write(data, 1)
