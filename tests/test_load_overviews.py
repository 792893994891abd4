"""Overviews serve coarse pixels, and tiles read at once equal the lazy view bit for bit."""

from __future__ import annotations

import collections
import dataclasses
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.enums import Resampling

from pipeline.data.block_store import BlockStore
from pipeline.data.items import ItemSet
from pipeline.data.load import load_cube, open_composite
from pipeline.data.search import search
from pipeline.data.sources import SOURCES, coarsest_m
from pipeline.spec.grid import sheets
from pipeline.spec.sensors import SENSORS
from pipeline.spec.timeline import parse_period
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
