"""odc-loader driver: nearest pixel, exactly, from the file's own grid; errors name the image.

Why not the stock reader: it places pixels by an approximate transformer whose result depends on the
window, so two tilings of one area would differ; it answers from overviews as it likes, which
average quality codes; it trusts the item's shape and transform, which providers get wrong; and it
signs hrefs when the graph is built, not when the file is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyproj
import rasterio
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.loader.types import RasterLoadParams, RasterSource
from pyproj import Transformer
from rasterio.windows import Window

from pipeline.data.block_store import BlockStore, Grid
from pipeline.data.blocks import HeldFile
from pipeline.data.rasters import GDAL_OPTIONS, ImageFile, read_image
from pipeline.data.remote import Unreadable

# Cells that may be read for one window; a 512 px chunk of a map has 2^18 pixels, and the finest
# image that anyone has a use for is some ten times finer.
MAX_CELLS = 1 << 26


class NearestDriver:
    """odc-loader ``ReaderDriver``.

    Args:
        images: by alias.
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
    """odc-loader ``RasterReader`` of one asset.

    Args:
        image: the file.
        store: of decoded blocks, where they are shared with other windows.
    """

    def __init__(self, image: ImageFile, store: BlockStore | None = None) -> None:
        self._image, self._store = image, store

    def read(
        self,
        cfg: RasterLoadParams,
        dst_geobox: GeoBox,
        *,
        dst: np.ndarray | None = None,
        selection: Any = None,
    ) -> tuple[tuple[slice, slice], np.ndarray]:
        """Pixels of a window, ``cfg.fill_value`` where the file has none. They are not to be
        written into: others may hold them.

        Of much finer pixels than the window's, those that may be averaged come from the coarsest
        overview that is no coarser than the window, and than the image's quality band.

        Raises:
            DataTrouble: the file cannot be opened or read, or is not what the table says.
        """
        h, w = dst_geobox.shape
        dtype = np.dtype(cfg.dtype)
        fill = dtype.type(cfg.fill_value)

        def pixels(file: HeldFile) -> np.ndarray:
            grid = file.grid
            if grid.dtype.startswith("complex") or not np.can_cast(grid.dtype, dtype):
                raise Unreadable(f"it holds {grid.dtype}, the archive's row {dtype}")
            if not grid.crs or grid.transform.b or grid.transform.d:
                raise Unreadable("it is not on a north-up grid of a known CRS")
            view = _coarsest(file, dst_geobox, self._image.coarsest_m)
            if view is file:
                return nearest(grid, file.read, dst_geobox, fill)
            return nearest(view.grid, view.read, dst_geobox, fill, 1, partial(_trimmed, fill))

        found = read_image(self._image, pixels, self._store)
        return (slice(0, h), slice(0, w)), found.astype(dtype, copy=False)


@lru_cache(maxsize=64)
def in_metres(crs: str) -> bool:
    """Whether a CRS is projected, in metres."""
    axes = pyproj.CRS(crs).axis_info
    return all(axis.unit_name == "metre" for axis in axes[:2])


def _coarsest(file: HeldFile, window: GeoBox, limit_m: float) -> HeldFile:
    """The coarsest overview with pixels no coarser than the window's and the limit, or the file.

    It depends on the stated pixel sizes alone: the same wherever the window lies.
    """
    if not (limit_m and in_metres(file.grid.crs) and in_metres(str(window.crs))):
        return file
    most = min(abs(window.affine.a), limit_m) / file.grid.transform.a + 1e-6  # 3 * 0.1 is not 0.3
    if most < 2:
        return file
    fit = [factor for factor in file.overviews if factor <= most]
    return file.overview(file.overviews.index(max(fit))) if fit else file


def _trimmed(fill: np.generic, pixels: np.ndarray) -> np.ndarray:
    """Pixels of an overview without those at the edge of nothing, which may be averages with it:
    borders are often filled with zeros that the file does not call nodata."""
    bad = (pixels == fill) | ~(pixels > 0)
    for axis in (0, 1):
        near = bad.copy()
        ahead, behind = (np.moveaxis(v, axis, 0) for v in (near, bad))
        ahead[1:] |= behind[:-1]
        ahead[:-1] |= behind[1:]
        bad = near
    return np.where(bad, fill, pixels)


