"""Pixels of the real scenes: against rasterio and plain NumPy, and odc-stac against stackstac."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from pipeline.data.aoi import read_aoi
from pipeline.data.items import ItemSet, when
from pipeline.data.load import load_cube, open_composite
from pipeline.data.search import search
from pipeline.prep import masks
from pipeline.spec.sensors import SENSORS
from pipeline.spec.timeline import Timeline, parse_period

FLANDERS = GeoBox((64, 64), Affine(10, 0, 501360, 0, -10, 5629680), 32631)
SEASON = parse_period("2018-07", 12)


@pytest.fixture(scope="module")
def flanders(shared: Path) -> dict[str, ItemSet]:
    geometry = read_aoi(str(shared / "scenes/flanders_2018/aoi.geojson")).geometry
    catalog = str(shared / "scenes/flanders_2018/catalog.json")
    return {key: search(catalog, key, geometry, SEASON) for key in SENSORS}


def stored(item: pystac.Item, asset: str, repeat: int) -> np.ndarray:
    """A whole asset by rasterio, coarse pixels repeated to 10 m."""
    with rasterio.open(item.assets[asset].href) as file:
        return file.read(1).repeat(repeat, 0).repeat(repeat, 1)


def monthly(
    pairs: list[tuple[pystac.Item, np.ndarray]], timeline: Timeline, how: str
) -> np.ndarray:
    """Composite by plain NumPy: (T, Y, X)."""
    out = np.full((timeline.steps, 64, 64), np.nan)
    for step in range(timeline.steps):
        month = [v for i, v in pairs if timeline.step_of(when(i)) == step]
        if month:
            stack = np.stack(month)
            seen = ~np.isnan(stack).all(0)
            rule = np.nanmedian if how == "median" else np.nanmean
            out[step, seen] = rule(stack[:, seen], axis=0)
    return out


@pytest.mark.real
@pytest.mark.parametrize(("band", "repeat"), [("B04", 1), ("B11", 2)])
def test_sentinel_2_against_rasterio(
    flanders: dict[str, ItemSet], band: str, repeat: int
) -> None:
    items = flanders["s2"]
    pairs = []
    for item in items.items:
        dn = stored(item, band, repeat)
        value = np.where(dn == 0, np.nan, dn * 1e-4)
        clear = np.isin(stored(item, "SCL", 2), (2, 4, 5, 6, 7))
        pairs.append((item, np.where(clear, value, np.nan)))
    cube = load_cube(items, FLANDERS, (band,), SEASON)
    np.testing.assert_allclose(cube.x[:, 0], monthly(pairs, SEASON, "median"), atol=2e-7)
    count = [sum(np.isfinite(v) for i, v in pairs if SEASON.step_of(when(i)) == t)
             for t in range(12)]
    np.testing.assert_array_equal(cube.count, np.stack(count))


@pytest.mark.real
def test_sentinel_1_against_rasterio(flanders: dict[str, ItemSet]) -> None:
    items = flanders["s1"]
    pairs = [(i, 10 ** (stored(i, "vh", 2) * 1e-4 / 10)) for i in items.items]
    cube = load_cube(items, FLANDERS, ("vv", "vh"), SEASON)
    np.testing.assert_allclose(cube.x[:, 1], 10 * np.log10(monthly(pairs, SEASON, "mean")),
                               atol=2e-5)
    assert cube.count.sum(0).max() == len(items.items)


@pytest.mark.real
def test_landsat_against_rasterio(flanders: dict[str, ItemSet]) -> None:
    items = flanders["l8"]
    by_pass: dict[int, tuple[pystac.Item, np.ndarray]] = {}
    for item, number in zip(items.items, items.passes, strict=True):
        dn = stored(item, "B05", 1).astype(float)
        value = np.where(dn == 64537, np.nan, np.where(dn > 32767, dn - 65536, dn) * 1e-4)
        value[~masks.landsat_c1_clear(stored(item, "pixel_qa", 1))] = np.nan
        if number in by_pass:  # the first scene of a pass, then what it lacks
            value = np.where(np.isnan(by_pass[number][1]), value, by_pass[number][1])
        by_pass[number] = (item, value)
    cube = load_cube(items, FLANDERS, ("nir",), SEASON)
    wanted = monthly(list(by_pass.values()), SEASON, "median")
    np.testing.assert_allclose(cube.x[:, 0], wanted, atol=2e-7)
    assert not cube.count[[4, 5, 8]].any()  # no scene at all in these months


@pytest.mark.real
@pytest.mark.parametrize("sensor", list(SENSORS))
def test_stackstac_gives_the_same(flanders: dict[str, ItemSet], sensor: str) -> None:
    items, bands = flanders[sensor], SENSORS[sensor].band_names[:2]
    one, two = (
        open_composite(items, FLANDERS, bands, SEASON, loader=loader).compute()
        for loader in ("odc", "stackstac")
    )
    xr.testing.assert_identical(one, two)  # bit for bit, coordinates and attributes, too


@pytest.mark.real
def test_monthly_archive_keeps_its_gaps(shared: Path) -> None:
    geometry = read_aoi(str(shared / "scenes/hesbaye_2021/aoi.geojson")).geometry
    catalog, period = str(shared / "scenes/hesbaye_2021/catalog.json"), parse_period("2021-10", 12)
    grid = GeoBox((100, 100), Affine(10, 0, 664000, 0, -10, 5612120), 32631)
    s2 = search(catalog, "s2", geometry, period)
    cube = load_cube(s2, grid, ("B04", "B12"), period)
    assert np.flatnonzero(~cube.valid.any((1, 2))).tolist() == [1, 2]  # December and January
    assert cube.count.max() == 1
    s1 = search(catalog, "s1", geometry, period)
    cube = load_cube(s1, grid, ("vv",), period)
    with rasterio.open(s1.items[3].assets["vv"].href) as file:
        np.testing.assert_allclose(cube.x[3, 0], 20 * np.log10(file.read(1).astype(float)) - 83,
                                   atol=2e-5)
