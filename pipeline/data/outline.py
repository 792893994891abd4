"""Outlines of areas: self-crossings and the antimeridian."""

from __future__ import annotations

import numpy as np
import shapely
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from pipeline.spec.errors import BadRequest

# Mending may change the area by this share; more, and the outline does not say what was meant.
_MENDED_SHARE = 0.01
# Looking for flaws and repairing them take time and memory by the number of crossings: a flawed
# outline has a few, a scribble of 10 000 vertices has ten million.
MAX_CROSSINGS = 100_000
_SAMPLED = 500  # edges
_FEW = 10  # crossings of sampled edges that may be chance


def unwrapped(polygon: BaseGeometry, text: str) -> BaseGeometry:
    """Rings made continuous in longitude: after a jump of more than 180 degrees, 360 is added.

    Neighbouring vertices never lie half the globe apart, so such a jump is the antimeridian.

    Args:
        polygon: degrees.
        text: the AOI as given, for the message.

    Raises:
        BadRequest: a ring goes around a pole.
    """
    rings = [shapely.get_coordinates(r) for r in (polygon.exterior, *polygon.interiors)]
    if all(np.abs(np.diff(xy[:, 0])).max(initial=0) <= 180 for xy in rings):
        return polygon
    for xy in rings:
        xy[:, 0] = np.unwrap(xy[:, 0], period=360)
        if abs(xy[0, 0] - xy[-1, 0]) > 180:
            raise BadRequest("the AOI goes around a pole", got=text, then="make it smaller")
    shell, *holes = rings
    for xy in holes:  # each to the turn that its shell is on
        xy[:, 0] += 360 * np.round((shell[:, 0].mean() - xy[:, 0].mean()) / 360)
    return Polygon(shell, holes)


def mended(polygon: BaseGeometry, text: str) -> BaseGeometry:
    """A valid polygon of the same area.

    Small flaws (a repeated vertex, a spike, a hole that touches the outline) are repaired. A
    figure of eight is refused: its lobes count against each other in the signed area, so the
    repaired area differs and nobody can tell which one was meant.

    Args:
        polygon: degrees, unwrapped.
        text: the AOI as given, for the message.

    Raises:
        BadRequest: the outline crosses itself, or encloses nothing.
    """
    if _crossings(polygon) > MAX_CROSSINGS:
        raise BadRequest("the AOI's outline crosses itself everywhere", got=text,
                         then="draw it anew")
    if polygon.is_valid:
        return polygon
    parts = shapely.get_parts(shapely.make_valid(polygon))
    area = shapely.union_all([g for g in parts if g.geom_type in ("Polygon", "MultiPolygon")])
    if area.is_empty:
        raise BadRequest("the AOI has no area", got=text, then="draw a polygon that encloses some")
    if abs(area.area - polygon.area) > _MENDED_SHARE * area.area:
        raise BadRequest(
            f"the AOI's outline crosses itself ({shapely.is_valid_reason(polygon)})", got=text,
            then="mend it (QGIS: Fix geometries; or shapely's buffer(0)) and look at the result",
        )
    return area


def _crossings(polygon: BaseGeometry) -> float:
    """How often edges cross edges, about: counted among evenly spaced ones where there are many."""
    rings = [shapely.get_coordinates(r) for r in (polygon.exterior, *polygon.interiors)]
    ends = np.concatenate([np.stack([xy[:-1], xy[1:]], 1) for xy in rings])
    some = shapely.linestrings(ends[:: -(-len(ends) // _SAMPLED)])
    found = shapely.STRtree(some).query(some, predicate="crosses").shape[1] / 2
    return found * (len(ends) / len(some)) ** 2 if found > _FEW else 0.0


def cut_at_antimeridian(area: BaseGeometry) -> BaseGeometry:
    """The polygons within +-180 of a valid, unwrapped area that may reach beyond."""
    pieces = []
    for part in shapely.get_parts(area):
        west, _, east, _ = part.bounds
        for turn in range(int((west + 180) // 360), int((east + 180) // 360) + 1):
            strip = shapely.box(turn * 360 - 180, -90, turn * 360 + 180, 90)
            inside = shapely.intersection(part, strip)
            pieces.append(shapely.transform(inside, lambda xy, t=turn: xy - [360 * t, 0]))
    polygons = [g for piece in pieces for g in shapely.get_parts(piece)
                if g.geom_type == "Polygon" and g.area > 0]
    return shapely.union_all(polygons)