def nearest(
    grid: Grid, read: Callable[[Window], np.ndarray], window: GeoBox, fill: np.generic,
    around: int = 0, judged: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """[Y, X] pixels whose cell holds the centre of each pixel of a window.

    Args:
        grid: of the file, north-up.
        read: pixels of a window of the file.
        window: where to.
        fill: value where the file has no cell.
        around: cells that are read beyond those.
        judged: what becomes of the cells that were read.

    Raises:
        Unreadable: its pixels are so small that the window holds too many.
    """
    x, y = centres(window, grid.crs)
    t = grid.transform
    cols, rows = np.floor((x - t.c) / t.a), np.floor((y - t.f) / t.e)
    cols_in, rows_in = (cols >= 0) & (cols < grid.width), (rows >= 0) & (rows < grid.height)
    # in the window's own CRS these are a row and a column, else (H, W) each
    apart = cols.shape != rows.shape
    if not apart:
        cols_in = rows_in = cols_in & rows_in
    if not (cols_in.any() and rows_in.any()):
        return np.full(window.shape, fill)
    c0, c1 = int(cols[cols_in].min()), int(cols[cols_in].max())
    r0, r1 = int(rows[rows_in].min()), int(rows[rows_in].max())
    c0, c1 = max(c0 - around, 0), min(c1 + around, grid.width - 1)
    r0, r1 = max(r0 - around, 0), min(r1 + around, grid.height - 1)
    if (c1 - c0 + 1) * (r1 - r0 + 1) > MAX_CELLS:
        raise Unreadable(f"its pixels of {t.a:g} are too small to be read into a map")
    block = read(Window(c0, r0, c1 - c0 + 1, r1 - r0 + 1))
    if judged is not None:
        block = judged(block)
    if apart:
        found = _picked(block, cols[cols_in] - c0, 1)
        found = _picked(found, rows[rows_in] - r0, 0)
        if found.shape == window.shape:
            return found
    out = np.full(window.shape, fill)
    if apart:
        out[_span(rows_in), _span(cols_in)] = found
    else:
        index = ((v[cols_in] - v0).astype(np.intp) for v, v0 in ((rows, r0), (cols, c0)))
        out[cols_in] = block[tuple(index)]
    return out


def _span(inside: np.ndarray) -> slice:
    """Where a row or column of flags, set in one stretch, is set."""
    at = np.flatnonzero(inside)
    return slice(at[0], at[-1] + 1)


def _picked(block: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    """Ascending rows or columns; a view where they are neighbours."""
    first, last = int(index[0]), int(index[-1])
    if last - first + 1 == index.size and (np.diff(index) == 1).all():
        return block[first : last + 1] if axis == 0 else block[:, first : last + 1]
    return block.take(index.astype(np.intp), axis)


def centres(window: GeoBox, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """x and y of a window's pixel centres in a CRS.

    Returns:
        [1, X] and [Y, 1] when it is the window's own CRS, else [Y, X] each; infinite where the
        projection has no answer.
    """
    return _centres(tuple(window.shape), window.affine, str(window.crs), crs)


# One tile asks for the same centres for every date and band. By text: comparing CRSs takes longer.
@lru_cache(maxsize=8)
def _centres(
    shape: tuple[int, int], t: Affine, own: str, crs: str
) -> tuple[np.ndarray, np.ndarray]:
    h, w = shape
    x, y = t.c + (np.arange(w) + 0.5) * t.a, t.f + (np.arange(h) + 0.5) * t.e
    if CRS(own) == CRS(crs):
        return x[None, :], y[:, None]
    to_file = Transformer.from_crs(own, crs, always_xy=True)
    xs, ys = to_file.transform(*np.meshgrid(x, y))
    return xs, ys
