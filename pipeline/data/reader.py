"""odc-loader driver: nearest pixel, exactly, from the file's own grid; errors name the image.

Why not the stock reader: it places pixels by an approximate transformer whose result depends on the
window, so two tilings of one area would differ; it may answer from overviews, which average quality
codes; it trusts the item's shape and transform, which providers get wrong; and it signs hrefs when
the graph is built, not when the file is opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import rasterio
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.loader.types import RasterLoadParams, RasterSource
from pyproj import Transformer
from rasterio.windows import Window

from pipeline.data.rasters import GDAL_OPTIONS, ImageFile, read_image
from pipeline.data.remote import Unreadable

# Cells that may be read for one window; a 512 px chunk of a map has 2^18 pixels, and the finest
# image that anyone has a use for is some ten times finer.
MAX_CELLS = 1 << 26


class NearestDriver:
    """odc-loader ``ReaderDriver``.

    Args:
        images: by href.
    """

    md_parser = None
    dask_reader = None
    aux_reader = None

    def __init__(self, images: Mapping[str, ImageFile]) -> None:
        self._images = images

    def new_load(self, geobox: GeoBox, *, chunks: dict[str, int] | None = None) -> None:
        """No state is shared between the reads of a load."""

    def finalise_load(self, load_state: None) -> None:
        """Nothing to close."""

    def capture_env(self) -> dict[str, Any]:
        """GDAL options, carried to wherever a read happens."""
        return dict(GDAL_OPTIONS)

    @contextmanager
    def restore_env(self, env: dict[str, Any], load_state: None) -> Iterator[None]:
        """GDAL environment around a read."""
        with rasterio.Env(**env):
            yield None

    def open(self, src: RasterSource, ctx: None) -> NearestReader:
        """Reader of one asset; the file is opened when it is read."""
        return NearestReader(self._images[src.uri])


class NearestReader:
    """odc-loader ``RasterReader`` of one asset."""

    def __init__(self, image: ImageFile) -> None:
        self._image = image

    def read(
        self,
        cfg: RasterLoadParams,
        dst_geobox: GeoBox,
        *,
        dst: np.ndarray | None = None,
        selection: Any = None,
    ) -> tuple[tuple[slice, slice], np.ndarray]:
        """Pixels of a window, ``cfg.fill_value`` where the file has none.

        Raises:
            DataTrouble: the file cannot be opened or read, or is not what the table says.
        """
        h, w = dst_geobox.shape
        dtype = np.dtype(cfg.dtype)

        def pixels(file: rasterio.DatasetReader) -> np.ndarray:
            if file.dtypes[0].startswith("complex") or not np.can_cast(file.dtypes[0], dtype):
                raise Unreadable(f"it holds {file.dtypes[0]}, the archive's row {dtype}")
            if file.crs is None or file.transform.b or file.transform.d:
                raise Unreadable("it is not on a north-up grid of a known CRS")
            return nearest(file, dst_geobox, dtype.type(cfg.fill_value))

        found = read_image(self._image, pixels)
        return (slice(0, h), slice(0, w)), found.astype(dtype, copy=False)


def nearest(file: rasterio.DatasetReader, window: GeoBox, fill: np.generic) -> np.ndarray:
    """[Y, X] pixels of band 1 whose cell holds the centre of each pixel of a window.

    Args:
        file: opened, north-up.
        window: where to.
        fill: value where the file has no cell.

    Raises:
        Unreadable: its pixels are so small that the window holds too many.
    """
    x, y = centres(window, file.crs.to_string())
    t = file.transform
    cols, rows = np.floor((x - t.c) / t.a), np.floor((y - t.f) / t.e)
    cols_in, rows_in = (cols >= 0) & (cols < file.width), (rows >= 0) & (rows < file.height)
    inside = cols_in & rows_in  # (H, W)
    if not inside.any():
        return np.full(window.shape, fill)
    # in the window's own CRS these are a row and a column, else (H, W) each
    if cols.shape == rows.shape == inside.shape:
        cols_in = rows_in = inside
    c0, c1 = int(cols[cols_in].min()), int(cols[cols_in].max())
    r0, r1 = int(rows[rows_in].min()), int(rows[rows_in].max())
    if (c1 - c0 + 1) * (r1 - r0 + 1) > MAX_CELLS:
        raise Unreadable(f"its pixels of {t.a:g} are too small to be read into a map")
    block = file.read(1, window=Window(c0, r0, c1 - c0 + 1, r1 - r0 + 1))
    c = np.where(cols_in, cols - c0, 0).astype(np.intp)
    r = np.where(rows_in, rows - r0, 0).astype(np.intp)
    return np.where(inside, block[r, c], fill)


@lru_cache(maxsize=8)  # one tile asks for the same centres for every date and band
def centres(window: GeoBox, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """x and y of a window's pixel centres in a CRS.

    Returns:
        [1, X] and [Y, 1] when it is the window's own CRS, else [Y, X] each; infinite where the
        projection has no answer.
    """
    h, w = window.shape
    t = window.affine
    x, y = t.c + (np.arange(w) + 0.5) * t.a, t.f + (np.arange(h) + 0.5) * t.e
    if window.crs == CRS(crs):
        return x[None, :], y[:, None]
    to_file = Transformer.from_crs(str(window.crs), crs, always_xy=True)
    xs, ys = to_file.transform(*np.meshgrid(x, y))
    return xs, ys
