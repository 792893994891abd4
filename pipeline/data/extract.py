"""Labelled points -> series, out of the same cubes that are mapped.

A point is the lattice pixel that it lies in: sampled or mapped, that pixel gives the same input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pyproj.exceptions import ProjError

from pipeline.data.geopackage import check_geopackage
from pipeline.data.items import ItemSet
from pipeline.data.load import load_cube
from pipeline.data.place_columns import PREFIX
from pipeline.data.places import read_places
from pipeline.data.points import targets
from pipeline.spec.errors import BadRequest
from pipeline.spec.grid import NORTH_END, SOUTH_END, utm_epsg, utm_zone, window
from pipeline.spec.tasks import Task
from pipeline.spec.timeline import Timeline, parse_period

BLOCK_PX = 512  # points of one lattice block are read together
PLACE_BLOCK_M = 5000  # the same for place features, which need no month of every image

_PAD = 0.005  # degrees of latitude, 550 m: two pixels of the coarsest map

# Columns that samples.parquet has a meaning for already (``data.points``).
_TAKEN = ("sample_id", "lon", "lat", "group", "valid_date", "date_end")


@dataclass(frozen=True)
class LabelPoints:
    """Labelled points.

    Attributes:
        ids: [N] str.
        lon, lat: [N] degrees, EPSG:4326.
        target: [N] class code or value.
        group: [N] str, points of one group stay in one fold.
        timelines: [N] months of each point.
        unlabelled: points of the file that were left out, having no label.
    """

    ids: np.ndarray
    lon: np.ndarray
    lat: np.ndarray
    target: np.ndarray
    group: np.ndarray
    timelines: tuple[Timeline, ...]
    unlabelled: int = 0

    @property
    def area(self) -> shapely.Geometry:
        """Boxes around the points, two map pixels wide or more, EPSG:4326: whatever lies between
        far-apart points is not searched for."""
        high = _PAD
        wide = high / np.cos(np.radians(np.minimum(np.abs(self.lat), NORTH_END)))
        return shapely.union_all(shapely.box(
            np.maximum(self.lon - wide, -180), np.maximum(self.lat - high, -90),
            np.minimum(self.lon + wide, 180), np.minimum(self.lat + high, 90)))

    @property
    def span(self) -> Timeline:
        """Smallest timeline that holds those of all points."""
        first = min(t.first for t in self.timelines)
        return Timeline(first, max(t.last for t in self.timelines) - first + 1)


def read_points(
    path: str | Path, label_column: str, task: Task, period: str | None,
    group_column: str | None = None,
) -> LabelPoints:
    """Points of a GeoJSON, GeoPackage or other vector file; those without a label are left out.

    Args:
        path: of the file.
        label_column: holds the class (code or name) or the value.
        task: whose timeline the periods must fit.
        period: of all points; None reads each point's own from its ``period`` property.
        group_column: default: ``group`` where the file has it. A point without a group gets its
            0.1 degree cell.

    Raises:
        BadRequest: the file cannot be read, has no such column, no points, no CRS, repeated ids,
            or places, labels or periods that cannot be sampled.
    """
    frame = _read_frame(path)
    _need_column(frame, label_column, "--label-column")
    if label_column in _TAKEN or label_column.startswith(PREFIX):
        raise BadRequest("a label column of this name would overwrite the samples' own",
                         got=label_column, then="rename it in the file")
    target, labelled = targets(frame[label_column], task, Path(path))
    if task.classes:
        target = np.array([c.code for c in task.classes])[target]
    unlabelled = int((~labelled).sum())
    frame = frame[labelled].reset_index(drop=True)
    if period is None and "period" not in frame:
        raise BadRequest("the points have no period property", got=str(path),
                         then="give --period YYYY-MM")
    texts = [period] * len(frame) if period else [str(p) for p in frame["period"]]
    parsed = {text: parse_period(text, task.steps) for text in set(texts)}
    lon, lat = _places(frame, path)
    return LabelPoints(_ids(frame, path), lon, lat, target, _groups(frame, lon, lat, group_column),
                       tuple(parsed[t] for t in texts), unlabelled)


def _read_frame(path: str | Path) -> gpd.GeoDataFrame:
    """The file's points, in whatever CRS it states."""
    if Path(path).suffix.lower() == ".gpkg":
        check_geopackage(Path(path))
    try:
        frame = gpd.read_file(path)
    except Exception as error:  # the readers behind geopandas share no base class
        raise BadRequest("the points cannot be read", got=f"{path}: {error}",
                         then="give a GeoJSON or GeoPackage of points") from None
    if (not isinstance(frame, gpd.GeoDataFrame) or frame.empty
            or not (frame.geom_type == "Point").all()):
        raise BadRequest("the file holds no points, or other shapes, too", got=str(path),
                         then="give a GeoJSON or GeoPackage of points")
    if frame.crs is None:
        raise BadRequest("the file of points declares no CRS", got=str(path),
                         then="assign one (QGIS: Layer > Set CRS) and save it again")
    return frame


