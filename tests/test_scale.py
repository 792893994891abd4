"""Overlap, planning of many tiles, what a run remembers: small, and without a clock."""

from __future__ import annotations

import dataclasses
import json
import threading
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pystac
import pytest
import shapely
import torch

from pipeline import cli
from pipeline.data.block_store import DECODED
from pipeline.data.items import ItemSet
from pipeline.infer.coverage import Cells, coverage
from pipeline.infer.estimate import Estimate, Kind, Run, estimate, recall, remember, work_of
from pipeline.infer.lanes import AHEAD, HELD_BYTES, Lanes, in_order, lanes_for
from pipeline.infer.plan import Cell, Choice, PlanRow, plan
from pipeline.infer.predict import Halted, Prediction, Predictor
from pipeline.infer.profile import Profile, table
from pipeline.infer.run import in_strips, run_tiles
from pipeline.infer.store import RunStore
from pipeline.map import command
from pipeline.spec.cube import Cube
from pipeline.spec.grid import sheets
from pipeline.spec.layers import layers_of
from pipeline.spec.machine import cores
from pipeline.spec.manifest import RunManifest, TileRecord
from pipeline.spec.tasks import CROPLAND
from pipeline.spec.timeline import Timeline
from tests.support.toy import sensor_card, toy_card, untrained

YEAR = Timeline(2023 * 12, 12)
CPU, GPU = torch.device("cpu"), torch.device("cuda")

# ---------------------------------------------------------------- lanes


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


# ---------------------------------------------------------------- planning


