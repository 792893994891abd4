"""Blocks are fetched and decoded once for all tiles, overviews serve coarse pixels, and the tile
that is read at once equals the lazy view bit for bit."""

from __future__ import annotations

import collections
import dataclasses
import math
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.enums import Resampling
from rasterio.windows import Window

from pipeline.data import rasters, stacks, web
from pipeline.data.aoi import read_aoi
from pipeline.data.block_store import BlockStore, Grid
from pipeline.data.blocks import HeldFile
from pipeline.data.items import ItemSet
from pipeline.data.load import load_cube, open_composite
from pipeline.data.remote import RemoteFile
from pipeline.data.search import search, to_item
from pipeline.data.sources import SOURCES, coarsest_m
from pipeline.spec.errors import DataTrouble
from pipeline.spec.grid import sheets, window
from pipeline.spec.sensors import SENSORS
from pipeline.spec.timeline import parse_period
from tests.support.fault_server import Fault, FaultServer
from tests.support.records import record

SPRING = parse_period("2023-04", 2)
SIDE = 96  # pixels of the images made here, in blocks of 32
CORNER = (500000, 5600000)


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> BlockStore:
    """An empty store in place of the process's own."""
    made = BlockStore(1 << 26)
    monkeypatch.setattr(stacks, "SHARED", made)
    return made


@pytest.fixture
def area(region_aoi: str) -> shapely.Geometry:
    return read_aoi(region_aoi).geometry


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> collections.Counter:
    """How often each block of each file was decoded."""
    seen: collections.Counter = collections.Counter()
    lock = threading.Lock()

    def opened(*args: Any, **options: Any) -> Watched:
        return Watched(real(*args, **options), args[0], seen, lock)

    real = rasterio.open
    monkeypatch.setattr(rasters.rasterio, "open", opened)
    return seen


