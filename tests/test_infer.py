"""Plan, predict, store, run: on small hand-made input, no files but the store's."""

from __future__ import annotations

import dataclasses
import errno
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pystac
import pytest
import shapely
import torch

from pipeline.data.items import ItemSet
from pipeline.infer.feed import BATCH
from pipeline.infer.plan import Cell, Choice, PlanRow, plan
from pipeline.infer.predict import Predictor, softmax
from pipeline.infer.run import run_tiles
from pipeline.infer.smooth import pool, reach, smooth
from pipeline.infer.store import RunStore, locked
from pipeline.prep.features import model_input
from pipeline.spec.card import CheckpointCard
from pipeline.spec.cube import Cube
from pipeline.spec.errors import BadRequest, DataTrouble
from pipeline.spec.grid import sheets
from pipeline.spec.layers import FEW, GOOD, LOW, UNLIKE, layers_of
from pipeline.spec.manifest import TileRecord
from pipeline.spec.tasks import CROPLAND, LFMC
from pipeline.spec.timeline import Timeline
from tests.support.toy import sensor_card, toy_card, untrained

YEAR = Timeline(2023 * 12, 12)
AREA = shapely.box(3.0, 50.8, 3.01, 50.806)
UNKNOWN = np.full(4, np.nan, np.float32)  # dissimilarity index that is not known


def predictor_of(task=CROPLAND, card: CheckpointCard | None = None) -> Predictor:
    return Predictor(task, *untrained(task, card), "cpu")


def cube_of(task, bands: tuple[str, ...], shape: tuple[int, int], seed: int = 0) -> Cube:
    (sheet,) = sheets(AREA, task.pixel_m)
    rng = np.random.default_rng(seed)
    t = task.steps
    x = rng.normal(size=(t, len(bands), *shape)).astype(np.float32)
    count = rng.integers(0, 4, (t, *shape)).astype(np.uint8)
    x = np.where(count[:, None] > 0, x, np.float32(np.nan))
    grid = sheet.geobox[: shape[0], : shape[1]]
    assert grid.shape == shape
    return Cube("s1", bands, Timeline(YEAR.first, t), grid, x, count)


def item(name: str, month: int, cloud: float | None, box: shapely.Geometry) -> pystac.Item:
    properties = {} if cloud is None else {"eo:cloud_cover": cloud}
    return pystac.Item(name, shapely.geometry.mapping(box), list(box.bounds),
                       datetime(2023, month, 5, tzinfo=UTC), properties)


# ---------------------------------------------------------------- plan

WIDE = shapely.box(2.9, 50.7, 3.1, 50.9)


def test_the_plan_expects_the_hand_worked_number_of_steps() -> None:
    (sheet,) = sheets(AREA, 10)
    s2 = ItemSet("s2", "c", (item("a", 1, 50.0, WIDE), item("b", 1, 80.0, WIDE),
                             item("c", 7, 0.0, WIDE), item("d", 8, 100.0, WIDE)))
    rows = plan([sheet], 512, {"s2": s2}, toy_card(CROPLAND), YEAR, ("s2",))
    # January: 1 - 0.5 * 0.8 = 0.6; July: 1; August: 0
    for row in rows:
        assert row.choices[0].expected_steps == pytest.approx(1.6)
        assert row.choices[0].score == pytest.approx(0.5 + 0.4 * 1.6 / 12)
        assert "asked for" in row.reason


def test_auto_takes_the_better_score_and_says_why() -> None:
    (sheet,) = sheets(AREA, 10)
    items = {
        "s1": ItemSet("s1", "c", tuple(item(f"r{m}", m, None, WIDE) for m in range(1, 13))),
        "s2": ItemSet("s2", "c", tuple(item(f"o{m}", m, 70.0, WIDE) for m in range(1, 13))),
    }
    card = toy_card(CROPLAND, {"s1": sensor_card(CROPLAND, "s1", (0.5, 0.85)),
                               "s2": sensor_card(CROPLAND, "s2", (0.5, 0.95))})
    (row, *_) = plan([sheet], 512, items, card, YEAR, ())
    # s1 has all 12 steps: 0.85; s2 expects 3.6 of them: 0.5 + 0.45 * 0.3 = 0.635
    assert [c.sensor for c in row.choices] == ["s1", "s2"]
    assert "best expected weighted F1" in row.reason
    assert "s2 0.635 at 3.6" in row.reason
    (row, *_) = plan([sheet], 512, items, card, YEAR, ("s2", "s1"))
    assert [c.sensor for c in row.choices] == ["s2", "s1"]


