"""The run store, and the tiles of a run from a reader without files."""

from __future__ import annotations

import dataclasses
import errno
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.infer.run import run_tiles
from pipeline.infer.store import RunStore, locked
from pipeline.spec.errors import BadRequest, DataTrouble
from pipeline.spec.grid import sheets
from pipeline.spec.layers import GOOD, LOW, UNLIKE, layers_of
from pipeline.spec.manifest import TileRecord
from pipeline.spec.tasks import CROPLAND
from tests.support.tiles import AREA, FakeReader, predictor_of, rows_of


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
        patch.setattr("tests.test_infer_run.layers_of", lambda task: fewer)
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