class Watched:
    """An opened file that counts the blocks that GDAL decodes for a read."""

    def __init__(self, file: rasterio.DatasetReader, name: str, seen: collections.Counter,
                 lock: threading.Lock) -> None:
        self._file, self._name, self._seen, self._lock = file, name, seen, lock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, band: int, *, window: Window | None = None) -> np.ndarray:
        window = window or Window(0, 0, self._file.width, self._file.height)
        high, wide = self._file.block_shapes[0]
        (top, bottom), (left, right) = window.toranges()
        with self._lock:
            self._seen.update(
                (self._name, y, x) for y in range(top // high, -(-bottom // high))
                for x in range(left // wide, -(-right // wide)))
        return self._file.read(band, window=window)


def write(path: Path, values: np.ndarray, pixel: int = 10, **profile: Any) -> None:
    """A tiled GeoTIFF at CORNER, its north-west."""
    high, wide = values.shape
    with rasterio.open(path, "w", driver="GTiff", width=wide, height=high, count=1,
                       dtype=values.dtype, crs="EPSG:32631",
                       transform=Affine(pixel, 0, CORNER[0], 0, -pixel, CORNER[1]),
                       **({"tiled": True, "blockxsize": 32, "blockysize": 32} | profile)) as file:
        file.write(values, 1)


def scenes(folder: Path, sensor: str, dates: int = 3, pixel: int = 10, **profile: Any) -> ItemSet:
    """Images of April 2023, each of its own random pixels."""
    rng = np.random.default_rng(7)
    items = []
    for k in range(dates):
        name = f"{sensor}-{k}"
        raw = record(name, f"2023-04-{5 * k + 2:02d}T10:00:00Z",
                     **{"s2:processing_baseline": "02.12"})
        raw["geometry"] = shapely.geometry.mapping(shapely.box(2.9, 50.4, 3.1, 50.6))
        if sensor == "s1":
            raw["collection"], keys = "sentinel-1-rtc", ["vv", "vh"]
            images = [rng.gamma(2, 0.05, (SIDE, SIDE)).astype(np.float32) for _ in keys]
        else:
            keys = ["B04", "B08", "SCL"]
            images = [rng.integers(300, 4000, (SIDE, SIDE)).astype(np.uint16) for _ in keys]
            images[2] = rng.choice(np.array([4, 5, 8], np.uint8), (SIDE // 2, SIDE // 2))
        raw["assets"] = {key: {"href": str(folder / f"{name}-{key}.tif")} for key in keys}
        for key, image in zip(keys, images, strict=True):
            write(folder / f"{name}-{key}.tif", image, 20 if key == "SCL" else pixel, **profile)
        items.append(to_item(raw))
    return ItemSet(sensor, str(folder), tuple(items))


def grid_of(x0: int, y0: int, side: int, pixel: int = 10) -> Any:
    """A window some pixels from the corner."""
    west, north = CORNER[0] + x0 * pixel, CORNER[1] - y0 * pixel
    return window((west, north - side * pixel, west + side * pixel, north), 32631, pixel)


BANDS = {"s1": ("vv", "vh"), "s2": ("B04", "B08")}


# --- blocks


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
    monkeypatch.setitem(globals(), "SIDE", 768)
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
    monkeypatch.setitem(globals(), "SIDE", 768)
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


# --- overviews


def with_overviews(items: ItemSet, how: Resampling, factors: tuple[int, ...]) -> None:
    for item in items.items:
        for asset in item.assets.values():
            with rasterio.open(asset.href, "r+") as file:
                file.build_overviews(list(factors), how)


@pytest.mark.parametrize(("sensor", "level"), [("s1", 1), ("s2", 0)])
def test_coarse_pixels_come_from_overviews(
    tmp_path: Path, decoded: collections.Counter, sensor: str, level: int
) -> None:
    """50 m pixels: radar from 40 m; reflectance from 20 m, the pixel of its quality band."""
    items = scenes(tmp_path, sensor)
    for item in items.items:
        item.assets = {k: a for k, a in item.assets.items() if k != "B08"}
    with_overviews(items, Resampling.average, (2, 4, 8))
    band = BANDS[sensor][0]
    grid = grid_of(0, 0, 3, 250)
    values = []
    for item in items.items:
        with rasterio.open(item.assets[band].href, overview_level=level) as file:
            pixel = int(file.transform.a)
            coarse = file.read(1)
        at = (np.arange(15) * 50 + 25) // pixel
        value = coarse[np.ix_(at, at)].astype(float) * (1 if sensor == "s1" else 1e-4)
        if sensor == "s2":
            with rasterio.open(item.assets["SCL"].href) as file:
                value[file.read(1)[np.ix_(at, at)] == 8] = np.nan
        values.append(value)
    decoded.clear()
    cube = load_cube(items, grid, (band,), SPRING, aggregate=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of pixels without a value
        month = np.nanmean(values, 0) if sensor == "s1" else np.nanmedian(values, 0)
    mean = np.nanmean(month.reshape(3, 5, 3, 5), axis=(1, 3))
    np.testing.assert_allclose(cube.x[1, 0], 10 * np.log10(mean) if sensor == "s1" else mean,
                               rtol=1e-5)
    lazy = open_composite(items, grid, (band,), SPRING, aggregate=5).compute()["value"].values
    np.testing.assert_array_equal(cube.x, lazy)
    assert {(y, x) for name, y, x in decoded if f"-{band}" in name} == {(0, 0)}  # of one, not 3 x 3


def test_fine_pixels_and_files_without_overviews_are_read_as_they_are(tmp_path: Path) -> None:
    items = scenes(tmp_path, "s1")
    fine, coarse = grid_of(0, 0, SIDE), grid_of(0, 0, 3, 250)
    as_it_is = load_cube(items, fine, ("vv",), SPRING)
    picked = load_cube(items, coarse, ("vv",), SPRING, aggregate=5)
    with rasterio.open(items.items[0].assets["vv"].href) as file:
        one = file.read(1)[2:75:5, 2:75:5]
    single = dataclasses.replace(items, items=items.items[:1])
    got = load_cube(single, coarse, ("vv",), SPRING, aggregate=5)
    np.testing.assert_allclose(got.x[1, 0], 10 * np.log10(
        one.reshape(3, 5, 3, 5).mean((1, 3), dtype=float)), rtol=1e-5)
    with_overviews(items, Resampling.average, (2, 4, 8))
    np.testing.assert_array_equal(load_cube(items, fine, ("vv",), SPRING).x, as_it_is.x)
    assert not (load_cube(items, coarse, ("vv",), SPRING, aggregate=5).x[1] == picked.x[1]).any()


def test_an_overview_at_the_border_of_nothing_is_not_believed(tmp_path: Path) -> None:
    """Zeros beyond the swath, averaged into the last pixels of an overview, are not backscatter."""
    items = scenes(tmp_path, "s1", dates=1)
    path = Path(items.items[0].assets["vv"].href)
    power = np.full((SIDE, SIDE), 0.1, np.float32)
    power[:, :42] = 0
    write(path, power)
    with_overviews(items, Resampling.average, (2, 4))
    with rasterio.open(path, overview_level=1) as file:
        assert 0 < file.read(1)[0, 10] < 0.09  # the trap is laid
    cube = load_cube(items, grid_of(0, 0, 24, 40), ("vv",), SPRING)
    got = cube.x[1, 0]
    assert np.isnan(got[:, :11]).all()
    np.testing.assert_allclose(got[:, 12:], -10, rtol=1e-6)


def test_what_overviews_may_stand_for() -> None:
    """Averages of power, of reflectance up to the quality band's pixel; never of decibels, codes,
    and negatives that are stored as large numbers."""
    rows = {s.key: s for s in SOURCES}
    for key, asset, metres in (
        ("planetary-computer/sentinel-1-rtc", "vv", math.inf),
        ("planetary-computer/sentinel-2-l2a", "B04", 20.0),
        ("planetary-computer/sentinel-2-l2a", "SCL", 0.0),
        ("earth-search/landsat-c2-l2", "red", 30.0),
        ("earth-search/landsat-c2-l2", "qa_pixel", 0.0),
        ("archive/sentinel-1-grd-sigma0", "vv", 0.0),
        ("archive/sentinel-1-monthly", "vv", 0.0),
        ("archive/landsat-c1-l2-sr", "B04", 0.0),
    ):
        assert coarsest_m(rows[key], asset) == metres


# --- one way of computing


@pytest.mark.parametrize("sensor", list(SENSORS))
@pytest.mark.parametrize(("pixel", "aggregate"), [(10, 1), (50, 5)])
def test_a_tile_equals_the_lazy_view_bit_for_bit(
    region: Path, area: shapely.Geometry, sensor: str, pixel: int, aggregate: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two zones, in pieces and in one."""
    period = parse_period("2023-05", 4)
    items = search(str(region / "catalog.json"), sensor, area, period)
    bands = SENSORS[sensor].band_names[-2:]
    for sheet in sheets(area, pixel):
        lazy = open_composite(items, sheet.geobox, bands, period, aggregate=aggregate,
                              chunk_px=29).compute()
        for piece in (512, 30):
            monkeypatch.setattr("pipeline.data.load._CHUNK_READ_PX", piece)
            cube = load_cube(items, sheet.geobox, bands, period, aggregate=aggregate)
            np.testing.assert_array_equal(cube.x.view(np.uint32),
                                          lazy["value"].values.view(np.uint32))
            np.testing.assert_array_equal(cube.count, lazy["count"].values)
    assert cube.count.any()