def test_the_choice_of_a_pixel_depends_on_neither_tile_nor_area() -> None:
    # Sentinel-2 covers the west only: there it leads, in the east Sentinel-1 does
    west = shapely.box(2.9, 50.7, 3.02, 50.9)
    items = {
        "s1": ItemSet("s1", "c", tuple(item(f"r{m}", m, None, WIDE) for m in range(1, 13))),
        "s2": ItemSet("s2", "c", tuple(item(f"o{m}", m, 0.0, west) for m in range(1, 13))),
    }
    card = toy_card(CROPLAND, {"s1": sensor_card(CROPLAND, "s1", (0.5, 0.85)),
                               "s2": sensor_card(CROPLAND, "s2", (0.5, 0.95))})

    def leader(area: shapely.Geometry, tile_px: int) -> dict[tuple[int, int], str]:
        """First sensor of every pixel, by its lattice row and column."""
        (sheet,) = sheets(area, 10)
        found = {}
        row0, col0 = sheet.lattice_origin
        for row in plan([sheet], tile_px, items, card, YEAR, ()):
            for key in ("s1", "s2"):
                for y, x in np.argwhere(row.where(key, 0)):
                    at = (row0 + row.tile.rows.start + y, col0 + row.tile.cols.start + x)
                    assert at not in found
                    found[int(at[0]), int(at[1])] = key
        return found

    big, small = shapely.box(3.0, 50.8, 3.05, 50.815), shapely.box(3.018, 50.803, 3.04, 50.81)
    one = leader(big, 512)
    assert set(one.values()) == {"s1", "s2"}
    assert leader(big, 48) == one
    part = leader(small, 100)
    assert part
    assert all(one[at] == key for at, key in part.items())


def test_a_tile_without_an_acquisition_has_no_choice() -> None:
    (sheet,) = sheets(AREA, 10)
    elsewhere = ItemSet("s1", "c", (item("x", 1, None, shapely.box(9, 9, 10, 10)),))
    for row in plan([sheet], 64, {"s1": elsewhere}, toy_card(CROPLAND), YEAR, ("s1",)):
        assert row.choices == ()
        assert not row.where("s1", 0).any()
        assert "no acquisition" in row.reason


# ---------------------------------------------------------------- predict


def test_predictions_are_those_of_the_plain_model() -> None:
    predictor = predictor_of()
    cube = cube_of(CROPLAND, ("vv", "vh"), (20, 30))
    result = predictor("s1", cube, np.ones((20, 30), bool))
    x = cube.x.transpose(2, 3, 0, 1).reshape(600, 12, 2)
    valid = cube.valid.transpose(1, 2, 0).reshape(600, 12)
    inputs = model_input(x, valid, np.array(YEAR.months), cube.bands, predictor.card.sensors["s1"])
    with torch.inference_mode():
        logits = predictor.module.predict("s1", torch.from_numpy(inputs)).numpy()
    expected = softmax(logits / 2.0).T.reshape(2, 20, 30)
    np.testing.assert_allclose(result.score, expected, atol=1e-5)
    np.testing.assert_array_equal(result.steps, cube.valid.sum(0))
    with torch.inference_mode():
        z = predictor.module.embed("s1", torch.from_numpy(inputs)).numpy()
    domain = predictor.domains["s1"]
    nearest = np.linalg.norm(z[:, None] - domain.prototypes.numpy(), axis=2).min(1)
    np.testing.assert_allclose(result.index.ravel(), nearest / float(domain.scale), rtol=1e-4)