def image(name: str, day: int, outline: shapely.Geometry, cloud: float) -> pystac.Item:
    return pystac.Item(name, shapely.geometry.mapping(outline), list(outline.bounds),
                       datetime(2023, 1 + day % 12, 1 + day // 12, day % 24, tzinfo=UTC),
                       {"eo:cloud_cover": cloud, "platform": f"p{day % 3}"})


def crooked(rng: np.random.Generator) -> shapely.Geometry:
    """A slanted frame of any size somewhere about the area."""
    x, y = rng.uniform(2.9, 3.5), rng.uniform(50.5, 51.0)
    size = rng.uniform(0.01, 0.16)
    frame = shapely.box(x - size / 2, y - size / 3, x + size / 2, y + size / 3)
    return shapely.affinity.rotate(frame, float(rng.uniform(0, 90)))


def test_coverage_is_that_of_every_cell_asked_about_every_image() -> None:
    rng = np.random.default_rng(3)
    items = ItemSet("s2", "c", tuple(
        image(f"i{k}", k, crooked(rng), float(rng.uniform(0, 100))) for k in range(60)))
    (sheet,) = sheets(shapely.box(3.0, 50.6, 3.3, 50.8), 10)
    cells = Cells(sheet, 128)
    counts, steps, seen = coverage(items, cells, YEAR)

    outlines = [shapely.geometry.shape(i.geometry) for i in items.items]
    clear = [1 - i.properties["eo:cloud_cover"] / 100 for i in items.items]
    month = [i.datetime.month - 1 for i in items.items]
    assert len(cells.boxes) == np.prod(cells.shape) > 200
    for k in range(0, len(cells.boxes), 7):
        box = cells.boxes[k]
        touch = [m for m, o in enumerate(outlines) if o.intersects(box)]
        share = {m: outlines[m].intersection(box).area / box.area for m in touch}
        missed, expected = np.ones(12), np.zeros(12)
        for m in touch:
            missed[month[m]] *= 1 - clear[m] * share[m]
        for one in {(month[m], items.passes[m]) for m in touch}:
            frames = [m for m in touch if (month[m], items.passes[m]) == one]
            expected[one[0]] += min(sum(clear[m] * share[m] for m in frames), 1)
        assert counts[k] == len(touch)
        assert steps[k] == pytest.approx((1 - missed).sum(), abs=1e-9)
        np.testing.assert_allclose(seen[k], expected, atol=1e-9)
    assert 0 in counts
    assert counts.max() > 3


def test_cells_of_a_tile_are_made_when_asked_for_and_shared_by_kind() -> None:
    (sheet,) = sheets(shapely.box(3.0, 50.6, 3.3, 50.8), 10)
    rng = np.random.default_rng(5)
    items = {"s2": ItemSet("s2", "c", tuple(
        image(f"i{k}", k, crooked(rng), 50.0) for k in range(12)))}
    rows = plan([sheet], 512, items, toy_card(CROPLAND, {"s2": sensor_card(CROPLAND, "s2")}),
                YEAR, ())
    pixels = np.zeros(sheet.geobox.shape, int)
    kinds = set()
    for row in rows:
        assert len(row.cells) == len(tuple(row.cells))
        assert row.cells[0] == next(iter(row.cells))
        assert row.cells[-1] == tuple(row.cells)[-1]
        assert row.cells[:2] == tuple(row.cells)[:2]
        for cell in row.cells:
            pixels[row.tile.rows, row.tile.cols][cell.rows, cell.cols] += 1
            kinds.add(id(cell.choices))
            assert row.reason_of(cell)
    assert (pixels == 1).all()
    assert len(kinds) < sum(len(row.cells) for row in rows)


def test_windows_are_compared_with_outlines_all_at_once() -> None:
    rng = np.random.default_rng(4)
    items = ItemSet("s2", "c", tuple(image(f"i{k}", k, crooked(rng), 0.0) for k in range(30)))
    windows = [tile.geobox for sheet in sheets(shapely.box(3.0, 50.6, 6.2, 50.62), 10)
               for tile in sheet.tiles(512)]
    together = items.touching_each(windows)
    assert together == [items.touching(window) for window in windows]
    assert len({len(one) for one in together}) > 1
    assert items.touching_each([]) == []


# ---------------------------------------------------------------- records


def record(k: int, **seconds: float) -> TileRecord:
    return TileRecord("utm31n", f"{k}_0", "mapped", "s2", "why", 100, {"s2": 90}, {"s2": 80},
                      {"s2": 1.5}, {"good": 80}, {}, seconds)


def test_the_manifest_as_text_is_the_manifest() -> None:
    for tiles in ((), (record(1),), (record(1), record(2, read=1.0))):
        manifest = RunManifest({"aoi": "é"}, {}, {}, {}, tiles, notes={"a": "b"})
        text = manifest.to_text()
        assert json.loads(text) == json.loads(json.dumps(manifest.to_json()))
        assert len([line for line in text.splitlines() if '"utm31n"' in line]) == len(tiles)
    with pytest.raises(ValueError, match="not JSON compliant"):
        RunManifest({}, {}, {}, {}, (record(1, read=float("nan")),)).to_text()


def test_a_profile_adds_up() -> None:
    profile = Profile()
    threads = [threading.Thread(target=profile.add_tile, args=(record(k, read=2.0, predict=4.0),))
               for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    profile.add("composite", 1.0)
    DECODED.add(0.5, 4_000_000)
    profile.tiles_done()
    report = json.loads(json.dumps(profile.to_json(10)))
    read, predict = report["stages"]["read"], report["stages"]["predict"]
    assert list(report["stages"]) == ["read", "decode", "composite", "predict"]
    decode = report["stages"]["decode"]
    assert (decode["seconds"], decode["bytes"], decode["mb_per_s"]) == (0.5, 4_000_000, 8.0)
    assert (decode["pixels"], decode["px_per_s"]) == (800, 1600)  # those of the tiles read
    assert report["stages"]["composite"]["km2_per_h"] == 800 * 3600 * 100 / 1e6
    assert report["wall"]["bytes"] == report["stages"]["read"]["bytes"]  # of files, not of pixels
    assert (read["seconds"], read["pixels"], read["px_per_s"]) == (16.0, 800, 50.0)
    assert (predict["seconds"], predict["pixels"]) == (32.0, 640)
    assert read["km2_per_h"] == 50 * 3600 * 100 / 1e6
    assert read["share"] + predict["share"] == pytest.approx(1, abs=1e-3)
    lines = table(report).splitlines()
    assert [line.split()[0] for line in lines[1:6]] == [
        "read", "decode", "composite", "predict", "wall"]
    assert "MiB" in lines[6]
    assert "processor time within read" in lines[7]
    assert "workers" in table(report | {"elsewhere": True})


# ---------------------------------------------------------------- estimate

KIND = Kind("m", "cropland", "s2", "c", "cpu", "default", "n")


def test_the_work_of_a_plan_is_counted_by_hand() -> None:
    (sheet,) = sheets(shapely.box(3.0, 50.8, 3.01, 50.806), 10)
    tile = max(sheet.tiles(64), key=lambda t: t.geobox.shape[0])
    h, w = tile.geobox.shape
    both = (Choice("s2", 30, 9.0, 0.9), Choice("s1", 60, 12.0, 0.8))
    cells = (Cell(slice(0, 10), slice(None), both), Cell(slice(10, None), slice(None), ()))
    row = PlanRow(sheet, tile, cells, "why")
    bands = {"s1": 2, "s2": 11}
    assert work_of([row], bands) == 10 * w * 30 * 11
    assert work_of([row, row], bands, 5) == 2 * 25 * 10 * w * 30 * 11
    fused = PlanRow(sheet, tile, cells, "why", "all")
    assert work_of([fused], bands) == 10 * w * (30 * 11 + 60 * 2)
    assert h > 10


def test_an_estimate_is_the_median_of_like_runs_and_states_their_spread() -> None:
    runs = [Run(KIND, 100.0, 1000, s) for s in (10.0, 20.0, 40.0)]
    other = Run(dataclasses.replace(KIND, sensor="s1"), 1.0, 1, 999.0)
    found = estimate(1000.0, KIND, [*runs, other], price=3.6)
    assert (found.seconds, found.size, found.runs) == (200.0, 10000.0, 3)
    assert found.error == 2.0  # the other two say 30 of the run that took 10
    assert found.cost == pytest.approx(0.2)
    assert "+-200%, the spread of 3 runs" in str(found)
    one = estimate(1000.0, KIND, runs[:1])
    assert (one.seconds, one.error, one.cost) == (100.0, None, None)
    assert "single run" in str(one)
    loose = estimate(5.0, dataclasses.replace(KIND, sensor="all", catalog="d", speed="exact"),
                     [*runs, other])
    assert loose.loose
    assert "other sensors" in str(loose)
    for field, value in (("machine", "n"), ("network", "toy"), ("scheduler", "local"),
                         ("workers", 2), ("device", "cuda")):
        nothing = estimate(5.0, dataclasses.replace(KIND, **{field: value}), runs)
        assert nothing == Estimate(5.0)
    assert "no rates measured yet on this machine" in str(nothing)
    uncounted = estimate(5.0, KIND, [dataclasses.replace(run, size=0) for run in runs])
    assert uncounted.size is None
    assert "bytes not counted" in str(uncounted)
    json.dumps([e.to_json() for e in (found, one, loose, nothing, uncounted)])


def test_small_runs_do_not_make_a_large_one_slow() -> None:
    """5 s whatever the area, and 2 s a million pixels."""
    runs = [Run(KIND, w, int(1e6 + 3 * w), 5 + 2e-6 * w) for w in (1e5, 3e5, 1e6)]
    found = estimate(1e9, KIND, runs)
    assert found.seconds == pytest.approx(2005)
    assert found.size == pytest.approx(3.001e9)
    assert found.error == pytest.approx(0, abs=1e-3)
    assert "the largest of them 1000 times smaller" in str(found)
    assert estimate(2e6, KIND, runs).larger == 2
    assert "times smaller" not in str(estimate(2e6, KIND, runs))
    # a larger run that took less does not make time run backwards
    odd = [Run(KIND, 1e5, 1, 10.0), Run(KIND, 1e6, 1, 8.0)]
    assert 8 < estimate(1e8, KIND, odd).seconds < 10
    # nor does one that took more than its share start before it begins
    steep = [Run(KIND, 1e5, 1, 1.0), Run(KIND, 1e6, 1, 20.0)]
    assert estimate(1e3, KIND, steep).seconds > 0


def test_rates_are_kept_and_a_damaged_file_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "rates.json"
    assert recall(path) == []
    run = Run(KIND, 2.0, 3, 4.0)
    remember(path, run)
    remember(path, run)
    assert recall(path) == [run, run]
    kept = json.loads(path.read_text())
    del kept[0]["kind"]["network"]  # as an earlier version wrote it
    path.write_text(json.dumps([*kept, 3, {"kind": {}}]))
    assert recall(path) == [run]
    path.write_text("3")
    assert recall(path) == []
    path.write_text("[{]")
    assert recall(path) == []
    remember(path, run)
    assert recall(path) == [run]
    for k in range(210):
        remember(path, Run(KIND, float(k + 1), 3, 4.0))
    assert len(recall(path)) == 200
    assert recall(path)[-1].work == 210
    (tmp_path / "file").write_text("")
    remember(tmp_path / "file" / "rates.json", run)  # cannot be written: nothing happens


# ---------------------------------------------------------------- Ctrl-C


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


@pytest.mark.parametrize(("option", "value"), [
    ("--workers", "0"), ("--workers", "999"), ("--price", "-1"), ("--price", "nan"),
    ("--scheduler", "remote"),
])
def test_options_out_of_range_are_refused_before_anything_is_done(
    option: str, value: str, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "map"
    code = cli.run(command, ["--aoi", "4,50,4.1,50.1", "--out", str(out), option, value])
    assert code == 2
    said = capsys.readouterr().err
    assert "allowed" in said
    assert len(said.splitlines()) == 1
    assert not out.exists()


def test_a_profiled_run_tells_where_its_time_went(
    region: Path, region_aoi: str, untrained: dict[str, Path], tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "map"
    argv = ["--aoi", region_aoi, "--sensor", "s2", "--period", "2023-10", "--catalog",
            str(region / "catalog.json"), "--checkpoint", str(untrained["cropland"]), "--out",
            str(out), "--quiet", "--workers", "2"]
    assert command([*argv, "--profile", "--tile-size", "40"]) == 0
    said = capsys.readouterr().out.splitlines()
    first = next(k for k, line in enumerate(said) if line.startswith("stage"))
    names = [line.split()[0] for line in said[first + 1 : first + 10]]
    assert names == ["search", "plan", "read", "decode", "composite", "predict", "write", "publish",
                     "wall"]
    manifest = json.loads((out / "manifest.json").read_text())
    stages, area = manifest["profile"]["stages"], manifest["totals"]["area_px"]
    assert stages["read"]["pixels"] == stages["write"]["pixels"] == area
    assert stages["predict"]["pixels"] == manifest["totals"]["mapped_px"]
    assert stages["read"]["bytes"] > 0
    assert 0 < stages["composite"]["seconds"] < manifest["profile"]["wall"]["seconds"] * cores()
    assert 0 < stages["decode"]["seconds"] < manifest["profile"]["wall"]["seconds"] * cores()
    for tile in manifest["tiles"]:
        assert {"read", "predict", "write"} == set(tile["seconds"])
    # the next map of its kind is estimated from this one
    assert command([*argv, "--dry-run"]) == 0
    (line,) = [k for k in capsys.readouterr().out.splitlines() if k.startswith("estimate")]
    assert "error unknown, from a single run" in line


def test_a_wide_area_is_mapped_in_strips() -> None:
    """Three columns at a time, downwards: what is held of the images is soon needed again."""
    sheet = sheets(shapely.box(3.0, 50.0, 3.2, 50.1), 10)[0]
    rows = [PlanRow(sheet, tile, (), "") for tile in sheet.tiles(256)]
    made = in_strips(rows)
    assert sorted(r.key for r in made) == sorted(r.key for r in rows)
    order = [(r.tile.ix // 3, r.tile.iy, r.tile.ix) for r in made]
    assert order == sorted(order)
    assert len({ix for ix, *_ in order}) > 1
