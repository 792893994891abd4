"""From files to a month's value, by hand: what is averaged, in which unit, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from odc.geo.geobox import GeoBox

from pipeline.data.items import ItemSet
from pipeline.data.load import load_cube, open_composite
from pipeline.data.search import to_item
from pipeline.spec.grid import window
from pipeline.spec.timeline import parse_period
from tests.support.records import record

MAY = parse_period("2023-05", 1)
GRID = window((500000, 5600000, 500040, 5600010), 32631, 10)  # four pixels
COARSE = window((500000, 5600000, 500020, 5600020), 32631, 20)  # one, of four
NAN = np.nan


def image(folder: Path, day: int, collection: str, bands: Mapping[str, Any],
          shape: tuple[int, int] = (1, 4), **properties: Any) -> pystac.Item:
    """An acquisition of that day: stored numbers of each asset, on the grid."""
    raw = record(f"{collection}-{day}", f"2023-05-{day:02d}T10:00:00Z",
                 platform="a satellite", **properties)
    raw |= {"collection": collection,
            "geometry": shapely.geometry.mapping(shapely.box(2.9, 50.4, 3.1, 50.6))}
    raw["assets"] = {}
    for asset, (dtype, numbers) in bands.items():
        path = folder / f"{collection}-{day}-{asset}.tif"
        with rasterio.open(path, "w", driver="GTiff", width=shape[1], height=shape[0], count=1,
                           dtype=dtype, crs="EPSG:32631",
                           transform=window((500000, 5600000, 500000 + 10 * shape[1],
                                             5600000 + 10 * shape[0]), 32631, 10).affine) as file:
            file.write(np.array(numbers, dtype).reshape(shape), 1)
        raw["assets"][asset] = {"href": str(path)}
    return to_item(raw)


def month(sensor: str, items: list[pystac.Item], band: str, grid: GeoBox = GRID,
          aggregate: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Value and number of observations, by either way of reading."""
    found = ItemSet(sensor, "c", tuple(items))
    cube = load_cube(found, grid, (band,), MAY, aggregate=aggregate)
    lazy = open_composite(found, grid, (band,), MAY, aggregate=aggregate).compute()
    np.testing.assert_array_equal(lazy["value"].values, cube.x)
    np.testing.assert_array_equal(lazy["count"].values, cube.count)
    return cube.x[0, 0], cube.count[0]


# --- radar: powers are averaged, decibels are not


@pytest.mark.parametrize(("collection", "dtype", "encode", "nodata"), [
    ("sentinel-1-rtc", "float32", lambda power: power, -32768),
    ("sentinel-1-grd-sigma0", "int32", lambda power: np.rint(1e5 * np.log10(power)), 0),
    ("sentinel-1-monthly", "uint16",
     lambda power: np.rint(10 ** ((10 * np.log10(power) + 83) / 20)), 65535),
])
def test_a_month_of_radar_is_the_mean_of_its_powers(
    tmp_path: Path, collection: str, dtype: str, encode: Any, nodata: float
) -> None:
    powers = [[0.1, 0.1, 0.02, NAN], [0.001, 0.1, NAN, NAN], [0.001, 0.004, 0.04, NAN]]
    items = [image(tmp_path, 3 + 6 * k, collection, {"vv": (dtype, [
        nodata if np.isnan(p) else float(encode(p)) for p in row])})
        for k, row in enumerate(powers)]
    value, count = month("s1", items, "vv")
    # 0.1, 0.001 and 0.001 are -10, -30 and -30 dB: their mean is 0.034, -14.69 dB; the mean of the
    # decibels would be -23.3, their median -30
    wanted = 10 * np.log10([0.034, 0.068, 0.03])
    np.testing.assert_allclose(value[0, :3], wanted, atol=2e-3)
    assert np.isnan(value[0, 3])
    assert count.tolist() == [[3, 3, 2, 0]]


def test_coarse_pixels_of_radar_are_means_of_powers(tmp_path: Path) -> None:
    item = image(tmp_path, 3, "sentinel-1-grd-sigma0", {
        "vv": ("int32", [-100_000, -300_000, -300_000, 0])}, (2, 2))
    value, count = month("s1", [item], "vv", COARSE, aggregate=2)
    np.testing.assert_allclose(value, [[10 * np.log10(0.034)]], atol=1e-4)
    assert count.tolist() == [[1]]


# --- optical: the median of what was clear

# rows: acquisitions; the cloud of the third and the shadow of the fourth would move any median
RED = [[1200, 1200, 1200, 0], [1400, 1600, 1800, 0], [9000, 9000, 9000, 9000],
       [10, 10, 1300, 10]]
SCL = [[4, 5, 6, 4], [4, 7, 2, 4], [9, 8, 10, 3], [3, 11, 5, 1]]


@pytest.mark.parametrize("baselines", [("05.09",) * 4, ("03.00", "05.09", "05.09", "05.09")],
                         ids=["one offset", "two offsets"])
def test_a_month_of_reflectance_is_the_median_of_the_clear(
    tmp_path: Path, baselines: tuple[str, ...]
) -> None:
    """Two ways of computing it: on stored numbers where all mean the same, else on reflectance."""
    scenes = [image(tmp_path, 3 + 5 * k, "sentinel-2-l2a",
                    {"B04": ("uint16", red), "SCL": ("uint8", scl)},
                    **{"s2:processing_baseline": baseline})
              for k, (red, scl, baseline) in enumerate(zip(RED, SCL, baselines, strict=True))]
    value, count = month("s2", scenes, "B04")
    a, b, c = (0.12 - 0.1 * (baselines[0] == "05.09"), np.array([0.04, 0.06, 0.08]), 0.03)
    wanted = [(a + b[0]) / 2, (a + b[1]) / 2, np.median([a, b[2], c]), NAN]
    np.testing.assert_allclose(value[0], wanted, atol=1e-6)
    assert count.tolist() == [[2, 2, 3, 0]]


def test_water_and_dark_fields_are_kept_and_thin_cloud_is_not(tmp_path: Path) -> None:
    """Each code of the scene classification, one image a time."""
    clear = []
    for code in range(12):
        scene = image(tmp_path, code + 1, "sentinel-2-l2a",
                      {"B04": ("uint16", [1500] * 4), "SCL": ("uint8", [code] * 4)},
                      **{"s2:processing_baseline": "05.09"})
        value, count = month("s2", [scene], "B04")
        assert (count > 0).all() == np.isfinite(value).all()
        clear += [code] * int(count.all())
    assert clear == [2, 4, 5, 6, 7]