def test_a_pixel_is_the_same_in_any_company() -> None:
    predictor = predictor_of()
    shape = (37, 61)
    cube = cube_of(CROPLAND, ("vv", "vh"), shape)
    whole = predictor("s1", cube, np.ones(shape, bool))
    assert whole.steps.size > 2 * BATCH  # several batches, the last one padded
    for rows, cols in ((slice(0, 5), slice(0, 61)), (slice(30, 37), slice(50, 61))):
        mask = np.zeros(shape, bool)
        mask[rows, cols] = True
        part = predictor("s1", cube, mask)
        np.testing.assert_array_equal(part.score[:, mask], whole.score[:, mask])
        np.testing.assert_array_equal(part.index[mask], whole.index[mask])
        assert np.isnan(part.score[:, ~mask]).all()
    inputs = np.random.default_rng(1).normal(size=(BATCH + 7, 12, 6)).astype(np.float32)
    together, _ = predictor.run("s1", inputs)
    np.testing.assert_array_equal(together[-7:], predictor.run("s1", inputs[-7:])[0])
    np.testing.assert_array_equal(together[::-1], predictor.run("s1", inputs[::-1].copy())[0])


def test_too_few_observations_are_nodata_not_a_guess() -> None:
    predictor = predictor_of()
    cube = cube_of(CROPLAND, ("vv", "vh"), (1, 3))
    count = np.zeros((12, 1, 3), np.uint8)
    count[:2, 0, 1] = 1  # one step short of CROPLAND.min_steps
    count[:3, 0, 2] = 1
    x = np.where(count[:, None] > 0, np.float32(1), np.float32(np.nan)).repeat(2, 1)
    result = predictor("s1", dataclasses.replace(cube, x=x, count=count), np.ones((1, 3), bool))
    assert np.isfinite(result.score).tolist() == [[[False, False, True]]] * 2


def test_classes_are_encoded_with_the_probability_of_the_class() -> None:
    score = np.array([[0.2, 0.5, 0.994], [0.8, 0.5, 0.006]], np.float32)
    value, percent, quality = predictor_of().encode("s1", score, np.full(3, 12), UNKNOWN[:3])
    assert value.tolist() == [1, 0, 0]
    assert percent.tolist() == [80, 50, 99]
    assert quality.tolist() == [GOOD, LOW, GOOD]  # below 70 % is low
    assert value.dtype == percent.dtype == quality.dtype == np.uint8


def test_regression_is_encoded_in_steps_of_its_scale() -> None:
    predictor = predictor_of(LFMC)
    outputs = np.array([[0.0], [1.5], [-9.0], [99.0]], np.float32)
    physical = predictor._physical("s1", outputs)  # mean 100, standard deviation 30
    value, width, quality = predictor.encode("s1", physical.T, np.array([4, 2, 4, 1]), UNKNOWN)
    assert value.tolist() == [1000, 1450, 0, 4000]  # 100 %, 145 %, clipped to 0 and 400 %
    assert width.tolist() == [200, 350, 200, 425]  # 20, 35, 20, 42.5 %
    assert quality.tolist() == [GOOD, GOOD, GOOD, FEW]
    assert value.dtype == np.uint16
    # where errors grow with the value, so do the intervals: 0.5 + value / 200, at least 0.3
    entry = dataclasses.replace(sensor_card(LFMC, "s1"), interval_spread=(0.5, 0.005))
    grown = predictor_of(LFMC, toy_card(LFMC, {"s1": entry}))
    _, width, quality = grown.encode("s1", physical.T, np.full(4, 4), UNKNOWN)
    assert width.tolist() == [200, 245, 100, 500]
    assert quality.tolist() == [GOOD, GOOD, GOOD, LOW]  # a guess is 1.645 * 30 = 49.35 % wide


# ---------------------------------------------------------------- smooth


