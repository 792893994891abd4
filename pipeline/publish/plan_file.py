"""The plan as a map: GeoJSON (RFC 7946) of the cells, what is expected there, and the choice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import shapely
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

from pipeline.infer.plan import Cell, Choice, PlanRow
from pipeline.publish.item import geojson
from pipeline.spec.grid import Sheet
from pipeline.spec.timeline import Timeline, month_text

PLAN = "plan.geojson"


def plan_geojson(rows: Sequence[PlanRow], timeline: Timeline, metric: str) -> dict[str, Any]:
    """The plan, one feature a cell (a part of a tile whose sensors are ranked together).

    Args:
        rows: of the plan.
        timeline: its months are those of ``expected_observations``.
        metric: what a score is.

    Returns:
        FeatureCollection in WGS 84 longitude and latitude. The cells together are the area: each
        is cut to it, and none crosses the antimeridian.
    """
    return {
        "type": "FeatureCollection",
        "metric": metric,
        "months": [month_text(month) for month in timeline.months],
        "features": [feature for _, group in groupby(rows, key=lambda row: row.sheet.name)
                     for feature in _features(list(group))],
    }


def choice_json(choice: Choice) -> dict[str, Any]:
    """What is expected of one sensor."""
    return {
        "sensor": choice.sensor, "items": choice.items,
        "expected_steps": round(choice.expected_steps, 3),
        "expected_observations": [round(n, 3) for n in choice.observations],
        "score": round(choice.score, 4),
    }


def _features(rows: Sequence[PlanRow]) -> Iterator[dict[str, Any]]:
    """Cells of rows of one sheet."""
    cells = [(row, k, cell) for row in rows for k, cell in enumerate(row.cells)]
    sheet = rows[0].sheet
    for (row, k, cell), outline in zip(cells, _outlines(sheet, cells), strict=True):
        if not outline.is_empty:
            yield {
                "type": "Feature", "id": f"{row.key}/{k}", "geometry": geojson(outline),
                "properties": {"sheet": sheet.name, "tile": row.tile.name, **_choice(row, cell),
                               "reason": row.reason_of(cell),
                               "sensors": [choice_json(c) for c in cell.choices]},
            }


def _choice(row: PlanRow, cell: Cell) -> dict[str, Any]:
    """The choice and its score; what several sensors score together was never measured."""
    one = row.mode != "all" or len(cell.choices) == 1
    score = round(cell.choices[0].score, 4) if cell.choices and one else None
    return {"choice": row.planned_of(cell) or None, "expected_score": score}


def _outlines(
    sheet: Sheet, cells: Sequence[tuple[PlanRow, int, Cell]]
) -> Sequence[BaseGeometry]:
    """Cells cut to the area, in EPSG:4326, on the zone's own side of the antimeridian."""
    affine, p = sheet.geobox.affine, sheet.pixel_m
    at = np.array([(row.tile.cols.start + left, row.tile.rows.start + top,
                    row.tile.cols.start + right, row.tile.rows.start + bottom)
                   for row, _, cell in cells
                   for top, bottom, _ in [cell.rows.indices(row.tile.geobox.shape[0])]
                   for left, right, _ in [cell.cols.indices(row.tile.geobox.shape[1])]])
    west, north, east, south = at.T * p
    boxes = shapely.box(affine.c + west, affine.f - south, affine.c + east, affine.f - north)
    shapely.prepare(sheet.area)
    cut = ~shapely.covers(sheet.area, boxes)
    boxes[cut] = shapely.intersection(sheet.area, boxes[cut])
    back = Transformer.from_crs(sheet.epsg, 4326, always_xy=True).transform
    middle = sheet.zone * 6 - 183

    def unwrapped(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lon, lat = back(x, y)
        return np.clip(middle + (lon - middle + 180) % 360 - 180, -180, 180).round(7), lat.round(7)

    outlines = shapely.make_valid(shapely.transform(boxes, unwrapped, interleaved=False))
    plain = (shapely.get_type_id(outlines) == shapely.GeometryType.POLYGON) & (
        shapely.area(outlines) > 0)
    for k in np.flatnonzero(~plain):  # a cut may leave lines and points
        outlines[k] = shapely.union_all([
            part for part in shapely.get_parts(outlines[k])
            if part.geom_type in ("Polygon", "MultiPolygon") and part.area > 0])
    return outlines
