"""The sheets of a map in one picture: decimated codes on one grid, every pixel a real one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from pyproj import CRS, Transformer
from rasterio.enums import Resampling
from rasterio.warp import reproject, transform_bounds

from pipeline.spec.layers import Layer


@dataclass(frozen=True)
class Picture:
    """The grid of a picture.

    Attributes:
        crs: that of the sheets, or one around the area's centre where they have several.
        transform: of pixel corners, metres.
        shape: rows, columns.
        zones: number of CRSs among the sheets.
    """

    crs: CRS
    transform: Affine
    shape: tuple[int, int]
    zones: int

    @property
    def pixel_m(self) -> float:
        return self.transform.a

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top in metres from the lower left corner."""
        return (0.0, self.shape[1] * self.pixel_m, 0.0, self.shape[0] * self.pixel_m)


def picture_of(paths: Sequence[Path], max_px: int) -> Picture:
    """Grid that holds all sheets: their own pixels where these are few enough, else coarser ones.

    Args:
        paths: one COG of each sheet.
        max_px: longest side.
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(rasterio.open(path)) for path in paths]
        codes = {sheet.crs.to_epsg() for sheet in opened}
        crs = CRS.from_epsg(codes.pop()) if len(codes) == 1 else _around(opened)
        boxes = np.array([transform_bounds(s.crs, crs, *s.bounds) for s in opened])
        native = max(sheet.transform.a for sheet in opened)
        zones = len({sheet.crs.to_epsg() for sheet in opened})
    (left, bottom), (right, top) = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    pixel = max(native, (right - left) / max_px, (top - bottom) / max_px)
    shape = (max(round((top - bottom) / pixel), 1), max(round((right - left) / pixel), 1))
    return Picture(crs, Affine(pixel, 0, left, 0, -pixel, top), shape, zones)


def mosaic(paths: Sequence[Path], layer: Layer, picture: Picture) -> np.ndarray:
    """Codes of a layer on the picture's grid, nearest neighbour.

    Args:
        paths: the layer's COG of each sheet; the finest overview no finer than the picture is read.
        layer: meaning of the codes.
        picture: the grid.

    Returns:
        [Y, X] of the layer's dtype, nodata where no sheet has a value.
    """
    out = np.full(picture.shape, layer.nodata, layer.dtype)
    for path in paths:
        with rasterio.open(path) as sheet:
            factors = [f for f in sheet.overviews(1) if f * sheet.transform.a <= picture.pixel_m]
        level = {"overview_level": len(factors) - 1} if factors else {}
        with rasterio.open(path, **level) as sheet:
            reproject(
                rasterio.band(sheet, 1), out, src_nodata=layer.nodata,
                dst_transform=picture.transform, dst_crs=picture.crs, dst_nodata=layer.nodata,
                resampling=Resampling.nearest, init_dest_nodata=False,  # keep the other sheets
            )
    return out if picture.zones == 1 else _close_seams(out, layer.nodata)


def _close_seams(codes: np.ndarray, nodata: int) -> np.ndarray:
    """Close hairlines between zones: pixels there belong to either zone's grid by their centres,
    and a picture pixel can fall between two of them."""
    left, right = codes[:, :-2], codes[:, 2:]
    gap = (codes[:, 1:-1] == nodata) & (left != nodata) & (right != nodata)
    closed = codes.copy()
    closed[:, 1:-1][gap] = left[gap]
    return closed


def _around(sheets: Sequence[rasterio.DatasetReader]) -> CRS:
    """Equal-area CRS around the centre of the sheets (a mean of unit vectors: the antimeridian
    is no edge for it)."""
    corners = []
    for sheet in sheets:
        to_lonlat = Transformer.from_crs(sheet.crs, 4326, always_xy=True)
        box = sheet.bounds
        corners += [to_lonlat.transform(x, y) for x in (box.left, box.right)
                    for y in (box.bottom, box.top)]
    lon, lat = np.radians(np.array(corners)).T
    unit = np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)
    x, y, z = (part.mean() for part in unit)
    lon0, lat0 = np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))
    return CRS.from_proj4(f"+proj=laea +lat_0={lat0:.5f} +lon_0={lon0:.5f} +units=m +datum=WGS84")
