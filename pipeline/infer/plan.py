"""Which sensor for which tile, and why: before any pixel is read. This is also ``--dry-run``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pystac
import shapely
from pyproj import Transformer

from pipeline.data.items import ItemSet, when
from pipeline.spec.card import CheckpointCard
from pipeline.spec.grid import Sheet, Tile
from pipeline.spec.request import Mode
from pipeline.spec.sensors import SENSORS
from pipeline.spec.timeline import Timeline

# Side of the cells that sensors are ranked on, metres. Cells lie on the lattice, whatever the tile
# size and the area, so that the choice of a pixel depends on neither.
CELL_M = 1280
CELL_MIN_PX = 8


@dataclass(frozen=True)
class Choice:
    """One sensor for one cell.

    Attributes:
        sensor: key.
        items: number of acquisitions whose footprint touches the cell.
        expected_steps: expected number of steps with a clear observation, an acquisition that
            covers a part of the cell counting for that part.
        score: the card's held-out score at that coverage.
        observations: expected number of clear observations at each step.
    """

    sensor: str
    items: int
    expected_steps: float
    score: float
    observations: tuple[float, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A part of a tile whose sensors are ranked together, best first, and why so."""

    rows: slice
    cols: slice
    choices: tuple[Choice, ...]
    reason: str = ""


@dataclass(frozen=True)
class PlanRow:
    """A tile and the ranking of the sensors in its cells; no choice where nothing was acquired.

    With ``mode`` ``best`` the ranking is a promise that the pixels may break: a sensor that turns
    out worse than the next one's promise is measured against it.
    """

    sheet: Sheet
    tile: Tile
    cells: tuple[Cell, ...]
    reason: str
    mode: Mode = "order"

    @property
    def key(self) -> str:
        return f"{self.sheet.name}/{self.tile.name}"

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Per sensor: its mean over the tile's cells, the one that is first in most cells first."""
        return _summary(self.cells)

    def where(self, sensor: str, rank: int | None = None) -> np.ndarray:
        """[Y, X] bool: pixels of the tile where the sensor has that rank; None = any."""
        mask = np.zeros(self.tile.geobox.shape, bool)
        for cell in self.cells:
            ranked = cell.choices if rank is None else cell.choices[rank : rank + 1]
            if any(choice.sensor == sensor for choice in ranked):
                mask[cell.rows, cell.cols] = True
        return mask

    def planned_of(self, cell: Cell) -> str:
        """Sensor that a cell is planned to be made of, or all of them (``s1+s2``)."""
        if self.mode != "all":
            return cell.choices[0].sensor if cell.choices else ""
        return "+".join(key for key in SENSORS if any(c.sensor == key for c in cell.choices))

    def planned(self, inside: np.ndarray) -> dict[str, int]:
        """Pixels of ``inside`` ([Y, X] bool) by the sensors that they are planned to be made of."""
        pixels: dict[str, int] = {}
        for cell in self.cells:
            if name := self.planned_of(cell):
                n = int(inside[cell.rows, cell.cols].sum())
                pixels[name] = pixels.get(name, 0) + n
        return pixels

    def promised(self, rank: int) -> np.ndarray:
        """[Y, X]: expected score of the sensor of that rank, minus infinity where there is none."""
        score = np.full(self.tile.geobox.shape, -np.inf)
        for cell in self.cells:
            for choice in cell.choices[rank : rank + 1]:
                score[cell.rows, cell.cols] = choice.score
        return score


