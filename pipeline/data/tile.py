"""One tile's composites, read and computed at once by a few threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import pairwise, product

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from pipeline.data.handles import SMALL_BLOCK_CACHE
from pipeline.data.rasters import GDAL_OPTIONS
from pipeline.data.recipe import Member, Recipe

Codes = list[np.ndarray | None]


def finer(geobox: GeoBox, factor: int) -> GeoBox:
    """The same window with pixels ``factor`` times smaller, edges kept exactly."""
    h, w = geobox.shape
    t = geobox.affine
    smaller = Affine(t.a / factor, 0, t.c, 0, t.e / factor, t.f)
    return GeoBox((h * factor, w * factor), smaller, geobox.crs)


def read_tile(
    recipe: Recipe, geobox: GeoBox, bands: Sequence[str], chunk_px: int, workers: int,
    composited: Callable[[float], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Composites of all bands and months of a window.

    A month's quality bands are read once, before its other bands, and a month of a band is all
    that a thread holds of what is not the result.

    Args:
        recipe: of the window.
        geobox: Y x X pixel grid of the result.
        bands: B canonical names.
        chunk_px: result pixels along the side of the pieces that are read, about.
        workers: threads.
        composited: is told the processor seconds of each composite.

    Returns:
        [T, B, Y, X] float32 and [T, Y, X] uint8, as in a ``Cube``.

    Raises:
        DataTrouble: an asset cannot be read.
    """
    x = np.empty((recipe.n_steps, len(bands), *geobox.shape), np.float32)
    count = np.zeros((recipe.n_steps, *geobox.shape), np.uint8)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read")
    work: list[Future[None]] = []
    with SMALL_BLOCK_CACHE, _closing(pool):
        for (rows, cols), step in product(_pieces(geobox, chunk_px), range(recipe.n_steps)):
            members = recipe.members(step)
            if not members:
                x[step, :, rows, cols] = np.nan
                continue
            window = finer(geobox[rows, cols], recipe.aggregate)
            # begun before the bands that wait for it: a pool takes tasks in order
            quality = pool.submit(_quality, members, window)
            for b, band in enumerate(bands):
                work.append(pool.submit(
                    _compose, recipe, band, members, window, quality,
                    x[step, b, rows, cols], count[step, rows, cols] if b == 0 else None,
                    composited))
        wait(work, return_when=FIRST_EXCEPTION)
    for done in work:
        if not done.cancelled():
            done.result()
    return x, count


@contextmanager
def _closing(pool: ThreadPoolExecutor) -> Iterator[None]:
    """Wait for what has begun, and no more: after a failure nothing else matters."""
    try:
        yield
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _quality(members: Sequence[Member], window: GeoBox) -> tuple[Codes, Codes]:
    """Quality codes of a month's images, and where they say that the ground was not seen."""
    with rasterio.Env(**GDAL_OPTIONS):
        codes = [m.images.quality(m.k, window) for m in members]
    return codes, [m.images.covered(q) for m, q in zip(members, codes, strict=True)]


def _compose(
    recipe: Recipe, band: str, members: Sequence[Member], window: GeoBox,
    quality: Future[tuple[Codes, Codes]], x: np.ndarray, count: np.ndarray | None,
    composited: Callable[[float], None] | None,
) -> None:
    """Fill in a band of a month."""
    with rasterio.Env(**GDAL_OPTIONS):
        numbers = [m.images.numbers(band, m.k, window) for m in members]
    codes = quality.result()
    started = time.thread_time()
    value, n = recipe.compose(band, members, numbers, *codes)
    x[...] = value
    if count is not None:
        count[...] = n
    if composited:
        composited(time.thread_time() - started)


def _pieces(geobox: GeoBox, side: int) -> Iterator[tuple[slice, slice]]:
    """A window in equal pieces of about that side: a halo of a pixel makes no piece of its own."""
    height, width = geobox.shape
    return ((rows, cols) for rows in _cuts(height, side) for cols in _cuts(width, side))


def _cuts(length: int, side: int) -> list[slice]:
    n = max(round(length / side), 1)
    at = [k * length // n for k in range(n + 1)]
    return [slice(a, b) for a, b in pairwise(at)]
