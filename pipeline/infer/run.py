"""The tiles of a plan, one after the other: read ahead, predict, store, go on after a failure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.data.items import ItemSet
from pipeline.data.load import load_cube
from pipeline.data.places import read_places
from pipeline.infer.decide import changes, decide
from pipeline.infer.fuse import fuse
from pipeline.infer.gate import through_gate
from pipeline.infer.part import clear_steps, core, part_of
from pipeline.infer.plan import PlanRow
from pipeline.infer.predict import Predictor
from pipeline.infer.store import RunStore
from pipeline.prep.adapt import Shift
from pipeline.prep.features import bands_needed
from pipeline.spec.card import SensorCard
from pipeline.spec.cube import Cube
from pipeline.spec.errors import DataTrouble
from pipeline.spec.layers import (
    NO_QUALITY,
    NO_SENSOR,
    OUTSIDE,
    Layer,
    quality_layer,
    sensor_layer,
)
from pipeline.spec.manifest import Status, TileRecord
from pipeline.spec.sensors import SENSORS
from pipeline.spec.tasks import Task
from pipeline.spec.timeline import Timeline


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
    """

    items: Mapping[str, ItemSet]
    cards: Mapping[str, SensorCard]
    timeline: Timeline
    task: Task
    layers: Mapping[str, ItemSet] = field(default_factory=dict)
    shifts: Mapping[str, Shift] = field(default_factory=dict)

    def __call__(self, row: PlanRow, sensor: str) -> tuple[Cube, float]:
        """Cube of the tile and its halo, and the seconds it took."""
        started = time.perf_counter()
        card = self.cards[sensor]
        window = row.tile.geobox.pad(self.task.smooth_px(sensor) // 2)
        bands = bands_needed(card.features, SENSORS[sensor].band_names)
        cube = through_gate(
            lambda: load_cube(self.items[sensor], window, bands, self.timeline,
                              aggregate=self.task.aggregate),
            row, self.items[sensor], self.task.min_steps)
        if sensor in self.shifts:
            cube = replace(cube, x=self.shifts[sensor].apply(cube.x, cube.bands))
        if card.static:
            place = read_places(self.layers, window, card.static, self.task)
            cube = replace(cube, place=place)
        return cube, time.perf_counter() - started


def run_tiles(
    rows: Sequence[PlanRow],
    reader: Reader,
    predictor: Predictor,
    store: RunStore,
    finished: Callable[[TileRecord], None],
) -> list[TileRecord]:
    """Map every tile of the plan that the store does not hold yet.

    Args:
        rows: the plan.
        reader: of cubes. Tile k + 1 is read while tile k is predicted; no more are held.
        predictor: the checkpoint.
        store: of the results.
        finished: called after each tile, also for those found in the store.

    Returns:
        One record a tile, in the order of the plan. A tile whose data could not be read is
        recorded as failed, and the others go on.
    """
    done = store.done()
    todo = [row for row in rows if row.key not in done]
    records = dict(done)
    for row in rows:
        if row.key in done:
            finished(done[row.key])
    pool = ThreadPoolExecutor(1, thread_name_prefix="reader")
    try:
        ahead: Future[tuple[Cube, float]] | None = None
        for k, row in enumerate(todo):
            current = ahead or _submit(pool, reader, row)
            ahead = _submit(pool, reader, todo[k + 1]) if k + 1 < len(todo) else None
            record, arrays = map_tile(row, current, reader, predictor, store.layers)
            store.write(row.tile, arrays, record)
            records[record.key] = record
            finished(record)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [records[row.key] for row in rows]


def map_tile(
    row: PlanRow,
    first: Future[tuple[Cube, float]] | None,
    reader: Reader,
    predictor: Predictor,
    layers: Sequence[Layer],
) -> tuple[TileRecord, dict[str, np.ndarray]]:
    """One tile: each pixel from the sensor that its observations decide for, or from all.

    Args:
        row: of the plan.
        first: the cube of the tile's first sensor, being read; None when there is no sensor.
        reader: for the other sensors.
        predictor: the checkpoint.
        layers: of the map.

    Returns:
        The record, and the encoded layers [Y, X] by name.
    """
    inside = row.sheet.inside(row.tile.geobox)
    arrays = _blank(layers, inside)
    work = _Work(row, first, reader, inside)
    changed = ""
    try:
        if row.mode == "all":
            _fuse(arrays, row, work, predictor)
        else:
            made = decide(row, inside, predictor.card, predictor.task.min_steps, work.steps)
            changed = changes(row, inside, made, work.seen)
            for sensor, wanted in made.items():
                cube = work.cube(sensor)
                with work.timed("predict"):
                    _fill(arrays, wanted, sensor, cube, predictor)
    except DataTrouble as error:
        arrays = _blank(layers, inside)
        return work.record(arrays, "failed", str(error)), arrays
    mapped = _made_by(arrays["sensor"])
    if not mapped:
        reason = row.reason
        if row.cells and work.observed:
            reason = f"too few clear observations ({_counts(work.observed)} a pixel); {reason}"
        return work.record(arrays, "nodata", reason), arrays
    reason = row.reason + (f"; {changed}" if changed else "")
    if len(mapped) > 1:
        shares = ", ".join(f"{key} {n}" for key, n in mapped.items())
        reason += f"; pixels made from {shares}"
    return work.record(arrays, "mapped", reason), arrays


class _Work:
    """What is read for one tile, and how long it took."""

    def __init__(
        self, row: PlanRow, first: Future[tuple[Cube, float]] | None, reader: Reader,
        inside: np.ndarray,
    ) -> None:
        self.row, self.first, self.reader, self.inside = row, first, reader, inside
        self.cubes: dict[str, Cube] = {}
        self.seen: dict[str, np.ndarray] = {}
        self.observed: dict[str, float] = {}
        self.seconds = {"read": 0.0, "predict": 0.0}

    def cube(self, sensor: str) -> Cube:
        """The tile's cube of a sensor, read once."""
        if sensor not in self.cubes:
            ahead = self.first if self.first and sensor == self.row.choices[0].sensor else None
            cube, took = ahead.result() if ahead else self.reader(self.row, sensor)
            self.seconds["read"] += took
            self.cubes[sensor] = cube
            total = core(cube.count.sum(0, dtype=np.uint16), self.inside.shape)
            self.observed[sensor] = round(float(total[self.inside].mean()), 3)
        return self.cubes[sensor]

    def steps(self, sensor: str) -> np.ndarray:
        """[Y, X] steps of the tile's pixels with data of a sensor."""
        if sensor not in self.seen:
            self.seen[sensor] = clear_steps(self.cube(sensor), self.inside.shape)
        return self.seen[sensor]

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of a block to a stage."""
        started = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - started

    def record(
        self, arrays: Mapping[str, np.ndarray], status: Status, reason: str
    ) -> TileRecord:
        """The tile's record."""
        mapped = _made_by(arrays["sensor"])
        count = np.bincount(arrays["quality"].ravel(), minlength=OUTSIDE + 1)
        return TileRecord(
            sheet=self.row.sheet.name, tile=self.row.tile.name, status=status,
            sensor=next(iter(mapped), ""),
            reason=reason, area_px=int(count[:OUTSIDE].sum()),
            planned_px=self.row.planned(self.inside), mapped_px=mapped,
            observations=dict(self.observed),
            quality={c.name: int(count[c.code]) for c in quality_layer().classes
                     if c.code != NO_QUALITY and count[c.code]},
            seconds={k: round(v, 3) for k, v in self.seconds.items()},
        )


def _fill(
    arrays: Mapping[str, np.ndarray], wanted: np.ndarray, sensor: str, cube: Cube,
    predictor: Predictor,
) -> None:
    """Write one sensor's predictions into the wanted pixels."""
    every = part_of(sensor, cube, wanted, wanted, predictor)
    part, at = every.where(every.has), wanted.copy()
    at[wanted] = every.has
    arrays["map"][at], arrays["confidence"][at], arrays["quality"][at] = predictor.encode(
        sensor, part.score, part.steps, part.index)
    arrays["sensor"][at] = SENSORS[sensor].code
    arrays["observations"][at] = part.count


def _fuse(
    arrays: Mapping[str, np.ndarray], row: PlanRow, work: _Work, predictor: Predictor
) -> None:
    """Write what all sensors say together."""
    inside = work.inside
    parts = []
    for key in (key for key in SENSORS if any(c.sensor == key for c in row.choices)):
        cube = work.cube(key)
        with work.timed("predict"):
            parts.append(part_of(key, cube, inside & row.where(key), inside, predictor))
    has = np.zeros(int(inside.sum()), bool)
    for part in parts:
        has |= part.has
    if not has.any():
        return
    at = inside.copy()
    at[inside] = has
    fused = fuse([part.where(has) for part in parts], predictor.task, predictor.card,
                 predictor.rules)
    arrays["map"][at], arrays["confidence"][at] = fused.value, fused.confidence
    arrays["quality"][at], arrays["sensor"][at] = fused.quality, fused.sensor
    arrays["observations"][at] = fused.observations


def _made_by(codes: np.ndarray) -> dict[str, int]:
    """Pixels with a value, by the sensors that made them, most first."""
    count = np.bincount(codes.ravel(), minlength=OUTSIDE + 1)
    made = {c.name: int(count[c.code]) for c in sensor_layer().classes
            if c.code != NO_SENSOR and count[c.code]}
    return dict(sorted(made.items(), key=lambda pair: -pair[1]))


def _blank(layers: Sequence[Layer], inside: np.ndarray) -> dict[str, np.ndarray]:
    """Layers of a tile without a value: inside the area no sensor, observation or quality."""
    arrays = {lay.name: np.full(inside.shape, lay.nodata, lay.dtype) for lay in layers}
    arrays["sensor"][inside] = NO_SENSOR
    arrays["observations"][inside] = 0
    arrays["quality"][inside] = NO_QUALITY
    return arrays


def _submit(
    pool: ThreadPoolExecutor, reader: Reader, row: PlanRow
) -> Future[tuple[Cube, float]] | None:
    return pool.submit(reader, row, row.choices[0].sensor) if row.choices else None


def _counts(observed: Mapping[str, float]) -> str:
    return ", ".join(f"{k} {v:.1f}" for k, v in observed.items())