def test_smoothing_is_the_mean_of_the_neighbours_with_data() -> None:
    p = np.array([[[1.0, 0.0, np.nan], [0.5, 0.25, 0.75]]], np.float32)
    out = smooth(p, 3)[0]
    # corner: 1, 0, 0.5, 0.25; middle of the lower row: all five
    assert out[0, 0] == pytest.approx(0.4375)
    assert out[1, 1] == pytest.approx(0.5)
    assert np.isnan(out[0, 2])  # nothing is filled in
    assert smooth(p, 1) is p


def test_smoothing_is_the_same_in_any_tile() -> None:
    rng = np.random.default_rng(0)
    p = rng.random((2, 40, 50), np.float32)
    p[:, rng.random((40, 50)) < 0.2] = np.nan
    whole = smooth(p, 5)
    part = smooth(p[:, 8:32, 18:42], 5)[:, 2:-2, 2:-2]
    np.testing.assert_array_equal(part, whole[:, 10:30, 20:40])
    p[1] = 1 - p[0]
    sure = pool(p, 5)
    np.testing.assert_array_equal(pool(p[:, 8:32, 18:42], 5)[:, 2:-2, 2:-2], sure[:, 10:30, 20:40])


def test_neighbours_that_agree_make_sure_of_the_class() -> None:
    p = np.array([[[0.9, 0.6, np.nan, 0.2, 0.9]]], np.float32)
    p = np.concatenate([p, 1 - p])
    mean, got = smooth(p, 3), pool(p, 3)
    # 0.9 and 0.6: mean 0.75; by logarithms sqrt(0.54) / (sqrt(0.54) + sqrt(0.04)) = 0.786
    assert got[:, 0, 0] == pytest.approx([0.786, 0.214], abs=1e-3)
    # 0.2 and 0.9: mean 0.55; by logarithms sqrt(0.18) / (sqrt(0.18) + sqrt(0.08)) = 0.6
    assert got[:, 0, 3] == pytest.approx([0.6, 0.4], abs=1e-3)
    assert np.isnan(got[:, 0, 2]).all()
    np.testing.assert_allclose(got[:, 0, [0, 1, 3, 4]].sum(0), 1, rtol=1e-6)
    many = np.random.default_rng(0).dirichlet(np.ones(5), (30, 40)).astype(np.float32)
    many = many.transpose(2, 0, 1)
    mean, got = smooth(many, 3), pool(many, 3)
    np.testing.assert_array_equal(got.argmax(0), mean.argmax(0))  # the class is the mean's
    assert (got.max(0) >= mean.max(0)).all()
    np.testing.assert_allclose(got.sum(0), 1, rtol=1e-5)
    assert pool(p, 1) is p


def test_reach_is_the_window_of_the_wanted() -> None:
    wanted = np.zeros((6, 7), bool)
    wanted[2, 3] = wanted[5, 0] = True
    near = reach(wanted, 3)
    expected = np.zeros((6, 7), bool)
    expected[1:4, 2:5] = expected[4:6, 0:2] = True
    np.testing.assert_array_equal(near, expected)


