"""Grids and coordinates: small helpers that several files share."""

from __future__ import annotations

from functools import lru_cache

import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry


@lru_cache(maxsize=32)
def transformer(source: int | str, target: int | str) -> Transformer:
    """Transformer between two CRSs, x before y; kept, since making one takes milliseconds."""
    return Transformer.from_crs(source, target, always_xy=True)


def epsg_of(grid: GeoBox) -> int:
    """EPSG code of a grid in UTM."""
    code = grid.crs.to_epsg() if grid.crs is not None else None
    if code is None:
        raise ValueError(f"a grid without an EPSG code: {grid}")
    return code


def utm_transform(grid: GeoBox, pixel_m: int) -> Affine:
    """Affine of the same corner with another pixel size."""
    return Affine(pixel_m, 0, grid.affine.c, 0, -pixel_m, grid.affine.f)


@lru_cache(maxsize=16)
def footprint(grid: GeoBox) -> BaseGeometry:
    """Outline of a grid in EPSG:4326."""
    outline = shapely.box(*grid.boundingbox.bbox)
    step = max(grid.boundingbox.span_x, grid.boundingbox.span_y) / 4
    to_lonlat = transformer(epsg_of(grid), 4326).transform
    return shapely.transform(shapely.segmentize(outline, step), to_lonlat, interleaved=False)


@lru_cache(maxsize=16)
def mgrs_tile(zone: int, grid: GeoBox) -> str:
    """MGRS 100 km square of a grid's centre (northern hemisphere), such as ``31TGJ``."""
    left, low, right, top = grid.boundingbox.bbox
    east, north = (left + right) / 2, (low + top) / 2
    lat = transformer(epsg_of(grid), 4326).transform(east, north)[1]
    letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
    column = letters[(zone - 1) % 3 * 8 + int(east // 100_000) - 1]
    row = letters[(int(north // 100_000) + (5 if zone % 2 == 0 else 0)) % 20]
    return f"{zone:02d}{'CDEFGHJKLMNPQRSTUVWX'[int((lat + 80) // 8)]}{column}{row}"
