"""The second loader, stackstac, behind the same stacks; equal values on native grids.

What it takes to use it today (0.5.1 is its last release): it wants ``epsg``, explicit bounds and no
snapping, else it is a pixel off; integers and an integer fill value are refused, so numbers pass
through float32 (exact up to 2^24); its rescaling is off, since the source table does that; and its
own reader, which opens anything GDAL knows, signs too early and takes errors for gaps, is replaced.
Across zones GDAL's warper places pixels within 1/8 pixel.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import pystac
import rasterio
import stackstac
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from pipeline.data.blocks import HeldFile
from pipeline.data.rasters import GDAL_OPTIONS, ImageFile, read_image


def stack(
    items: Sequence[pystac.Item],
    dtypes: Mapping[str, str],
    fills: Mapping[str, float],
    geobox: GeoBox,
    chunk_px: int,
    files: Mapping[str, ImageFile],
) -> dict[str, da.Array]:
    """Lazy [N, Y, X] stack of each asset, as stored.

    Args:
        items: N items.
        dtypes, fills: asset key -> data type and value where there is no pixel.
        geobox: window; its CRS must have an EPSG code, its pixels must be square.
        chunk_px: chunk size, pixels.
        files: by alias.
    """
    epsg, box = CRS(geobox.crs).epsg, geobox.boundingbox
    plain = [
        {
            "id": item.id,
            "bbox": None,
            "properties": {
                "datetime": item.datetime.isoformat() if item.datetime else None,
                # the window as every item's extent: the file's own grid decides
                "proj:epsg": epsg, "proj:bbox": list(box.bbox),
            },
            "assets": {k: {"href": a.href} for k, a in item.assets.items()},
        }
        for item in items
    ]
    with warnings.catch_warnings():
        # stackstac 0.5.1 on today's xarray, pandas and dask; nothing that we could change
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        loaded = stackstac.stack(
            plain, assets=list(dtypes), epsg=epsg, resolution=float(geobox.resolution.x),
            bounds=box.bbox, snap_bounds=False, chunksize=chunk_px, dtype=np.dtype("float32"),
            fill_value=np.float32("nan"), rescale=False, sortby_date=False, xy_coords=False,
            properties=False, band_coords=False, errors_as_nodata=(),
            reader=partial(_Reader, dict(files)),
        ).data
    return {
        key: da.where(da.isnan(loaded[:, k]), np.float32(fills[key]), loaded[:, k]).astype(dtype)
        for k, (key, dtype) in enumerate(dtypes.items())
    }


class _Reader:
    """stackstac ``Reader`` of one asset: GDAL's warper over ``read_image``."""

    def __init__(
        self, files: Mapping[str, ImageFile], *, url: str, spec: Any, resampling: Resampling,
        dtype: np.dtype, fill_value: float, scale_offset: tuple[float, float],
        gdal_env: Any = None, errors_as_nodata: tuple[Exception, ...] = (),
    ) -> None:
        self._image, self._grid, self._resampling = files[url], spec.vrt_params, resampling
        self._dtype, self._fill = dtype, fill_value

    def read(self, window: Window) -> np.ndarray:
        """[Y, X] of a window, the fill value where the file has nothing."""

        def pixels(held: HeldFile) -> np.ndarray:
            file = held.opened(None)
            # without nodata only an alpha band tells what lies beyond the file
            with WarpedVRT(file, sharing=False, resampling=self._resampling,
                           add_alpha=file.nodata is None, **self._grid) as warped:
                found = warped.read(1, window=window, out_dtype=self._dtype)
                there = warped.dataset_mask(window=window)
            return np.where(there > 0, found, self._fill)

        with rasterio.Env(**GDAL_OPTIONS):
            return read_image(self._image, pixels)

    def close(self) -> None:
        """Nothing stays open."""
