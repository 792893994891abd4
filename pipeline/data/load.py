"""Load: images + window -> monthly composites, lazily (xarray on Dask) or as one tile's Cube."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import dask.array as da
import numpy as np
import odc.geo.xr
import xarray as xr
from odc.geo.geobox import GeoBox

from pipeline.data.hrefs import is_remote
from pipeline.data.items import ItemSet, when
from pipeline.data.recipe import Recipe
from pipeline.data.stacks import Images, Loader, Stack, images_of, open_stacks
from pipeline.data.tile import finer, read_tile
from pipeline.prep.radiometry import to_db
from pipeline.spec.cube import Cube
from pipeline.spec.errors import DataTrouble
from pipeline.spec.machine import cores
from pipeline.spec.sensors import Sensor, sensor
from pipeline.spec.timeline import Timeline

_CHUNK_READ_PX = 512  # read pixels along a chunk's side: a year of one band stays below 200 MB


def open_composite(
    items: ItemSet,
    geobox: GeoBox,
    bands: Sequence[str],
    timeline: Timeline,
    *,
    aggregate: int = 1,
    chunk_px: int | None = None,
    loader: Loader = "odc",
) -> xr.Dataset:
    """Monthly composites of a window, lazily.

    Optical: median of the clear observations of a month. Radar: mean of linear power, then dB.
    Observations of one pass (overlapping tiles, neighbouring frames) count once.

    Args:
        items: of one sensor; those that lack a band are left out (``ItemSet.usable``).
        geobox: Y x X pixel grid of the result.
        bands: canonical names.
        timeline: T months.
        aggregate: read at pixels this many times finer, composite them, then average the valid
            ones of each block (reflectance or linear power).
        chunk_px: chunk size in result pixels.
        loader: ``odc`` or ``stackstac``.

    Returns:
        ``value`` (time, band, y, x) float32, reflectance or dB, NaN = no observation; ``count``
        (time, y, x) uint8, observations of the first band. ``time`` is the first of the month.

    Raises:
        DataTrouble: an item lacks metadata; when computed: an asset cannot be read.
    """
    chosen, names = items.usable(bands), tuple(bands)
    chunk = chunk_px or max(_CHUNK_READ_PX // aggregate, 1)
    fine = finer(geobox, aggregate)
    stacks = open_stacks(chosen, fine, names, chunk * aggregate, loader)
    recipe = recipe_of(chosen, [s.images for s in stacks], timeline, aggregate)
    packed = [_compose(recipe, stacks, band, geobox, chunk) for band in names]
    x = da.stack([p[0] for p in packed], axis=1)  # B x (T, Y, X) -> (T, B, Y, X)
    count = packed[0][1].astype(np.uint8)
    coords: dict = {
        "time": np.array([f"{m // 12:04d}-{m % 12 + 1:02d}-01" for m in timeline.months],
                         "datetime64[ns]"),
        "band": list(names),
    }
    return _described(x, count, coords, geobox, chosen, timeline)


def load_cube(
    items: ItemSet,
    geobox: GeoBox,
    bands: Sequence[str],
    timeline: Timeline,
    *,
    aggregate: int = 1,
    num_workers: int | None = None,
    composited: Callable[[float], None] | None = None,
) -> Cube:
    """``open_composite`` of one tile, bit for bit, without a graph: images are read as they are
    composited, and decoded blocks are held for the tile's neighbours.

    Args:
        num_workers: reading threads; by default one a core for files on disk (more would wait for
            each other), and more for the web, which is waited for.
        composited: is told the processor seconds of each composite, by the thread that made it.

    Raises:
        DataTrouble: an asset cannot be read; the message names the item and the file.
    """
    chosen, names = items.usable(bands), tuple(bands)
    images = images_of(chosen, finer(geobox, aggregate), names)
    recipe = recipe_of(chosen, images, timeline, aggregate)
    try:
        x, count = read_tile(recipe, geobox, names, max(_CHUNK_READ_PX // aggregate, 1),
                             num_workers or _threads(images), composited)
    except MemoryError:
        raise DataTrouble("a tile does not fit into memory", then="try a smaller --tile-size") \
            from None
    return Cube(items.sensor, names, timeline, geobox, x, count)


def _threads(images: Sequence[Images]) -> int:
    """How many read at once, if nobody says."""
    away = any(is_remote(file.href) for group in images
               for files in group.files.values() for file in files)
    return min(8, 4 * cores()) if away else cores()


def open_scenes(
    items: ItemSet, geobox: GeoBox, bands: Sequence[str], *, chunk_px: int | None = None,
    loader: Loader = "odc",
) -> xr.Dataset:
    """Single acquisitions of a window, lazily: what the composites are made of.

    Returns:
        ``value`` (time, band, y, x) float32, reflectance or dB, NaN where not clear or no data;
        coordinate ``item`` (time) holds the ids. Images that do not touch the window are left out.
    """
    chosen, names = items.usable(bands), tuple(bands)
    stacks = open_stacks(chosen, geobox, names, chunk_px or _CHUNK_READ_PX, loader)
    kind = sensor(items.sensor).kind
    index = np.concatenate([s.images.index for s in stacks]) if stacks else np.zeros(0, int)
    order = np.argsort(index)
    parts = []
    for band in names:
        values = [
            da.map_blocks(_scene_block, *s.blocks(band), images=s.images, band=band, kind=kind,
                          dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))
            for s in stacks
        ]
        # one chunk: automatic ones would divide by the zero length
        empty = da.zeros((0, *geobox.shape), dtype=np.float32, chunks=(0, *geobox.shape))
        parts.append(da.concatenate(values or [empty])[order])
    members = [chosen.items[k] for k in index[order]]
    coords: dict = {
        "time": np.array([when(i).replace(tzinfo=None) for i in members], "datetime64[ns]"),
        "band": list(names),
        "item": ("time", [i.id for i in members]),
    }
    return _described(da.stack(parts, axis=1), None, coords, geobox, chosen, None)


def recipe_of(
    items: ItemSet, groups: Sequence[Images], timeline: Timeline, aggregate: int
) -> Recipe:
    """What is made of the images of a window."""
    found = [timeline.step_of(when(item)) for item in items.items]
    steps, passes = np.array([-1 if k is None else k for k in found]), np.array(items.passes)
    return Recipe(
        tuple(groups), tuple(steps[g.index] for g in groups),
        tuple(passes[g.index] for g in groups),
        timeline.steps, aggregate, sensor(items.sensor).kind,
    )


def _scene_block(*blocks: np.ndarray, images: Images, band: str, kind: str) -> np.ndarray:
    out = np.empty(blocks[0].shape, np.float32)
    for k, numbers in enumerate(blocks[0]):
        quality = blocks[1][k] if len(blocks) > 1 else None
        if quality is not None:
            images.check_offset(band, k, numbers, quality)
        values = images.physical(band, k, numbers, images.covered(quality))
        out[k] = to_db(values) if kind == "sar" else values
    return out


def _compose(
    recipe: Recipe, stacks: list[Stack], band: str, geobox: GeoBox, chunk: int
) -> da.Array:
    """[2, T, Y, X] composite and count of a band, lazily."""
    shape = (2, recipe.n_steps, *geobox.shape)
    chunks = da.core.normalize_chunks((2, recipe.n_steps, chunk, chunk), shape)
    if not stacks:
        gaps = da.full(shape[1:], np.nan, chunks=chunks[1:], dtype=np.float32)
        return da.stack([gaps, da.zeros_like(gaps)])
    return da.map_blocks(
        recipe.cook, *[b for s in stacks for b in s.blocks(band)], band=band, chunks=chunks,
        drop_axis=[0], new_axis=[0, 1], dtype=np.float32, meta=np.empty((0, 0, 0, 0), np.float32),
    )


def _described(
    x: da.Array, count: da.Array | None, coords: dict, geobox: GeoBox, items: ItemSet,
    timeline: Timeline | None,
) -> xr.Dataset:
    """Dataset with coordinates and CF attributes."""
    which = sensor(items.sensor)
    grid = odc.geo.xr.xr_coords(geobox)
    y, x_name = geobox.dimensions
    arrays: dict = {"value": (("time", "band", y, x_name), x, _attributes(which, timeline))}
    if count is not None:
        arrays["value"][2]["ancillary_variables"] = "count"
        arrays["count"] = (("time", y, x_name), count, {
            "long_name": "number of clear observations", "units": "1",
            "standard_name": "number_of_observations",
        })
    data = xr.Dataset(arrays, {**coords, **grid}, {
        "Conventions": "CF-1.11",
        "title": f"{which.title} series",
        "sensor": which.key,
        "sources": ", ".join(sorted({s.key for s in items.sources})),
        "items": len(items.items),
        "items_sha256": items.fingerprint,
        "catalog": items.catalog,
    })
    if timeline is not None:
        data.attrs["period"] = str(timeline)
    for name in arrays:
        data[name].encoding["grid_mapping"] = "spatial_ref"
    return data


def _attributes(which: Sensor, timeline: Timeline | None) -> dict[str, str]:
    if which.kind == "sar":
        attrs = {
            "long_name": f"{which.title} backscatter", "units": which.unit,
            "standard_name": "surface_backwards_scattering_coefficient_of_radar_wave",
        }
    else:
        attrs = {
            "long_name": f"{which.title} surface reflectance", "units": which.unit,
            "standard_name": "surface_bidirectional_reflectance",
        }
    if timeline is not None:
        attrs["cell_methods"] = "time: mean" if which.kind == "sar" else "time: median"
    return attrs
