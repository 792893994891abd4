"""``open_cube`` and ``map_area``: what a notebook needs, lazily, with CRS and attributes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import dask.array as da
import numpy as np
import rasterio
import rioxarray
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.features import geometry_mask
from rasterio.vrt import WarpedVRT
from shapely.geometry.base import BaseGeometry

from pipeline.data.aoi import Aoi, read_aoi
from pipeline.data.load import open_composite, open_scenes
from pipeline.data.search import search
from pipeline.data.stacks import Loader
from pipeline.spec.errors import BadRequest, NothingFound
from pipeline.spec.grid import utm_epsg, utm_zone, window
from pipeline.spec.request import Speed
from pipeline.spec.sensors import Sensor
from pipeline.spec.sensors import sensor as sensor_of
from pipeline.spec.timeline import parse_period

CHUNK_PX = 512
MAX_PIXEL_M = 10_000


def open_cube(
    aoi: str | Path,
    sensor: str,
    period: str,
    *,
    catalog: str | Path | None = None,
    bands: Sequence[str] | None = None,
    resolution: int | None = None,
    loader: Loader = "odc",
    monthly: bool = True,
) -> xr.Dataset:
    """Monthly composites of one sensor over an area, lazily.

    Args:
        aoi: path of a GeoJSON or GeoPackage, or ``W,S,E,N``.
        sensor: ``s1``, ``s2`` or ``l8``.
        period: ``YYYY-MM:YYYY-MM``, or one month.
        catalog: short name, API URL, catalog.json or .parquet; default: the AOI file's own, else
            Planetary Computer.
        bands: names; default: all that every source found gives.
        resolution: pixel size in metres; default: the sensor's finest.
        loader: ``odc`` or ``stackstac``.
        monthly: False gives the single acquisitions, masked and in physical units, with their
            item ids instead of ``count``.

    Returns:
        Dask-backed dataset in the UTM zone of the area's centre: ``value`` (time, band, y, x)
        float32, reflectance or dB, NaN for gaps, and ``count`` (time, y, x) valid observations.

    Raises:
        BadRequest: an argument is wrong.
        DataTrouble: nothing found, or the catalogue cannot be read.
    """
    from pipeline.mapping import DEFAULT_CATALOG

    kind = sensor_of(sensor)
    pixel_m = min(b.resolution_m for b in kind.bands) if resolution is None else resolution
    asked = _checked(kind, bands, pixel_m, loader)
    timeline = parse_period(str(period), None)
    area = read_aoi(str(aoi))
    where = str(catalog or area.defaults.get("catalog") or DEFAULT_CATALOG)
    items = search(where, sensor, area.geometry, timeline)
    grid = _one_grid(area, pixel_m)
    names = asked or items.bands()
    if not items.usable(names).items:
        raise NothingFound(f"no {sensor} image has all of these bands", got=", ".join(names),
                           allowed=", ".join(items.bands()), then="ask for those")
    if not monthly:
        return open_scenes(items, grid, names, chunk_px=CHUNK_PX, loader=loader)
    return open_composite(items, grid, names, timeline, chunk_px=CHUNK_PX, loader=loader)


def _checked(
    kind: Sensor, bands: Sequence[str] | None, pixel_m: int, loader: str
) -> tuple[str, ...]:
    """The bands asked for; empty for whatever there is. What a notebook hands over is anything."""
    if loader not in get_args(Loader):
        raise BadRequest("unknown loader", got=loader, allowed=", ".join(get_args(Loader)))
    if not isinstance(pixel_m, int) or not 1 <= pixel_m <= MAX_PIXEL_M:
        raise BadRequest("the resolution is not a whole number of metres", got=str(pixel_m),
                         allowed=f"1 to {MAX_PIXEL_M}")
    if bands is None:
        return ()
    names = (bands,) if isinstance(bands, str) else tuple(bands)
    if not names or not set(names) <= set(kind.band_names) or len(set(names)) < len(names):
        raise BadRequest(f"these are not bands of {kind.key}, each once", got=", ".join(names),
                         allowed=", ".join(kind.band_names))
    return names


def map_area(
    aoi: str | Path,
    sensor: str = "auto",
    *,
    task: str | None = None,
    period: str | None = None,
    catalog: str | Path | None = None,
    checkpoint: str | Path | None = None,
    out: str | Path | None = None,
    tile_size: int = 512,
    device: str = "auto",
    adapt: bool = False,
    speed: Speed = "default",
    resume: bool = False,
    progress: bool = True,
) -> xr.Dataset:
    """Map an area, as ``python -m pipeline.map`` does, and open the result lazily.

    Args:
        aoi, sensor, task, period, catalog, checkpoint, out, tile_size, device, adapt, speed,
            resume: as on the command line.
        progress: show a progress bar.

    Returns:
        Dask-backed dataset with ``map``, ``confidence``, ``sensor``, ``observations`` and
        ``quality`` (y, x) as stored, with CRS, nodata and class attributes. An area in several UTM
        zones is shown on the grid of the largest sheet (nearest neighbour); the files keep their
        own.
        ``attrs["manifest"]`` is the path of the manifest.

    Raises:
        BadRequest, DataTrouble: as on the command line. Failed tiles do not raise: see
            ``attrs["failed_tiles"]``.
    """
    from pipeline.mapping import make_map, make_request

    request = make_request(
        str(aoi), sensor, task=task, period=period, catalog=str(catalog) if catalog else None,
        checkpoint=str(checkpoint) if checkpoint else None, out=str(out) if out else None,
        tile_px=tile_size, device=device, adapt=adapt, speed=speed,
    )
    manifest = make_map(request, resume=resume, progress=progress)
    area = read_aoi(str(aoi)).geometry
    layers = {
        name: _open_layer(sorted(request.out / f for f in manifest.files if Path(f).stem == name
                                 and f.endswith(".tif")), area)
        for name in ("map", "confidence", "sensor", "observations", "quality")
    }
    result = xr.Dataset({k: v.rename(k) for k, v in layers.items()})
    result.attrs = {
        "title": request.task.title, "period": str(request.timeline),
        "mapped_share": manifest.mapped_share, "failed_tiles": len(manifest.failed),
        "manifest": str(request.out / "manifest.json"),
    }
    return result


def _open_layer(paths: list[Path], area: BaseGeometry) -> xr.DataArray:
    """One layer of all sheets, on the grid of the largest."""
    if len(paths) == 1:
        return _array(paths[0])
    largest = max(paths, key=_pixels)
    with rasterio.open(largest) as src:
        crs, pixel = src.crs, src.res[0]
    bounds = [_bounds_in(path, crs) for path in paths]
    union = (min(b[0] for b in bounds), min(b[1] for b in bounds),
             max(b[2] for b in bounds), max(b[3] for b in bounds))
    grid = window(union, crs.to_epsg(), int(pixel))
    paths = sorted(paths, key=lambda p: p != largest)
    merged = _array(_warped(paths[0], crs, grid))
    for path in paths[1:]:
        merged = _fill(merged, path, crs, grid)
    # Two zones' pixels are rotated against each other: along their border a centre can fall on a
    # pixel that the other sheet leaves to this one. Half a pixel to the side it has a value.
    to_crs = Transformer.from_crs(4326, crs, always_xy=True).transform
    outline = shapely.transform(shapely.segmentize(area, 0.02), to_crs, interleaved=False)
    inside = _inside(outline, grid)
    for path in paths:
        for dx, dy in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)):
            merged = _fill(merged, path, crs, grid.translate_pix(dx, dy), inside)
    return merged


def _fill(
    merged: xr.DataArray, path: Path, crs: Any, grid: GeoBox, where: da.Array | None = None
) -> xr.DataArray:
    """``merged`` with its nodata pixels taken from a sheet, in ``where`` ([Y, X] bool) only."""
    nodata, attrs = merged.rio.nodata, merged.attrs
    keep = merged != nodata
    if where is not None:
        keep = keep | ~where
    filled = merged.where(keep, _array(_warped(path, crs, grid)).data)
    return filled.rio.write_nodata(nodata).assign_attrs(attrs)


def _inside(area: BaseGeometry, grid: GeoBox) -> da.Array:
    """[Y, X] bool, lazily: pixels whose centre lies in an area of the grid's CRS."""

    def block(block_info: Any = None) -> np.ndarray:
        rows, cols = (slice(*ends) for ends in block_info[None]["array-location"])
        part = grid[rows, cols]
        return geometry_mask([area], out_shape=part.shape, transform=part.affine, invert=True)

    chunks = da.core.normalize_chunks(CHUNK_PX, tuple(grid.shape))
    return da.map_blocks(block, chunks=chunks, dtype=bool, meta=np.empty((0, 0), bool))


