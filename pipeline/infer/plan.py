"""Which sensor for which tile, and why: before any pixel is read. This is also ``--dry-run``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from pipeline.data.items import ItemSet
from pipeline.infer.coverage import Cells, coverage
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
    """A part of a tile whose sensors are ranked together, best first."""

    rows: slice
    cols: slice
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Why:
    """How sensors are ranked, to be said in words.

    Attributes:
        preference: sensor keys in the user's order; empty = by score.
        mode: how they are taken.
        metric: what a score is.
        steps: of the timeline.
    """

    preference: tuple[str, ...]
    mode: Mode
    metric: str
    steps: int

    def __call__(self, cells: Sequence[Cell]) -> str:
        """Why some cells are mapped from what they are mapped from, in one line."""
        order = _summary(cells)
        if not order:
            return "no acquisition of any sensor asked for touches the tile"
        if self.mode == "all":
            parts = ", ".join(f"{c.sensor} {c.expected_steps:.1f} of {self.steps} steps expected "
                              f"({self.metric} {c.score:.3f})" for c in order)
            return f"all sensors fused: {parts}"
        if self.preference:
            order = tuple(sorted(order, key=lambda c: self.preference.index(c.sensor)))
            alone = len(self.preference) == 1
            why = "asked for" if alone else "first in the order asked for"
        else:
            why = f"best expected {self.metric}"
        firsts = {cell.choices[0].sensor for cell in cells if cell.choices}
        if len(firsts) > 1:
            why += f" (in most of its {len(cells)} cells; {', '.join(sorted(firsts))} lead in some)"
        best, *rest = order
        reason = (f"{best.sensor}: {why}, {best.expected_steps:.1f} of {self.steps} steps "
                  f"expected ({self.metric} {best.score:.3f})")
        others = ", ".join(f"{c.sensor} {c.score:.3f} at {c.expected_steps:.1f}" for c in rest)
        return reason + (f"; else {others}" if others else "")


@dataclass(frozen=True)
class PlanRow:
    """A tile and the ranking of the sensors in its cells; no choice where nothing was acquired.

    With ``mode`` ``best`` the ranking is a promise that the pixels may break: a sensor that turns
    out worse than the next one's promise is measured against it.
    """

    sheet: Sheet
    tile: Tile
    cells: Sequence[Cell]
    reason: str
    mode: Mode = "order"
    why: Why | None = None

    @property
    def key(self) -> str:
        return f"{self.sheet.name}/{self.tile.name}"

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Per sensor: its mean over the tile's cells, the one that is first in most cells first."""
        return _summary(self.cells)

    def reason_of(self, cell: Cell) -> str:
        """Why one of its cells is mapped from what it is mapped from."""
        return self.why((cell,)) if self.why else self.reason

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
    why = Why(tuple(preference), how, card.metric, timeline.steps)
    for sheet in sheets:
        ranking = _rank_cells(sheet, items, card, timeline, preference)
        for tile in sheet.tiles(tile_px):
            cells = _TileCells(sheet, tile, ranking)
            rows.append(PlanRow(sheet, tile, cells, why(tuple(cells)), how, why))
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


@dataclass(frozen=True)
class _Ranking:
    """Sensors of the H x W lattice cells that a sheet's window touches, best first.

    Attributes:
        side: of a cell, pixels.
        top, left: lattice row and column of the first cell.
        index: [H, W] of ``choices``: cells that the same images cover share theirs.
        choices: each kind of cell once.
    """

    side: int
    top: int
    left: int
    index: np.ndarray
    choices: Sequence[tuple[Choice, ...]]


@dataclass(frozen=True)
class _TileCells(Sequence[Cell]):
    """The parts of the lattice cells that lie in a tile, made when they are looked at."""

    sheet: Sheet
    tile: Tile
    ranking: _Ranking

    def __iter__(self) -> Iterator[Cell]:
        (row0, col0), (h, w) = self.sheet.lattice_origin, self.tile.geobox.shape
        ranking, side = self.ranking, self.ranking.side
        top, left = row0 + self.tile.rows.start, col0 + self.tile.cols.start
        for cy in range(top // side, (top + h - 1) // side + 1):
            for cx in range(left // side, (left + w - 1) // side + 1):
                rows = slice(max(cy * side - top, 0), min((cy + 1) * side - top, h))
                cols = slice(max(cx * side - left, 0), min((cx + 1) * side - left, w))
                kind = ranking.index[cy - ranking.top, cx - ranking.left]
                yield Cell(rows, cols, ranking.choices[kind])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @overload
    def __getitem__(self, k: int) -> Cell: ...
    @overload
    def __getitem__(self, k: slice) -> tuple[Cell, ...]: ...
    def __getitem__(self, k: int | slice) -> Cell | tuple[Cell, ...]:
        return tuple(self)[k]


def _rank_cells(
    sheet: Sheet, items: Mapping[str, ItemSet], card: CheckpointCard, timeline: Timeline,
    preference: Sequence[str],
) -> _Ranking:
    """Rank the sensors of every lattice cell that the sheet's window touches."""
    side = cell_side(sheet)
    cells = Cells(sheet, side)
    kinds: list[list[Choice]] = []  # per sensor
    kind = np.full((len(cells.boxes), len(items)), -1)
    for s, (key, members) in enumerate(items.items()):
        counts, steps, seen = coverage(members, cells, timeline)
        has = counts > 0
        table, kind[has, s] = np.unique(np.column_stack([counts, steps, seen])[has], axis=0,
                                        return_inverse=True)
        kinds.append([Choice(key, int(n), k, card.sensors[key].score_at(k), tuple(each))
                      for n, k, *each in table.tolist()])

    def rank(choice: Choice) -> tuple[float, int]:
        if preference:
            return preference.index(choice.sensor), 0
        return -choice.score, SENSORS[choice.sensor].code

    every, index = np.unique(kind, axis=0, return_inverse=True)
    choices = [tuple(sorted((kinds[s][k] for s, k in enumerate(row) if k >= 0), key=rank))
               for row in every.tolist()]
    return _Ranking(side, cells.top, cells.left, index.reshape(cells.shape), choices)


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
