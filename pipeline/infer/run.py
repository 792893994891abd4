"""The tiles of a plan, one after the other: read ahead, predict, store, go on after a failure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.data.items import ItemSet
from pipeline.data.load import load_cube
from pipeline.data.places import read_places
from pipeline.infer.plan import PlanRow
from pipeline.infer.predict import Predictor
from pipeline.infer.smooth import reach, smooth
from pipeline.infer.store import RunStore
from pipeline.prep.features import bands_needed
from pipeline.spec.card import SensorCard
from pipeline.spec.cube import Cube
from pipeline.spec.errors import DataTrouble
from pipeline.spec.layers import NO_QUALITY, NO_SENSOR, OUTSIDE, Layer, quality_layer
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
    """

    items: Mapping[str, ItemSet]
    cards: Mapping[str, SensorCard]
    timeline: Timeline
    task: Task
    layers: Mapping[str, ItemSet] = field(default_factory=dict)

    def __call__(self, row: PlanRow, sensor: str) -> tuple[Cube, float]:
        """Cube of the tile and its halo, and the seconds it took."""
        started = time.perf_counter()
        card = self.cards[sensor]
        window = row.tile.geobox.pad(self.task.smooth_px(sensor) // 2)
        cube = load_cube(
            self.items[sensor], window, bands_needed(card.features, SENSORS[sensor].band_names),
            self.timeline, aggregate=self.task.aggregate,
        )
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
    """One tile: each cell's sensors in order, until every pixel of the area has a value.

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
    missing = inside.copy()
    work = _Work(row, first, reader)
    mapped: dict[str, int] = {}
    try:
        for rank in range(len(row.choices)):
            for choice in row.choices:
                wanted = missing & row.where(choice.sensor, rank)
                if wanted.any():
                    cube = work.cube(choice.sensor, inside)
                    started = time.perf_counter()
                    filled = _fill(arrays, wanted, choice.sensor, cube, predictor)
                    missing &= ~filled
                    mapped[choice.sensor] = mapped.get(choice.sensor, 0) + int(filled.sum())
                    work.seconds["predict"] += time.perf_counter() - started
    except DataTrouble as error:
        arrays = _blank(layers, inside)
        return work.record(arrays, "failed", str(error), {}), arrays
    if not any(mapped.values()):
        reason = row.reason
        if row.cells and work.observed:
            reason = f"too few clear observations ({_counts(work.observed)} a pixel); {reason}"
        return work.record(arrays, "nodata", reason, mapped), arrays
    reason = row.reason
    if len(mapped) > 1:
        shares = ", ".join(f"{key} {n}" for key, n in mapped.items())
        reason += f"; pixels made from {shares}"
    return work.record(arrays, "mapped", reason, mapped), arrays


class _Work:
    """What is read for one tile, and how long it took."""

    def __init__(
        self, row: PlanRow, first: Future[tuple[Cube, float]] | None, reader: Reader
    ) -> None:
        self.row, self.first, self.reader = row, first, reader
        self.cubes: dict[str, Cube] = {}
        self.observed: dict[str, float] = {}
        self.seconds = {"read": 0.0, "predict": 0.0}

    def cube(self, sensor: str, inside: np.ndarray) -> Cube:
        """The tile's cube of a sensor, read once."""
        if sensor not in self.cubes:
            ahead = self.first if self.first and sensor == self.row.choices[0].sensor else None
            cube, took = ahead.result() if ahead else self.reader(self.row, sensor)
            self.seconds["read"] += took
            self.cubes[sensor] = cube
            total = _core(cube.count.sum(0, dtype=np.uint16), inside.shape)
            self.observed[sensor] = round(float(total[inside].mean()), 3)
        return self.cubes[sensor]

    def record(
        self, arrays: Mapping[str, np.ndarray], status: Status, reason: str,
        mapped: Mapping[str, int],
    ) -> TileRecord:
        """The tile's record."""
        count = np.bincount(arrays["quality"].ravel(), minlength=OUTSIDE + 1)
        best = max(mapped, key=lambda key: mapped[key]) if any(mapped.values()) else ""
        return TileRecord(
            sheet=self.row.sheet.name, tile=self.row.tile.name, status=status, sensor=best,
            reason=reason, area_px=int(count[:OUTSIDE].sum()), mapped_px=dict(mapped),
            observations=dict(self.observed),
            quality={c.name: int(count[c.code]) for c in quality_layer().classes
                     if c.code != NO_QUALITY and count[c.code]},
            seconds={k: round(v, 3) for k, v in self.seconds.items()},
        )


def _fill(
    arrays: Mapping[str, np.ndarray], wanted: np.ndarray, sensor: str, cube: Cube,
    predictor: Predictor,
) -> np.ndarray:
    """Write one sensor's predictions into the wanted pixels; [Y, X] bool where it had any."""
    size = predictor.task.smooth_px(sensor)
    around = np.zeros(cube.geobox.shape, bool)
    _core(around, wanted.shape)[:] = wanted
    result = predictor(sensor, cube, reach(around, size))
    score = _core(smooth(result.score, size), wanted.shape)
    steps, index = _core(result.steps, wanted.shape), _core(result.index, wanted.shape)
    at = wanted & np.isfinite(score[0])
    arrays["map"][at], arrays["confidence"][at], arrays["quality"][at] = predictor.encode(
        sensor, score[:, at], steps[at], index[at])
    arrays["sensor"][at] = SENSORS[sensor].code
    arrays["observations"][at] = _core(cube.count.sum(0, dtype=np.uint16), wanted.shape)[at]
    return at


def _core(padded: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The tile within its halo: a view of the last two axes."""
    r, c = ((n - m) // 2 for n, m in zip(padded.shape[-2:], shape, strict=True))
    return padded[..., r : r + shape[0], c : c + shape[1]]


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