def _array(source: Path | WarpedVRT) -> xr.DataArray:
    opened: Any = rioxarray.open_rasterio(source, cache=False)
    # Dask would take two warped views of one file for the same array: rioxarray names by file
    where = source.transform if isinstance(source, WarpedVRT) else ""
    lazy = opened.chunk({"x": CHUNK_PX, "y": CHUNK_PX}, token=f"{source}{where}")
    return lazy.squeeze("band", drop=True)


def _warped(path: Path, crs: Any, grid: GeoBox) -> WarpedVRT:
    return WarpedVRT(
        rasterio.open(path), crs=crs, transform=grid.affine, width=grid.shape.x,
        height=grid.shape.y, resampling=Resampling.nearest,
    )


def _pixels(path: Path) -> int:
    with rasterio.open(path) as src:
        return int(src.width * src.height)


def _bounds_in(path: Path, crs: Any) -> tuple[float, float, float, float]:
    with rasterio.open(path) as src:
        to = Transformer.from_crs(src.crs, crs, always_xy=True)
        return to.transform_bounds(*src.bounds)


def _one_grid(area: Aoi, pixel_m: int) -> GeoBox:
    """A pixel-snapped grid of the whole area in the UTM zone of its centre."""
    centre = area.geometry.centroid
    epsg = utm_epsg(utm_zone(centre.x), centre.y >= 0)
    to_utm = Transformer.from_crs(4326, epsg, always_xy=True)
    west, _, east, _ = area.geometry.bounds
    if east - west > 12:
        raise BadRequest("the area is too wide for one cube", got=f"{east - west:.1f} degrees",
                         allowed="12 degrees", then="open it in parts")
    outline = shapely.segmentize(area.geometry, 0.02)
    return window(
        shapely.transform(outline, to_utm.transform, interleaved=False).bounds, epsg, pixel_m
    )



