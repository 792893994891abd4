"""Tiles that are under way at once: in order, within their memory, and halted by Ctrl-C."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch

from pipeline.infer.lanes import AHEAD, HELD_BYTES, Lanes, in_order, lanes_for
from pipeline.infer.plan import Cell, Choice, PlanRow
from pipeline.infer.predict import Halted, Prediction, Predictor
from pipeline.infer.run import in_strips, run_tiles
from pipeline.infer.store import RunStore
from pipeline.spec.cube import Cube
from pipeline.spec.grid import sheets
from pipeline.spec.layers import layers_of
from pipeline.spec.machine import cores
from pipeline.spec.manifest import TileRecord
from pipeline.spec.tasks import CROPLAND
from pipeline.spec.timeline import Timeline
from tests.support.toy import untrained

YEAR = Timeline(2023 * 12, 12)
CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_rows_come_back_in_order_and_few_are_under_way() -> None:
    lanes = Lanes(workers=3, ahead=2)
    lock, under_way, most = threading.Lock(), 0, 0

    def read(row: int) -> int:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        return -row

    def work(row: int, first: Future[int]) -> tuple[int, int]:
        return row, first.result()

    seen = []
    for row, made in in_order(range(40), read, work, lanes):  # type: ignore[arg-type, var-annotated]
        with lock:
            under_way -= 1
        assert made == (row, -row)
        seen.append(row)
    assert seen == list(range(40))
    assert most <= lanes.workers + lanes.ahead + 1  # the one that is being given back


def test_reading_and_working_go_on_at_once() -> None:
    """Nobody gets on unless a row is read while two others are worked on."""
    together = threading.Barrier(3, timeout=20)

    def read(row: int) -> None:
        if row == 2:
            together.wait()

    def work(row: int, first: Future[None]) -> None:
        if row < 2:
            together.wait()
        first.result()

    done = list(in_order([0, 1, 2, 3], read, work, Lanes(2, 1)))  # type: ignore[arg-type, list-item, var-annotated]
    assert len(done) == 4


def test_a_failure_ends_it_and_leaves_no_thread() -> None:
    def work(row: int, first: Future[int]) -> int:
        if row == 3:
            raise ValueError("broken")
        return first.result()

    before = threading.active_count()
    with pytest.raises(ValueError, match="broken"):
        list(in_order(range(30), lambda row: row, work, Lanes(2, 2)))  # type: ignore[arg-type]
    assert threading.active_count() == before


def test_lanes_keep_all_cores_busy_within_their_memory(monkeypatch) -> None:
    monkeypatch.setattr("pipeline.infer.lanes.cores", lambda: 8)
    assert lanes_for(CROPLAND, 10, 512, CPU) == Lanes(8, AHEAD)
    assert lanes_for(CROPLAND, 10, 512, GPU) == Lanes(1, AHEAD)
    assert lanes_for(CROPLAND, 10, 512, CPU, workers=3) == Lanes(3, AHEAD)
    big = lanes_for(CROPLAND, 10, 4096, CPU)  # 8 GB each: one is read while one is predicted
    assert big == Lanes(1, 1)
    for size in (64, 512, 1024, 2048):
        lanes = lanes_for(CROPLAND, 10, size, CPU)
        held = (lanes.workers + lanes.ahead) * 12 * 10 * 4 * size**2
        assert held <= max(8 * HELD_BYTES, 2 * 12 * 10 * 4 * size**2)
    assert cores() >= 1


def test_what_nobody_waits_for_is_not_predicted() -> None:
    predictor = Predictor(CROPLAND, *untrained(CROPLAND), "cpu")
    (sheet,) = sheets(shapely.box(3.0, 50.8, 3.002, 50.801), 10)
    shape = sheet.geobox.shape
    cube = Cube("s1", ("vv", "vh"), YEAR, sheet.geobox, np.full((12, 2, *shape), -10, np.float32),
                np.ones((12, *shape), np.uint8))
    assert np.isfinite(predictor("s1", cube, np.ones(shape, bool)).score).all()
    predictor.halted.set()
    with pytest.raises(Halted):
        predictor("s1", cube, np.ones(shape, bool))


def test_ctrl_c_ends_what_other_workers_predict(tmp_path: Path) -> None:
    """The first tile is stored, the second would take forever: Ctrl-C comes in between."""
    (sheet,) = sheets(shapely.box(3.0, 50.8, 3.01, 50.806), 10)
    choices = (Choice("s1", 1, 12.0, 0.9),)
    rows = [PlanRow(sheet, tile, (Cell(slice(None), slice(None), choices),), "why")
            for tile in sheet.tiles(32)]
    store = RunStore.open(tmp_path, {"request": 1}, [sheet], layers_of(CROPLAND), 32, False)

    class Endless(Predictor):
        def __call__(self, sensor: str, cube: Cube, wanted: np.ndarray) -> Prediction:
            if cube.geobox == rows[0].tile.geobox.pad(CROPLAND.smooth_px(sensor) // 2):
                return super().__call__(sensor, cube, wanted)
            assert self.halted.wait(20), "nobody said stop"
            raise Halted

    def read(row: PlanRow, sensor: str) -> tuple[Cube, float]:
        grid = row.tile.geobox.pad(CROPLAND.smooth_px(sensor) // 2)
        x = np.full((12, 2, *grid.shape), -10, np.float32)
        return Cube(sensor, ("vv", "vh"), YEAR, grid, x, np.ones((12, *grid.shape), np.uint8)), 0.0

    def pressed(_: TileRecord) -> None:
        raise KeyboardInterrupt

    predictor = Endless(CROPLAND, *untrained(CROPLAND), "cpu")
    before = torch.get_num_threads(), threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        run_tiles(rows, read, predictor, store, pressed, Lanes(3, 2))
    assert list(store.done()) == [rows[0].key]
    assert (torch.get_num_threads(), threading.active_count()) == before


def test_a_wide_area_is_mapped_in_strips() -> None:
    """Three columns at a time, downwards: what is held of the images is soon needed again."""
    sheet = sheets(shapely.box(3.0, 50.0, 3.2, 50.1), 10)[0]
    rows = [PlanRow(sheet, tile, (), "") for tile in sheet.tiles(256)]
    made = in_strips(rows)
    assert sorted(r.key for r in made) == sorted(r.key for r in rows)
    order = [(r.tile.ix // 3, r.tile.iy, r.tile.ix) for r in made]
    assert order == sorted(order)
    assert len({ix for ix, *_ in order}) > 1