def test_weights_of_another_shape_are_refused() -> None:
    predictor = predictor_of()
    arrays = {k: v.numpy() for k, v in predictor.module.state_dict().items()}
    arrays.pop(next(iter(arrays)))
    with pytest.raises(BadRequest, match="do not fit"):
        Predictor(CROPLAND, predictor.card, arrays, "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(BadRequest, match="CUDA"):
            Predictor(CROPLAND, predictor.card, {}, "cuda")


# ---------------------------------------------------------------- store and run


@pytest.fixture
def opened(tmp_path: Path):
    """Opens stores in the test's folder."""
    return lambda **options: open_store(tmp_path, **options)


def open_store(root: Path, tile_px: int = 32, resume: bool = False, **identity: object) -> RunStore:
    return RunStore.open(root, identity or {"request": 1}, sheets(AREA, 10), layers_of(CROPLAND),
                         tile_px, resume)


def test_tiles_land_where_they_belong(opened) -> None:
    (sheet,) = sheets(AREA, 10)
    store = opened()
    truth = np.random.default_rng(0).integers(0, 2, sheet.geobox.shape).astype(np.uint8)
    for tile in sheet.tiles(32):
        record = TileRecord(sheet.name, tile.name, "mapped", "s1", "", 1)
        store.write(tile, {"map": truth[tile.rows, tile.cols]}, record)
    view = store.view(sheet.name, "map")
    assert view.shape == sheet.geobox.shape
    np.testing.assert_array_equal(view[:, :], truth)
    np.testing.assert_array_equal(view[3:40, 7:50], truth[3:40, 7:50])
    # one chunk a tile: none is shared by two tiles
    assert store._arrays[sheet.name]["map"].chunks == (32, 32)
    assert (store.view(sheet.name, "sensor")[:, :] == 255).all()


def test_a_store_is_resumed_only_by_its_own_run(opened, tmp_path: Path, monkeypatch) -> None:
    (sheet,) = sheets(AREA, 10)
    tile = next(iter(sheet.tiles(32)))
    store = opened(request=1)
    ones = np.ones(tile.geobox.shape, np.uint8)
    store.write(tile, {"map": ones}, TileRecord(sheet.name, tile.name, "mapped", "s1", "", 9))
    failed = TileRecord(sheet.name, "0_0", "failed", "", "why", 9)
    store.write(tile, {}, failed)
    with (tmp_path / "tiles.jsonl").open("a") as log:
        log.write('{"sheet": "utm31n", "til')  # a crash in the middle of a line
    with pytest.raises(BadRequest, match="other request"):
        opened(resume=True, request=2)
    with monkeypatch.context() as patch:  # a version of ours that knew fewer layers
        fewer = layers_of(CROPLAND)[:4]
        patch.setattr("tests.test_infer.layers_of", lambda task: fewer)
        with pytest.raises(BadRequest, match="other layers"):
            opened(resume=True, request=1)
    again = opened(resume=True, request=1)
    assert list(again.done()) == [f"{sheet.name}/{tile.name}"]
    assert again.view(sheet.name, "map")[tile.rows, tile.cols].all()
    fresh = opened(request=1)
    assert fresh.done() == {}
    assert (fresh.view(sheet.name, "map")[:, :] == 255).all()


def test_a_full_disk_says_so_and_keeps_what_was_stored(opened, monkeypatch) -> None:
    (sheet,) = sheets(AREA, 10)
    one, two = list(sheet.tiles(32))[:2]
    store = opened()
    ones = np.ones(one.geobox.shape, np.uint8)
    store.write(one, {"map": ones}, TileRecord(sheet.name, one.name, "mapped", "s1", "", 1))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(store._arrays[sheet.name]["map"]), "__setitem__", full)
    with pytest.raises(DataTrouble, match="No space left"):
        store.write(two, {"map": ones}, TileRecord(sheet.name, two.name, "mapped", "s1", "", 1))
    assert list(store.done()) == [f"{sheet.name}/{one.name}"]


