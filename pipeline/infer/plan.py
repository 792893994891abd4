"""Which sensor for which tile, and why: before any pixel is read. This is also ``--dry-run``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pystac
import shapely
from pyproj import Transformer

from pipeline.data.items import ItemSet, when
from pipeline.spec.card import CheckpointCard
from pipeline.spec.grid import Sheet, Tile
from pipeline.spec.sensors import SENSORS
from pipeline.spec.timeline import Timeline


@dataclass(frozen=True)
class Choice:
    """One sensor for one tile.

    Attributes:
        sensor: key.
        items: acquisitions whose footprint touches the tile, as indices into the item set.
        expected_steps: expected number of steps with at least one clear observation.
        score: the card's held-out score at that coverage.
    """

    sensor: str
    items: tuple[int, ...]
    expected_steps: float
    score: float


@dataclass(frozen=True)
class PlanRow:
    """A tile and its sensors, best first; empty when no sensor has an item there."""

    sheet: Sheet
    tile: Tile
    choices: tuple[Choice, ...]
    reason: str


def plan(
    sheets: Sequence[Sheet],
    tile_px: int,
    items: Mapping[str, ItemSet],
    card: CheckpointCard,
    timeline: Timeline,
    preference: Sequence[str],
) -> list[PlanRow]:
    """Rank the sensors of each tile.

    Args:
        sheets: of the area.
        tile_px: tile size.
        items: per candidate sensor.
        card: whose coverage curves rank the sensors.
        timeline: the months.
        preference: sensor keys in order; empty = by the card's score at the expected coverage.

    Returns:
        One row a tile, in the order of work.
    """
    tiles = [(sheet, tile) for sheet in sheets for tile in sheet.tiles(tile_px)]
    boxes = _lonlat_boxes(tiles)
    touching = {key: _touching(s.items, boxes) for key, s in items.items()}
    usable = {key: _usable_steps(s.items, timeline) for key, s in items.items()}
    rows = []
    for k, (sheet, tile) in enumerate(tiles):
        choices = []
        for key in items:
            members = touching[key][k]
            if not members:
                continue
            steps = _expected_steps([usable[key][m] for m in members], timeline.steps)
            choices.append(Choice(key, members, steps, card.sensors[key].score_at(steps)))
        rows.append(_ranked(sheet, tile, choices, preference, card, timeline.steps))
    return rows


def _ranked(
    sheet: Sheet, tile: Tile, choices: list[Choice], preference: Sequence[str],
    card: CheckpointCard, steps: int,
) -> PlanRow:
    if not choices:
        return PlanRow(sheet, tile, (), "no acquisition of any sensor asked for covers the tile")
    if preference:
        order = sorted(choices, key=lambda c: preference.index(c.sensor))
        why = "asked for" if len(preference) == 1 else "first in the order asked for"
    else:
        order = sorted(choices, key=lambda c: (-c.score, SENSORS[c.sensor].code))
        why = f"best expected {card.metric}"
    best = order[0]
    reason = (
        f"{best.sensor}: {why}, {best.expected_steps:.1f} of {steps} steps expected "
        f"({card.metric} {best.score:.3f})"
    )
    others = ", ".join(f"{c.sensor} {c.score:.3f} at {c.expected_steps:.1f}" for c in order[1:])
    return PlanRow(sheet, tile, tuple(order), reason + (f"; else {others}" if others else ""))


def _lonlat_boxes(tiles: Sequence[tuple[Sheet, Tile]]) -> np.ndarray:
    """Tile outlines in EPSG:4326, as shapely boxes (bounds of the projected corners)."""
    boxes = []
    transformers = {s.epsg: Transformer.from_crs(s.epsg, 4326, always_xy=True) for s, _ in tiles}
    for sheet, tile in tiles:
        bounds = transformers[sheet.epsg].transform_bounds(*tile.geobox.boundingbox.bbox)
        boxes.append(shapely.box(*bounds))
    return np.array(boxes, dtype=object)


def _touching(items: Sequence[pystac.Item], boxes: np.ndarray) -> list[tuple[int, ...]]:
    """Per tile: indices of the items whose footprint meets it."""
    footprints = np.array([shapely.geometry.shape(i.geometry) for i in items], dtype=object)
    found: list[list[int]] = [[] for _ in boxes]
    if footprints.size and boxes.size:
        tree = shapely.STRtree(footprints)
        for tile, item in tree.query(boxes, predicate="intersects").T:
            found[tile].append(int(item))
    return [tuple(sorted(members)) for members in found]


def _usable_steps(
    items: Sequence[pystac.Item], timeline: Timeline
) -> list[tuple[int | None, float]]:
    """Per item: its step, and the chance that a pixel of it is clear."""
    steps = [timeline.step_of(when(item)) for item in items]
    cloud = [float(i.properties.get("eo:cloud_cover") or 0.0) / 100 for i in items]
    return [(s, 1.0 - min(max(c, 0.0), 1.0)) for s, c in zip(steps, cloud, strict=True)]


def _expected_steps(usable: Sequence[tuple[int | None, float]], steps: int) -> float:
    """Expected number of steps with at least one clear observation, items being independent."""
    missed = np.ones(steps)
    for step, clear in usable:
        if step is not None:
            missed[step] *= 1.0 - clear
    return float((1.0 - missed).sum())
