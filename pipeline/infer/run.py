"""The tiles of a plan, one after the other: read ahead, predict, store, go on after a failure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipeline.data.items import ItemSet
from pipeline.data.load import load_cube
from pipeline.infer.plan import Choice, PlanRow
from pipeline.infer.predict import Predictor
from pipeline.infer.smooth import reach, smooth
from pipeline.infer.store import RunStore
from pipeline.prep.features import bands_needed
from pipeline.spec.cube import Cube
from pipeline.spec.errors import DataTrouble
from pipeline.spec.layers import Layer
from pipeline.spec.manifest import TileRecord
from pipeline.spec.sensors import SENSORS
from pipeline.spec.timeline import Timeline


@dataclass(frozen=True)
class Reader:
    """Reads a tile of one sensor, for the bands that the checkpoint needs.

    Attributes:
        items: per sensor.
        features: per sensor, of the card.
        timeline: the months.
        aggregate: read pixels along one side of a map pixel.
        smooth_px: per sensor, the window of the smoothing: half of it is read beyond the tile.
    """

    items: Mapping[str, ItemSet]
    features: Mapping[str, Sequence[str]]
    timeline: Timeline
    aggregate: int
    smooth_px: Callable[[str], int]

    def __call__(self, row: PlanRow, choice: Choice) -> tuple[Cube, float]:
        """Cube of the tile and its halo, and the seconds it took."""
        started = time.perf_counter()
        bands = bands_needed(self.features[choice.sensor], SENSORS[choice.sensor].band_names)
        halo = self.smooth_px(choice.sensor) // 2
        cube = load_cube(
            self.items[choice.sensor], row.tile.geobox.pad(halo), bands, self.timeline,
            aggregate=self.aggregate,
        )
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
    todo = [row for row in rows if _key(row) not in done]
    records = dict(done)
    for row in rows:
        if _key(row) in done:
            finished(done[_key(row)])
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
    return [records[_key(row)] for row in rows]


def map_tile(
    row: PlanRow,
    first: Future[tuple[Cube, float]] | None,
    reader: Reader,
    predictor: Predictor,
    layers: Sequence[Layer],
) -> tuple[TileRecord, dict[str, np.ndarray]]:
    """One tile: sensors in the order of the plan, until every pixel of the area has a value.

    Args:
        row: of the plan.
        first: the first choice's cube, being read; None when there is no choice.
        reader: for the other choices.
        predictor: the checkpoint.
        layers: of the map.

    Returns:
        The record, and the encoded layers [Y, X] by name.
    """
    inside = row.sheet.inside(row.tile.geobox)
    arrays = _blank(layers, inside)
    missing = inside.copy()
    mapped: dict[str, int] = {}
    observed: dict[str, float] = {}
    seconds = {"read": 0.0, "predict": 0.0}
    reason = row.reason
    try:
        for k, choice in enumerate(row.choices):
            if not missing.any():
                break
            cube, took = first.result() if k == 0 and first else reader(row, choice)
            seconds["read"] += took
            started = time.perf_counter()
            total = _core(cube.count.sum(0, dtype=np.uint16), inside.shape)
            observed[choice.sensor] = round(float(total[inside].mean()), 3)
            mapped[choice.sensor] = _fill(arrays, missing, choice.sensor, cube, total, predictor)
            seconds["predict"] += time.perf_counter() - started
    except DataTrouble as error:
        return _record(row, inside, "failed", str(error), {}, observed, seconds), _blank(
            layers, inside
        )
    status = "mapped" if sum(mapped.values()) else "nodata"
    if status == "nodata" and row.choices:
        reason = f"too few clear observations ({_counts(observed)} a pixel); {row.reason}"
    elif len(mapped) > 1:
        reason += "; gaps filled from " + ", ".join(list(mapped)[1:])
    return _record(row, inside, status, reason, mapped, observed, seconds), arrays


def _fill(
    arrays: Mapping[str, np.ndarray], missing: np.ndarray, sensor: str, cube: Cube,
    total: np.ndarray, predictor: Predictor,
) -> int:
    """Write one sensor's predictions into the missing pixels; returns how many there were."""
    size = predictor.task.smooth_px(sensor)
    wanted = np.zeros(cube.geobox.shape, bool)
    _core(wanted, missing.shape)[:] = missing
    result = predictor(sensor, cube, reach(wanted, size))
    score = _core(smooth(result.score, size), missing.shape)
    steps = _core(result.steps, missing.shape)
    at = missing & np.isfinite(score[0])
    arrays["map"][at], arrays["confidence"][at] = predictor.encode(sensor, score[:, at], steps[at])
    arrays["sensor"][at] = SENSORS[sensor].code
    arrays["observations"][at] = total[at]
    missing &= ~at
    return int(at.sum())


def _core(padded: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The tile within its halo: a view of the last two axes."""
    r, c = ((n - m) // 2 for n, m in zip(padded.shape[-2:], shape, strict=True))
    return padded[..., r : r + shape[0], c : c + shape[1]]


def _blank(layers: Sequence[Layer], inside: np.ndarray) -> dict[str, np.ndarray]:
    """Layers of a tile without a value: inside the area no sensor (0) and no observation (0)."""
    arrays = {lay.name: np.full(inside.shape, lay.nodata, lay.dtype) for lay in layers}
    arrays["sensor"][inside] = 0
    arrays["observations"][inside] = 0
    return arrays


def _record(
    row: PlanRow, inside: np.ndarray, status: str, reason: str, mapped: Mapping[str, int],
    observed: Mapping[str, float], seconds: Mapping[str, float],
) -> TileRecord:
    best = max(mapped, key=lambda key: mapped[key]) if any(mapped.values()) else ""
    return TileRecord(
        sheet=row.sheet.name, tile=row.tile.name, status=status,  # type: ignore[arg-type]
        sensor=best, reason=reason, area_px=int(inside.sum()), mapped_px=dict(mapped),
        observations=dict(observed), seconds={k: round(v, 3) for k, v in seconds.items()},
    )


def _submit(
    pool: ThreadPoolExecutor, reader: Reader, row: PlanRow
) -> Future[tuple[Cube, float]] | None:
    return pool.submit(reader, row, row.choices[0]) if row.choices else None


def _key(row: PlanRow) -> str:
    return f"{row.sheet.name}/{row.tile.name}"


def _counts(observed: Mapping[str, float]) -> str:
    return ", ".join(f"{k} {v:.1f}" for k, v in observed.items())