def _need_column(frame: gpd.GeoDataFrame, name: str, option: str) -> None:
    columns = [c for c in frame.columns if c != frame.geometry.name]
    if name not in columns:
        raise BadRequest(f"the points have no such property for {option}", got=name,
                         allowed=", ".join(columns), then=f"name one of them with {option}")


def _places(frame: gpd.GeoDataFrame, path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes and latitudes; refused where no UTM sheet reaches."""
    try:
        frame = frame.to_crs(4326)
    except ProjError as error:
        raise BadRequest("the points cannot be brought to degrees", got=f"{path}: {error}",
                         then="save them again in WGS 84 (EPSG:4326)") from None
    lon, lat = frame.geometry.x.to_numpy(), frame.geometry.y.to_numpy()
    good = (np.abs(lon) <= 180) & (lat >= SOUTH_END) & (lat <= NORTH_END)  # NaN is not
    if not good.all():
        k = int(np.flatnonzero(~good)[0])
        raise BadRequest(
            f"{(~good).sum()} points lie where nothing is mapped, or are not in degrees",
            got=f"{path}: {lon[k]:g},{lat[k]:g}",
            allowed=f"longitudes within +-180, latitudes {SOUTH_END:g} to {NORTH_END:g}",
            then="declare the CRS that they are in, or take these points out",
        )
    return lon, lat


def _ids(frame: gpd.GeoDataFrame, path: str | Path) -> np.ndarray:
    """[N] str: the file's own ids, else numbers."""
    if "id" not in frame:
        return np.array([f"{Path(path).stem}_{k:06d}" for k in range(len(frame))], dtype=object)
    if missing := int(frame["id"].isna().sum()):
        raise BadRequest(f"{missing} points have no id, and others have one", got=str(path),
                         then="give each point its own id, or none")
    ids = frame["id"].astype(str)
    if (again := ids.duplicated()).any():
        raise BadRequest(f"{again.sum()} points have an id that occurred before",
                         got=ids[again].iloc[0], then="give each point its own id, or none")
    return ids.to_numpy()


def _groups(
    frame: gpd.GeoDataFrame, lon: np.ndarray, lat: np.ndarray, column: str | None
) -> np.ndarray:
    """[N] str: the column's text, the 0.1 degree cell where it is empty."""
    cell = pd.Series([f"{x:.1f}_{y:.1f}" for x, y in zip(lon, lat, strict=True)])
    if column:
        _need_column(frame, column, "--group-column")
    elif "group" in frame:
        column = "group"
    else:
        return cell.to_numpy()
    return frame[column].astype(str).where(frame[column].notna(), cell).to_numpy()


@dataclass(frozen=True)
class Block:
    """Points of one lattice block and one timeline: their rows, and the pixels they lie in."""

    rows: np.ndarray
    epsg: int
    timeline: Timeline
    x: np.ndarray
    y: np.ndarray

    def window(self, pixel_m: int) -> tuple[GeoBox, np.ndarray, np.ndarray]:
        """Lattice window that holds the points, and the row and column of each in it."""
        p = pixel_m
        grid = window((self.x.min(), self.y.min(), self.x.max(), self.y.max()), self.epsg, p)
        # a point on the window's right or lower edge belongs to the next lattice pixel
        grid = window((grid.affine.c, grid.boundingbox.bottom - p,
                       grid.boundingbox.right + p, grid.affine.f), self.epsg, p)
        row = np.floor((grid.affine.f - self.y) / p).astype(int)
        return grid, row, np.floor((self.x - grid.affine.c) / p).astype(int)


def blocks(points: LabelPoints, pixel_m: int, block_px: int = BLOCK_PX) -> Iterator[Block]:
    """Group points so that each block is read once."""
    zone = np.array([utm_zone(v) for v in points.lon])
    epsg = np.array([utm_epsg(z, n) for z, n in zip(zone, points.lat >= 0, strict=True)])
    x, y = np.empty(len(epsg)), np.empty(len(epsg))
    for code in np.unique(epsg):
        at = epsg == code
        to_utm = Transformer.from_crs(4326, int(code), always_xy=True)
        x[at], y[at] = to_utm.transform(points.lon[at], points.lat[at])
    side = block_px * pixel_m
    keys = list(zip(epsg.tolist(), (x // side).tolist(), (y // side).tolist(),
                    points.timelines, strict=True))
    order: dict[tuple, list[int]] = {}
    for row, key in enumerate(keys):
        order.setdefault(key, []).append(row)
    for (code, _, _, timeline), members in order.items():
        rows = np.array(members)
        yield Block(rows, int(code), timeline, x[rows], y[rows])


def extract(
    points: LabelPoints, task: Task, items: Mapping[str, ItemSet],
    bands: Mapping[str, Sequence[str]], progress: Callable[[int], object],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Series of every point from every sensor.

    Args:
        points: where.
        task: pixel size and timeline.
        items: per sensor.
        bands: per sensor, the bands to extract.
        progress: called with the number of points done since the last call.

    Returns:
        Per sensor: [N, T, B] float32 composites in the sensor's unit (NaN = gap) and [N, T] bool
        validity.

    Raises:
        DataTrouble: an asset cannot be read.
    """
    n, t = len(points.ids), task.steps
    series = {
        key: (np.full((n, t, len(bands[key])), np.nan, np.float32), np.zeros((n, t), bool))
        for key in items
    }
    for block in blocks(points, task.pixel_m):
        grid, row, col = block.window(task.pixel_m)
        for key, found in items.items():
            cube = load_cube(found, grid, bands[key], block.timeline, aggregate=task.aggregate)
            x, valid = series[key]
            x[block.rows] = cube.x[:, :, row, col].transpose(2, 0, 1)  # (T, B, P) -> (P, T, B)
            valid[block.rows] = cube.valid[:, row, col].T
        progress(block.rows.size)
    return series


def extract_places(
    points: LabelPoints, task: Task, layers: Mapping[str, ItemSet]
) -> dict[str, np.ndarray]:
    """Place features of the pixel of every point: those of the task that the layers give.

    Args:
        points: where.
        task: pixel sizes, and the features.
        layers: elevation and land cover.

    Returns:
        By name, [N] float32, NaN where unknown.

    Raises:
        DataTrouble: a file cannot be read.
    """
    found: dict[str, np.ndarray] = {}
    always = replace(points, timelines=points.timelines[:1] * len(points.ids))
    for block in blocks(always, task.pixel_m, max(PLACE_BLOCK_M // task.pixel_m, 1)):
        grid, row, col = block.window(task.pixel_m)
        for name, values in read_places(layers, grid, task.static, task).items():
            column = found.setdefault(name, np.full(len(points.ids), np.nan, np.float32))
            column[block.rows] = values[row, col]
    return found
