"""One tile: each pixel from the sensor that its observations decide for, or from all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import numpy as np

from pipeline.infer.decide import changes, decide
from pipeline.infer.fuse import fuse
from pipeline.infer.part import clear_steps, core, part_of
from pipeline.infer.plan import PlanRow
from pipeline.infer.predict import Predictor
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


class TileReader(Protocol):
    """Reads a tile of one sensor: its cube with the halo, and the seconds it took."""

    def __call__(self, row: PlanRow, sensor: str) -> tuple[Cube, float]: ...


def map_tile(
    row: PlanRow,
    first: Future[tuple[Cube, float] | None],
    reader: TileReader,
    predictor: Predictor,
    layers: Sequence[Layer],
) -> tuple[TileRecord, dict[str, np.ndarray]]:
    """One tile: each pixel from the sensor that its observations decide for, or from all.

    Args:
        row: of the plan.
        first: the cube of the tile's first sensor, being read; of None when there is no sensor.
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


def failed_tile(
    row: PlanRow, layers: Sequence[Layer], why: str
) -> tuple[TileRecord, dict[str, np.ndarray]]:
    """Record and layers of a tile that could not be made, whatever was stored of it before."""
    inside = row.sheet.inside(row.tile.geobox)
    arrays = _blank(layers, inside)
    return _record(row, inside, arrays, "failed", why), arrays


class _Work:
    """What is read for one tile, and how long it took."""

    def __init__(
        self, row: PlanRow, first: Future[tuple[Cube, float] | None], reader: TileReader,
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
            ahead = self.first.result() if sensor == self.row.choices[0].sensor else None
            cube, took = ahead or self.reader(self.row, sensor)
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
        return replace(
            _record(self.row, self.inside, arrays, status, reason),
            observations=dict(self.observed),
            seconds={k: round(v, 3) for k, v in self.seconds.items()})


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
    if not inside.any():  # the area only touches the tile
        return
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


def _record(
    row: PlanRow, inside: np.ndarray, arrays: Mapping[str, np.ndarray], status: Status, reason: str
) -> TileRecord:
    """What a tile's layers say of it."""
    mapped = _made_by(arrays["sensor"])
    count = np.bincount(arrays["quality"].ravel(), minlength=OUTSIDE + 1)
    return TileRecord(
        sheet=row.sheet.name, tile=row.tile.name, status=status, sensor=next(iter(mapped), ""),
        reason=reason, area_px=int(count[:OUTSIDE].sum()), planned_px=row.planned(inside),
        mapped_px=mapped,
        quality={c.name: int(count[c.code]) for c in quality_layer().classes
                 if c.code != NO_QUALITY and count[c.code]},
    )


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


def _counts(observed: Mapping[str, float]) -> str:
    return ", ".join(f"{k} {v:.1f}" for k, v in observed.items())