def plan(
    sheets: Sequence[Sheet],
    tile_px: int,
    items: Mapping[str, ItemSet],
    card: CheckpointCard,
    timeline: Timeline,
    preference: Sequence[str],
    mode: Mode | None = None,
) -> list[PlanRow]:
    """Rank the sensors of each tile.

    Args:
        sheets: of the area.
        tile_px: tile size.
        items: per candidate sensor.
        card: whose coverage curves rank the sensors.
        timeline: the months.
        preference: sensor keys in order; empty = by the card's score at the expected coverage.
        mode: how they are taken; None = ``order`` with a preference, else ``best``.

    Returns:
        One row a tile, in the order of work.
    """
    rows = []
    how: Mode = mode or ("order" if preference else "best")

    def explained(cell: Cell) -> Cell:
        return replace(cell, reason=_reason((cell,), preference, how, card, timeline))

    for sheet in sheets:
        side = cell_side(sheet)
        ranked = _rank_cells(sheet, side, items, card, timeline, preference)
        for tile in sheet.tiles(tile_px):
            cells = tuple(map(explained, _cells_of(sheet, tile, side, ranked)))
            why = _reason(cells, preference, how, card, timeline)
            rows.append(PlanRow(sheet, tile, cells, why, how))
    return rows


def cell_side(sheet: Sheet) -> int:
    """Side of a sheet's cells, pixels."""
    return max(CELL_M // int(sheet.pixel_m), CELL_MIN_PX)


def lattice_cells(sheet: Sheet) -> list[tuple[int, int]]:
    """Row and column, on the lattice of cells, of every cell that the sheet's window touches."""
    side, (row0, col0), (h, w) = cell_side(sheet), sheet.lattice_origin, sheet.geobox.shape
    return [
        (cy, cx)
        for cy in range(row0 // side, (row0 + h - 1) // side + 1)
        for cx in range(col0 // side, (col0 + w - 1) // side + 1)
    ]


def _cells_of(
    sheet: Sheet, tile: Tile, side: int, ranked: Mapping[tuple[int, int], tuple[Choice, ...]]
) -> Iterator[Cell]:
    """The parts of the lattice cells that lie in a tile."""
    (row0, col0), (h, w) = sheet.lattice_origin, tile.geobox.shape
    top, left = row0 + tile.rows.start, col0 + tile.cols.start
    for cy in range(top // side, (top + h - 1) // side + 1):
        for cx in range(left // side, (left + w - 1) // side + 1):
            rows = slice(max(cy * side - top, 0), min((cy + 1) * side - top, h))
            cols = slice(max(cx * side - left, 0), min((cx + 1) * side - left, w))
            yield Cell(rows, cols, ranked[cy, cx])


def _rank_cells(
    sheet: Sheet, side: int, items: Mapping[str, ItemSet], card: CheckpointCard,
    timeline: Timeline, preference: Sequence[str],
) -> dict[tuple[int, int], tuple[Choice, ...]]:
    """Sensors of every lattice cell that the sheet's window touches, best first."""
    keys = lattice_cells(sheet)
    boxes = _lonlat_boxes(sheet, side, keys)
    found: list[list[Choice]] = [[] for _ in keys]
    for key, members in items.items():
        counts, steps, seen = _coverage(members, boxes, timeline)
        for k in np.flatnonzero(counts):
            score = card.sensors[key].score_at(steps[k])
            found[k].append(Choice(key, int(counts[k]), float(steps[k]), score,
                                   tuple(seen[k].tolist())))

    def rank(choice: Choice) -> tuple[float, int]:
        if preference:
            return preference.index(choice.sensor), 0
        return -choice.score, SENSORS[choice.sensor].code

    return {key: tuple(sorted(c, key=rank)) for key, c in zip(keys, found, strict=True)}


def _lonlat_boxes(sheet: Sheet, side: int, keys: Sequence[tuple[int, int]]) -> np.ndarray:
    """Cells in EPSG:4326, as the boxes around their projected corners."""
    (row0, col0), affine, p = sheet.lattice_origin, sheet.geobox.affine, sheet.pixel_m
    cy, cx = np.array(keys).T
    x = affine.c + (cx[:, None] * side - col0 + np.array([0, side, 0, side])) * p  # (K, 4)
    y = affine.f - (cy[:, None] * side - row0 + np.array([0, 0, side, side])) * p
    lon, lat = Transformer.from_crs(sheet.epsg, 4326, always_xy=True).transform(x, y)
    return shapely.box(lon.min(1), lat.min(1), lon.max(1), lat.max(1))


def _coverage(
    members: ItemSet, boxes: np.ndarray, timeline: Timeline
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per cell: number of items that touch it, expected number of clear steps, and [K, T] expected
    clear observations of each step.

    Items are taken as independent: a step is missed when all of its items miss it. Frames of one
    pass are one observation, however much they overlap.
    """
    items: Sequence[pystac.Item] = members.items
    footprints = np.array([shapely.geometry.shape(i.geometry) for i in items], dtype=object)
    steps = [timeline.step_of(when(i)) for i in items]
    clear = np.array([1 - min(max(float(i.properties.get("eo:cloud_cover") or 0), 0), 100) / 100
                      for i in items])
    missed = np.ones((len(boxes), timeline.steps))
    passes: dict[tuple[int, int, int], float] = {}  # cell, step, pass -> expected observations
    cell, item = shapely.STRtree(footprints).query(boxes, predicate="intersects")
    share = shapely.area(shapely.intersection(boxes[cell], footprints[item])) / shapely.area(
        boxes[cell]
    )
    for k, m, part in zip(cell, item, share, strict=True):
        if (step := steps[m]) is not None:
            missed[k, step] *= 1 - clear[m] * part
            one = (int(k), step, members.passes[m])
            passes[one] = min(passes.get(one, 0.0) + clear[m] * part, 1.0)
    seen = np.zeros_like(missed)
    for (k, step, _), expected in passes.items():
        seen[k, step] += expected
    return np.bincount(cell, minlength=len(boxes)), (1 - missed).sum(1), seen


def _summary(cells: Sequence[Cell]) -> tuple[Choice, ...]:
    by_sensor: dict[str, list[Choice]] = {}
    first: dict[str, int] = {}
    for cell in cells:
        for k, choice in enumerate(cell.choices):
            by_sensor.setdefault(choice.sensor, []).append(choice)
            first[choice.sensor] = first.get(choice.sensor, 0) + (k == 0)
    means = [
        Choice(key, max(c.items for c in group),
               float(np.mean([c.expected_steps for c in group])),
               float(np.mean([c.score for c in group])),
               tuple(np.mean([c.observations for c in group], axis=0).tolist()))
        for key, group in by_sensor.items()
    ]
    return tuple(sorted(means, key=lambda c: (-first[c.sensor], -c.score)))


def _reason(
    cells: Sequence[Cell], preference: Sequence[str], mode: Mode, card: CheckpointCard,
    timeline: Timeline,
) -> str:
    """Why the tile is mapped from what it is mapped from, in one line."""
    order = _summary(cells)
    if not order:
        return "no acquisition of any sensor asked for touches the tile"
    if mode == "all":
        parts = ", ".join(f"{c.sensor} {c.expected_steps:.1f} of {timeline.steps} steps expected "
                          f"({card.metric} {c.score:.3f})" for c in order)
        return f"all sensors fused: {parts}"
    if preference:
        order = tuple(sorted(order, key=lambda c: preference.index(c.sensor)))
        why = "asked for" if len(preference) == 1 else "first in the order asked for"
    else:
        why = f"best expected {card.metric}"
    firsts = {cell.choices[0].sensor for cell in cells if cell.choices}
    if len(firsts) > 1:
        why += f" (in most of its {len(cells)} cells; {', '.join(sorted(firsts))} lead in some)"
    best, *rest = order
    reason = (f"{best.sensor}: {why}, {best.expected_steps:.1f} of {timeline.steps} steps "
              f"expected ({card.metric} {best.score:.3f})")
    others = ", ".join(f"{c.sensor} {c.score:.3f} at {c.expected_steps:.1f}" for c in rest)
    return reason + (f"; else {others}" if others else "")