def test_one_run_a_folder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(BadRequest, match="another run"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_what_says_finished_goes_before_the_tiles(opened, tmp_path: Path, monkeypatch) -> None:
    (sheet,) = sheets(AREA, 10)
    tile = next(iter(sheet.tiles(32)))
    ones = np.ones(tile.geobox.shape, np.uint8)
    opened().write(tile, {"map": ones}, TileRecord(sheet.name, tile.name, "mapped", "s1", "", 9))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.infer.store.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            opened()
    assert opened(resume=True).done() == {}


class FakeReader:
    """Cubes whose sensor decides their gaps; one tile cannot be read."""

    def __init__(self, broken: str = "") -> None:
        self.broken, self.calls = broken, []

    def __call__(self, row: PlanRow, sensor: str) -> tuple[Cube, float]:
        self.calls.append((row.tile.name, sensor))
        if row.tile.name == self.broken:
            raise DataTrouble("cannot read vv of S1A_X")
        grid = row.tile.geobox.pad(CROPLAND.smooth_px(sensor) // 2)
        h, w = grid.shape
        bands = ("vv", "vh") if sensor == "s1" else CROPLAND.features["s2"][:9]
        x = np.ones((12, len(bands), h, w), np.float32)  # as reflectance far from the training
        if sensor == "s1":
            x = x * np.array([-11, -18], np.float32)[:, None, None]
        count = np.ones((12, h, w), np.uint8)
        if sensor == "s2":
            count[:, : h // 2] = 0
            x[:, :, : h // 2] = np.nan
        return Cube(sensor, bands, YEAR, grid, x, count), 0.0


def rows_of(order: tuple[str, ...]) -> list[PlanRow]:
    (sheet,) = sheets(AREA, 10)
    choices = tuple(Choice(key, 1, 12.0, 0.9) for key in order)
    return [
        PlanRow(sheet, tile, (Cell(slice(None), slice(None), choices),), "test")
        for tile in sheet.tiles(32)
    ]


def test_gaps_of_the_first_sensor_are_filled_from_the_next(opened) -> None:
    store = opened()
    rows = rows_of(("s2", "s1"))
    seen: list[TileRecord] = []
    records = run_tiles(rows, FakeReader(), predictor_of(), store, seen.append)
    assert [r.key for r in records] == [row.key for row in rows]
    assert {r.key: r for r in seen} == {r.key: r for r in records}
    (sheet,) = sheets(AREA, 10)
    inside = sheet.inside(sheet.geobox)
    used = store.view(sheet.name, "sensor")[:, :]
    assert set(np.unique(used[inside])) == {1, 2}
    assert (used[~inside] == 255).all()
    assert (store.view(sheet.name, "map")[:, :][inside] != 255).all()
    assert (store.view(sheet.name, "observations")[:, :][inside] == 12).all()
    quality = store.view(sheet.name, "quality")[:, :]
    assert set(np.unique(quality[inside])) == {LOW, UNLIKE}  # random weights are sure of nothing
    assert (quality[used == 2] == UNLIKE).all()
    assert (quality[~inside] == 255).all()
    counted = {name: sum(r.quality.get(name, 0) for r in records)
               for name in ("good", "low confidence", "outside the training domain")}
    assert list(counted.values()) == [int((quality[inside] == k).sum())
                                      for k in (GOOD, LOW, UNLIKE)]
    both = [r for r in records if len(r.mapped_px) > 1]
    assert both
    assert "pixels made from s2" in both[0].reason
    assert sum(sum(r.mapped_px.values()) for r in records) == inside.sum()


def test_a_gap_of_the_only_sensor_stays_a_gap(opened) -> None:
    store = opened()
    records = run_tiles(rows_of(("s2",)), FakeReader(), predictor_of(), store, lambda _: None)
    (sheet,) = sheets(AREA, 10)
    inside = sheet.inside(sheet.geobox)
    values, used = (store.view(sheet.name, name)[:, :] for name in ("map", "sensor"))
    assert ((values == 255) == (used != 2)).all()
    quality = store.view(sheet.name, "quality")[:, :]
    np.testing.assert_array_equal(quality == 0, used == 0)
    np.testing.assert_array_equal(quality == 255, used == 255)
    assert (used[inside & (values == 255)] == 0).all()
    assert 0 < sum(r.mapped_px["s2"] for r in records) < inside.sum()


def test_a_failed_tile_is_named_and_resumed(opened) -> None:
    rows = rows_of(("s1",))
    broken = rows[1].tile.name
    store = opened()
    records = run_tiles(rows, FakeReader(broken), predictor_of(), store, lambda _: None)
    assert [r.status for r in records].count("failed") == 1
    assert "S1A_X" in records[1].reason
    again, reader = opened(resume=True), FakeReader()
    records = run_tiles(rows, reader, predictor_of(), again, lambda _: None)
    assert reader.calls == [(broken, "s1")]
    assert {r.status for r in records} == {"mapped"}
    json.dumps([dataclasses.asdict(r) for r in records])
