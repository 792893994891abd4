"""The fixed UTM lattice: sheets (one a zone and hemisphere) and the tiles they are mapped in.

Pixel edges are multiples of the pixel size in every zone, so two maps of overlapping areas share
pixels exactly, whatever their tile size.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import rasterio.features
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

# Latitudes that UTM reaches to; beyond, sheets would overlap, and no archive has cropland anyway.
SOUTH_END, NORTH_END = -80.0, 84.0

# rasterio silences a warning while it draws, for the whole process: of two threads that do so at
# once, one turns it on again for the other, or for good
_DRAWING = threading.Lock()

_TOP = 10_000_000  # northing that row 0 of the lattice hangs from (a multiple of every pixel size)


@dataclass(frozen=True)
class Tile:
    """One tile of a sheet, the unit of work.

    Attributes:
        ix, iy: lattice indices: columns ``[ix * tile_px, ...)``, rows counted downwards.
        geobox: the part of the lattice tile that lies in the sheet.
        rows, cols: where that part lies in the sheet's array.
    """

    ix: int
    iy: int
    geobox: GeoBox
    rows: slice
    cols: slice

    @property
    def name(self) -> str:
        return f"{self.ix}_{self.iy}"


@dataclass(frozen=True)
class Sheet:
    """The part of an area in one UTM zone and hemisphere.

    Attributes:
        zone: 1 to 60.
        north: hemisphere.
        geobox: smallest pixel-snapped window that holds the area.
        area: the area in the sheet's CRS, clipped to the zone.
    """

    zone: int
    north: bool
    geobox: GeoBox
    area: BaseGeometry

    @property
    def name(self) -> str:
        return f"utm{self.zone:02d}{'n' if self.north else 's'}"

    @property
    def epsg(self) -> int:
        return utm_epsg(self.zone, self.north)

    @property
    def pixel_m(self) -> float:
        return float(self.geobox.resolution.x)

    @property
    def lattice_origin(self) -> tuple[int, int]:
        """Lattice row (counted downwards) and column of the sheet's first pixel."""
        affine = self.geobox.affine
        return round((_TOP - affine.f) / self.pixel_m), round(affine.c / self.pixel_m)

    def tiles(self, tile_px: int) -> Iterator[Tile]:
        """Lattice tiles that touch the area, north to south, west to east."""
        (h, w), (row0, col0) = self.geobox.shape, self.lattice_origin
        shapely.prepare(self.area)
        for iy in range(row0 // tile_px, (row0 + h - 1) // tile_px + 1):
            for ix in range(col0 // tile_px, (col0 + w - 1) // tile_px + 1):
                rows = slice(max(iy * tile_px - row0, 0), min((iy + 1) * tile_px - row0, h))
                cols = slice(max(ix * tile_px - col0, 0), min((ix + 1) * tile_px - col0, w))
                part = self.geobox[rows, cols]
                if self.area.intersects(shapely.box(*part.boundingbox.bbox)):
                    yield Tile(ix, iy, part, rows, cols)

    def inside(self, window: GeoBox) -> np.ndarray:
        """[Y, X] bool: pixels of the window whose centre lies in the area."""
        with _DRAWING:
            return rasterio.features.geometry_mask(
                [self.area], out_shape=window.shape, transform=window.affine, invert=True
            )


def utm_epsg(zone: int, north: bool) -> int:
    """EPSG code of a WGS 84 / UTM zone."""
    return (32600 if north else 32700) + zone


def utm_zone(lon: float) -> int:
    """UTM zone (1-60) by the plain 6 degree rule; Norway's and Svalbard's exceptions are not used,
    so that zones partition the globe."""
    return min(int((lon + 180) // 6), 59) + 1


def window(bounds: tuple[float, float, float, float], epsg: int, pixel_m: int) -> GeoBox:
    """Smallest pixel-snapped GeoBox that holds ``bounds`` (left, bottom, right, top; metres)."""
    left, right = math.floor(bounds[0] / pixel_m), math.ceil(bounds[2] / pixel_m)
    low, high = math.floor(bounds[1] / pixel_m), math.ceil(bounds[3] / pixel_m)
    shape = (max(high - low, 1), max(right - left, 1))
    return GeoBox(shape, Affine(pixel_m, 0, left * pixel_m, 0, -pixel_m, high * pixel_m), epsg)


def sheets(area: BaseGeometry, pixel_m: int) -> list[Sheet]:
    """Sheets of an area, west to east, north before south.

    Args:
        area: (multi)polygon in EPSG:4326, within +-180 degrees.
        pixel_m: pixel size, metres.
    """
    west, _, east, _ = area.bounds
    found = []
    for zone in range(utm_zone(west), utm_zone(east) + 1):
        for north, low, high in ((True, 0.0, NORTH_END), (False, SOUTH_END, 0.0)):
            strip = shapely.box(zone * 6 - 186, low, zone * 6 - 180, high)
            part = _polygons(shapely.intersection(area, strip))
            if part.is_empty:
                continue
            # a straight edge in degrees is a curve in metres: add vertices before projecting
            part = shapely.segmentize(part, 0.02)
            epsg = utm_epsg(zone, north)
            to_utm = Transformer.from_crs(4326, epsg, always_xy=True).transform
            part = shapely.transform(part, to_utm, interleaved=False)
            # pixels whose centre may lie in the area: without the rim that outer bounds would add
            half = pixel_m / 2
            left, low, right, high = part.bounds
            inner = (left + half, low + half, right - half, high - half)
            wide = inner[0] < inner[2] and inner[1] < inner[3]
            grid = window(inner if wide else part.bounds, epsg, pixel_m)
            found.append(Sheet(zone, north, grid, part))
    return found


def _polygons(geometry: BaseGeometry) -> BaseGeometry:
    """The polygonal part of a geometry (an intersection may leave lines and points behind)."""
    parts = [g for g in shapely.get_parts(geometry) if g.geom_type in ("Polygon", "MultiPolygon")]
    return shapely.union_all([g for g in parts if g.area > 0])
