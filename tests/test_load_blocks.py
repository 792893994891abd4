"""Blocks are fetched and decoded once for all tiles, within a bound; failures are not held."""

from __future__ import annotations

import collections
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.windows import Window

from pipeline.data import stacks, web
from pipeline.data.block_store import BlockStore, Grid
from pipeline.data.blocks import HeldFile
from pipeline.data.load import load_cube, open_composite
from pipeline.data.remote import RemoteFile
from pipeline.data.search import search
from pipeline.spec.errors import DataTrouble
from pipeline.spec.grid import sheets
from tests.support.fault_server import Fault, FaultServer
from tests.support.images import (
    BANDS,
    SIDE,
    SPRING,
    count_decoded,
    empty_store,
    grid_of,
    scenes,
    write,
)


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> BlockStore:
    return empty_store(monkeypatch)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> collections.Counter:
    return count_decoded(monkeypatch)


@pytest.mark.parametrize("sensor", list(BANDS))
@pytest.mark.parametrize("threads", [1, 4])
def test_each_block_is_decoded_once_for_all_tiles(
    tmp_path: Path, decoded: collections.Counter, sensor: str, threads: int
) -> None:
    """Tiles that lie across the blocks, with halos that overlap, two at a time; quality bands are
    read once for all bands."""
    items, bands = scenes(tmp_path, sensor), BANDS[sensor]
    grids = [grid_of(x, y, 24).pad(1) for y in (5, 29, 53) for x in (5, 29, 53)]
    with ThreadPoolExecutor(2) as two:
        parts = list(two.map(
            lambda g: load_cube(items, g, bands, SPRING, num_workers=threads), grids))
    assert set(decoded.values()) == {1}
    assert {Path(name).name for name, _, _ in decoded} == {
        Path(a.href).name for i in items.items for a in i.assets.values()}
    fine = 9 * 3 * 2  # blocks of the 10 m bands; the quality band has 2 x 2 a date
    assert len(decoded) == (fine if sensor == "s1" else fine + 4 * 3)
    for grid, part in zip(grids, parts, strict=True):
        alone = open_composite(items, grid, bands, SPRING).compute()
        np.testing.assert_array_equal(part.x, alone["value"].values)


