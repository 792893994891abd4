"""The tiles of a plan: read ahead, predict, store in order, go on after a failure."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.data.block_store import SHARED
from pipeline.data.items import ItemSet
from pipeline.data.load import load_cube
from pipeline.data.places import read_places
from pipeline.infer.gate import through_gate
from pipeline.infer.lanes import Lanes, in_order, one_thread_each
from pipeline.infer.plan import PlanRow
from pipeline.infer.predict import Predictor
from pipeline.infer.profile import Profile
from pipeline.infer.store import RunStore
from pipeline.infer.tile import TileReader, map_tile
from pipeline.prep.adapt import Shift
from pipeline.prep.features import bands_needed
from pipeline.prep.place import halo_px
from pipeline.spec.card import SensorCard
from pipeline.spec.cube import Cube
from pipeline.spec.manifest import TileRecord
from pipeline.spec.sensors import SENSORS
from pipeline.spec.tasks import Task
from pipeline.spec.timeline import Timeline

_STRIP = 3  # tiles across


@dataclass(frozen=True)
class Reader:
    """Reads a tile of one sensor: the bands and place features that the checkpoint needs.

    Attributes:
        items: per sensor.
        cards: per sensor.
        timeline: the months.
        task: pixel sizes, and the window of the smoothing: half of it is read beyond the tile.
        layers: elevation and land cover, where they were found.
        shifts: per sensor whose levels are brought to the checkpoint's radiometry.
        composited: is told the processor seconds of each composite.
    """

    items: Mapping[str, ItemSet]
    cards: Mapping[str, SensorCard]
    timeline: Timeline
    task: Task
    layers: Mapping[str, ItemSet] = field(default_factory=dict)
    shifts: Mapping[str, Shift] = field(default_factory=dict)
    composited: Callable[[float], None] | None = None

    def __call__(self, row: PlanRow, sensor: str) -> tuple[Cube, float]:
        """Cube of the tile and its halo, and the seconds it took."""
        started = time.perf_counter()
        card = self.cards[sensor]
        window = row.tile.geobox.pad(self.task.smooth_px(sensor) // 2)
        bands = bands_needed(card.features, SENSORS[sensor].band_names)
        cube = through_gate(
            lambda: load_cube(self.items[sensor], window, bands, self.timeline,
                              aggregate=self.task.aggregate, composited=self.composited),
            row, self.items[sensor], self.task.min_steps)
        if sensor in self.shifts:
            cube = replace(cube, x=self.shifts[sensor].apply(cube.x, cube.bands))
        if card.static:
            place = read_places(self.layers, window, card.static, self.task)
            cube = replace(cube, place=place)
        return cube, time.perf_counter() - started


def run_tiles(
    rows: Sequence[PlanRow],
    reader: TileReader,
    predictor: Predictor,
    store: RunStore,
    finished: Callable[[TileRecord], None],
    lanes: Lanes = Lanes(),  # noqa: B008 - frozen
    profile: Profile | None = None,
) -> list[TileRecord]:
    """Map every tile of the plan that the store does not hold yet.

    Later tiles are read and predicted while a tile is stored; they are stored strip by strip,
    here, and counted as finished only then.

    Args:
        rows: the plan.
        reader: of cubes.
        predictor: the checkpoint.
        store: of the results.
        finished: called after each tile, also for those found in the store.
        lanes: how many tiles at once.
        profile: counts what each stage took.

    Returns:
        One record a tile, in the order of the plan. A tile whose data could not be read is
        recorded as failed, and the others go on.
    """
    records = store.done()
    for row in rows:
        if row.key in records:
            finished(records[row.key])
    todo = in_strips([row for row in rows if row.key not in records])

    number = {row.key: k for k, row in enumerate(todo)}
    # elevation is read further around a tile than images are
    places = any(card.static for card in predictor.card.sensors.values())
    beyond = halo_px(predictor.task) if places else 0

    def read(row: PlanRow) -> tuple[Cube, float] | None:
        try:
            return reader(row, row.choices[0].sensor) if row.choices else None
        finally:
            if len(row.choices) < 2:
                SHARED.passed(number[row.key])

    def work(
        row: PlanRow, first: Future[tuple[Cube, float] | None]
    ) -> tuple[TileRecord, dict[str, np.ndarray]]:
        try:
            return map_tile(row, first, reader, predictor, store.layers)
        finally:
            if len(row.choices) > 1:  # others may have been read, too
                SHARED.passed(number[row.key])

    with (
        one_thread_each(predictor.device),
        SHARED.expecting([row.tile.geobox.pad(beyond) for row in todo], store.root),
        closing(in_order(todo, read, work, lanes)) as tiles,
        _halting(predictor),
    ):
        for row, (record, arrays) in tiles:
            started = time.perf_counter()
            store.put(row.tile, arrays, row.sheet.name)
            took = round(time.perf_counter() - started, 3)
            record = dataclasses.replace(record, seconds={**record.seconds, "write": took})
            store.log(record)
            if profile:
                profile.add_tile(record)
            records[record.key] = record
            finished(record)
    SHARED.files.clear()  # publishing opens files of its own
    if profile:
        profile.tiles_done()
    return [records[row.key] for row in rows]


@contextmanager
def _halting(predictor: Predictor) -> Iterator[None]:
    """After an error or Ctrl-C what is being predicted is not waited for."""
    predictor.halted.clear()
    try:
        yield
    except BaseException:
        predictor.halted.set()
        raise


def in_strips(rows: Sequence[PlanRow]) -> list[PlanRow]:
    """Tiles in strips of a few columns, downwards: a strip's blocks of the images are still held
    when the next row of it needs them, those of a wide area's row are not."""
    return sorted(rows, key=lambda row: (row.sheet.name, row.tile.ix // _STRIP, row.tile.iy,
                                         row.tile.ix))
