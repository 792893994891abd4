"""Labelled points -> series, out of the same cubes that are mapped.

A point is the lattice pixel that it lies in: sampled or mapped, that pixel gives the same input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import Transformer

from pipeline.data.items import ItemSet
from pipeline.data.load import load_cube
from pipeline.spec.errors import BadRequest
from pipeline.spec.grid import utm_epsg, utm_zone, window
from pipeline.spec.tasks import Task
from pipeline.spec.timeline import Timeline, parse_period

BLOCK_PX = 512  # points of one lattice block are read together


@dataclass(frozen=True)
class LabelPoints:
    """Labelled points.

    Attributes:
        ids: [N] str.
        lon, lat: [N] degrees, EPSG:4326.
        target: [N] class code or value.
        group: [N] str, points of one group stay in one fold.
        timelines: [N] months of each point.
    """

    ids: np.ndarray
    lon: np.ndarray
    lat: np.ndarray
    target: np.ndarray
    group: np.ndarray
    timelines: tuple[Timeline, ...]

    @property
    def area(self) -> shapely.Geometry:
        """Box around the points, a pixel wider, EPSG:4326."""
        pad = 0.005
        return shapely.box(self.lon.min() - pad, max(self.lat.min() - pad, -90),
                           self.lon.max() + pad, min(self.lat.max() + pad, 90))

    @property
    def span(self) -> Timeline:
        """Smallest timeline that holds those of all points."""
        first = min(t.first for t in self.timelines)
        return Timeline(first, max(t.last for t in self.timelines) - first + 1)


def read_points(
    path: str | Path, label_column: str, task: Task, period: str | None,
    group_column: str | None = None,
) -> LabelPoints:
    """Points of a GeoJSON, GeoPackage or other vector file.

    Args:
        path: of the file.
        label_column: holds the class code or the value.
        task: whose timeline the periods must fit.
        period: of all points; None reads each point's own from its ``period`` property.
        group_column: default: ``group`` where the file has it, else 0.1 degree cells.

    Raises:
        BadRequest: the file cannot be read, has no such column, no points, or labels or periods
            that the task does not take.
    """
    try:
        frame = gpd.read_file(path)
    except Exception as error:  # the readers behind geopandas share no base class
        raise BadRequest("the points cannot be read", got=f"{path}: {error}",
                         then="give a GeoJSON or GeoPackage of points") from None
    if frame.empty or not (frame.geom_type == "Point").all():
        raise BadRequest("the file holds no points, or other shapes, too", got=str(path),
                         then="give a GeoJSON or GeoPackage of points")
    if label_column not in frame:
        raise BadRequest("no such label column", got=label_column,
                         allowed=", ".join(c for c in frame.columns if c != "geometry"),
                         then="name it with --label-column")
    frame = frame.to_crs(4326)
    target = pd.to_numeric(frame[label_column], errors="coerce").to_numpy(float)
    keep = np.isfinite(target)
    codes = {c.code for c in task.classes}
    if codes and (odd := set(target[keep]) - codes):
        raise BadRequest(f"{label_column} holds values that are no class of {task.key}",
                         got=sorted(odd)[:5], allowed=str(sorted(codes)),
                         then="recode the labels")
    frame, target = frame[keep], target[keep]
    if period is None and "period" not in frame:
        raise BadRequest("the points have no period property", got=str(path),
                         then="give --period YYYY-MM")
    texts = [period] * len(frame) if period else [str(p) for p in frame["period"]]
    column = group_column or ("group" if "group" in frame else None)
    lon, lat = frame.geometry.x.to_numpy(), frame.geometry.y.to_numpy()
    group = (frame[column].astype(str).to_numpy() if column
             else np.array([f"{x:.1f}_{y:.1f}" for x, y in zip(lon, lat, strict=True)]))
    ids = (frame["id"].astype(str) if "id" in frame else
           pd.Series([f"{Path(path).stem}_{k:06d}" for k in range(len(frame))])).to_numpy()
    parsed = {text: parse_period(text, task.steps) for text in set(texts)}
    return LabelPoints(ids, lon, lat, target, group, tuple(parsed[t] for t in texts))


@dataclass(frozen=True)
class Block:
    """Points of one lattice block and one timeline: their rows, and the pixels they lie in."""

    rows: np.ndarray
    epsg: int
    timeline: Timeline
    x: np.ndarray
    y: np.ndarray


def blocks(points: LabelPoints, pixel_m: int) -> Iterator[Block]:
    """Group points so that each block is read once."""
    zone = np.array([utm_zone(v) for v in points.lon])
    epsg = np.array([utm_epsg(z, n) for z, n in zip(zone, points.lat >= 0, strict=True)])
    x, y = np.empty(len(epsg)), np.empty(len(epsg))
    for code in np.unique(epsg):
        at = epsg == code
        to_utm = Transformer.from_crs(4326, int(code), always_xy=True)
        x[at], y[at] = to_utm.transform(points.lon[at], points.lat[at])
    side = BLOCK_PX * pixel_m
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
        p = task.pixel_m
        grid = window((block.x.min(), block.y.min(), block.x.max(), block.y.max()), block.epsg, p)
        # a point on the window's right or lower edge belongs to the next lattice pixel
        grid = window((grid.affine.c, grid.boundingbox.bottom - p,
                       grid.boundingbox.right + p, grid.affine.f), block.epsg, p)
        col = np.floor((block.x - grid.affine.c) / p).astype(int)
        row = np.floor((grid.affine.f - block.y) / p).astype(int)
        for key, found in items.items():
            cube = load_cube(found, grid, bands[key], block.timeline, aggregate=task.aggregate)
            x, valid = series[key]
            x[block.rows] = cube.x[:, :, row, col].transpose(2, 0, 1)  # (T, B, P) -> (P, T, B)
            valid[block.rows] = cube.valid[:, row, col].T
        progress(block.rows.size)
    return series