@pytest.mark.parametrize("read", ["tile", "lazy"])
def test_a_chunk_of_one_value_is_no_gap(tmp_path: Path, read: str) -> None:
    """Water, snow, a lake of salt: nothing varies, and everything was seen."""
    items, grid = scenes(tmp_path, "s2", dates=1), grid_of(0, 0, SIDE)
    write(tmp_path / "s2-0-B04.tif", np.full((SIDE, SIDE), 1000, np.uint16))
    write(tmp_path / "s2-0-SCL.tif", np.full((SIDE // 2, SIDE // 2), 6, np.uint8), 20)
    x = (load_cube(items, grid, ("B04",), SPRING).x if read == "tile" else
         open_composite(items, grid, ("B04",), SPRING).compute()["value"].values)
    seen = x[np.isfinite(x)]
    assert seen.size == SIDE**2  # one of the two months has an image
    np.testing.assert_allclose(seen, 0.1, rtol=1e-6)


def test_strips_are_held_in_larger_pieces(tmp_path: Path, decoded: collections.Counter) -> None:
    items = scenes(tmp_path, "s1", tiled=False, blockysize=1)
    with rasterio.open(items.items[0].assets["vv"].href) as file:
        assert file.block_shapes == [(1, SIDE)]
        assert Grid.of(file).block == (256, SIDE)
    decoded.clear()
    whole = load_cube(items, grid_of(0, 0, SIDE), ("vv",), SPRING)
    part = load_cube(items, grid_of(10, 20, 30), ("vv",), SPRING)
    np.testing.assert_array_equal(part.x, whole.x[..., 20:50, 10:40])
    assert set(decoded.values()) == {1}


def test_only_so_many_bytes_are_held() -> None:
    store = BlockStore(1000)
    one = Grid("EPSG:32631", Affine.identity(), 9, 9, "uint8", (10, 10))
    for k in range(50):
        store.keep_block(k, np.zeros(100, np.uint8), one, 0, k)
        store.block(0)  # asked for again and again, and so kept
    assert store.block(0) is not None
    assert [k for k in range(50) if store.block(k) is not None] == [0, *range(41, 50)]
    assert store.takes(one)
    assert not store.takes(dataclasses.replace(one, dtype="float32"))  # it would drive out others
    store.clear()
    assert store.block(0) is None


@pytest.mark.parametrize("spilled", [False, True])
def test_what_will_be_read_is_held_and_nothing_else(
    tmp_path: Path, decoded: collections.Counter, monkeypatch: pytest.MonkeyPatch, spilled: bool
) -> None:
    """Two rows of tiles need some 4.4 MB of 7.5: by least recent use alone blocks would drive out
    each other before they are needed again. With a folder a tenth of it will do."""
    monkeypatch.setattr("tests.support.images.SIDE", 768)
    items = scenes(tmp_path, "s2", blockxsize=256, blockysize=256)
    starts = range(0, 768, 192)
    grids = [grid_of(x, y, 192) for y in starts for x in starts]
    cubes, counts = [], []
    for planned in (True, False):
        store = BlockStore(1_200_000 if spilled else 4_600_000)
        monkeypatch.setattr(stacks, "SHARED", store)
        decoded.clear()
        with store.expecting(grids if planned else [], tmp_path if spilled else None):
            for k, grid in enumerate(grids):
                cubes.append(load_cube(items, grid, BANDS["s2"], SPRING, num_workers=1))
                store.passed(k if planned else len(grids) + k)
        counts.append(sum(decoded.values()) / len(decoded))
    assert counts[0] == 1
    assert counts[1] == 1 if spilled else counts[1] > 1.2
    for one, other in zip(cubes[:16], cubes[16:], strict=True):
        np.testing.assert_array_equal(one.x, other.x)


def test_a_problem_forgets_what_lies_on_disk(
    tmp_path: Path, decoded: collections.Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is held would be looked at again, and not the files."""
    monkeypatch.setattr("tests.support.images.SIDE", 768)
    items = scenes(tmp_path, "s2", blockxsize=256, blockysize=256)
    grid, store, counts = grid_of(3, 5, 600), BlockStore(1_200_000), []
    monkeypatch.setattr(stacks, "SHARED", store)
    with store.expecting([grid, grid, grid], tmp_path):
        for _ in range(2):
            load_cube(items, grid, BANDS["s2"], SPRING)
            counts.append(sum(decoded.values()))
        assert store._spill is not None
        assert store._spill._slots
        store.clear()
        load_cube(items, grid, BANDS["s2"], SPRING)
        counts.append(sum(decoded.values()))
    assert counts == [counts[0], counts[0], 2 * counts[0]]


def test_a_store_that_is_too_small_changes_nothing(
    tmp_path: Path, store: BlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, grid = scenes(tmp_path, "s2"), grid_of(3, 5, 70)
    held = load_cube(items, grid, BANDS["s2"], SPRING)
    for limit in (0, 9000):
        monkeypatch.setattr(stacks, "SHARED", BlockStore(limit))
        for _ in range(2):
            np.testing.assert_array_equal(load_cube(items, grid, BANDS["s2"], SPRING).x, held.x)


def test_a_file_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    items, grid = scenes(tmp_path, "s1", dates=1), grid_of(0, 0, SIDE)
    before = load_cube(items, grid, ("vv",), SPRING)
    write(Path(items.items[0].assets["vv"].href), np.full((SIDE, SIDE), 0.5, np.float32))
    after = load_cube(items, grid, ("vv",), SPRING)
    assert not (before.x == after.x).any()
    np.testing.assert_allclose(after.x[1], 10 * np.log10(0.5), rtol=1e-6)


def test_held_pixels_cannot_be_written_into(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE))
    with rasterio.open(tmp_path / "a.tif") as opened:
        file = HeldFile(lambda level: opened, lambda: None, store=BlockStore(1 << 20), key="a")
        inner = file.read(Window(2, 3, 20, 10))
        np.testing.assert_array_equal(inner, opened.read(1)[3:13, 2:22])
        np.testing.assert_array_equal(file.read(Window(30, 60, 66, 36)), opened.read(1)[60:, 30:])
    with pytest.raises(ValueError, match="read-only"):
        inner[:] = 0


def test_a_failure_is_not_held(
    region: Path, area: shapely.Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first read fails for good, the next one finds the server well again."""
    grid = sheets(area, 10)[0].geobox
    local = load_cube(search(str(region / "catalog.json"), "s1", area, SPRING), grid, ("vv",),
                      SPRING)
    monkeypatch.setattr(web, "_sleep", lambda _: None)
    server = FaultServer(region)
    with server:
        RemoteFile._headers.clear()
        items = search(server.url, "s1", area, SPRING)
        for kind in ("404", "zeros"):
            server.wrong = [Fault(kind, times=10**6)]
            with pytest.raises(DataTrouble, match="cannot be read"):
                load_cube(items, grid, ("vv",), SPRING, num_workers=1)
            server.wrong = []
            np.testing.assert_array_equal(load_cube(items, grid, ("vv",), SPRING).x, local.x)
            asked = len(server.requests)
            load_cube(items, grid, ("vv",), SPRING)
            assert len(server.requests) == asked  # what came is held
            RemoteFile._headers.clear()
