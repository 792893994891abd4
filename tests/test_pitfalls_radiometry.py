"""Numbers that look right and are not: offsets that contradict the pixels, borders, orbits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from affine import Affine

from pipeline.data.items import ItemSet
from pipeline.data.load import load_cube, open_scenes
from pipeline.data.search import search, to_item
from pipeline.infer.orbits import orbits_of
from pipeline.prep.masks import SCL_VEGETATION
from pipeline.prep.radiometry import DARK_VEGETATION, offset_doubt, to_physical
from pipeline.spec.errors import DataTrouble
from pipeline.spec.grid import sheets, window
from pipeline.spec.source import OffsetRule, Source
from pipeline.spec.timeline import parse_period
from tests.support.records import record

YEAR = parse_period("2023-10", 12)


# --- the offset of Sentinel-2 against the pixels


def s2_row(rule: OffsetRule = "fixed") -> Source:
    return Source("t/t", "s2", "t", {}, "reflectance", "l2a", 0, 1e-4, 0.0, rule)


def field(red: float) -> np.ndarray:
    return np.random.default_rng(0).normal(red, 0.004, 900).astype(np.float32)


def doubt(red: np.ndarray, rule: OffsetRule, offset: float, clear: int = 900) -> str:
    return offset_doubt(red, clear, s2_row(rule), offset)


def test_vegetation_tells_an_offset_that_is_missing_or_subtracted_twice() -> None:
    assert doubt(field(0.03), "fixed", 0.0) == ""
    assert doubt(field(0.03), "s2-baseline", -0.1) == ""
    assert "subtracted already" in doubt(field(0.03 - 0.1), "s2-baseline", -0.1)
    assert "still in it" in doubt(field(0.03 + 0.1), "fixed", 0.0)
    # what says nothing: a handful of pixels, dry vegetation among bare soil or before 04.00
    assert doubt(field(0.13)[:400], "fixed", 0.0) == ""
    assert doubt(field(0.13), "fixed", 0.0, clear=2000) == ""
    assert doubt(field(0.13), "s2-baseline", 0.0) == ""
    # one dark pixel in a hundred is enough to show that nothing is missing
    assert doubt(np.concatenate([field(0.13), field(0.03)[:10]]), "fixed", 0.0) == ""


@pytest.mark.parametrize("shifted", [True, False])
def test_a_flag_that_contradicts_the_pixels_fails_and_names_the_item(
    region: Path, area: shapely.Geometry, tmp_path: Path, shifted: bool
) -> None:
    """An image with the offset in it, and one without, each listed under either flag."""
    found = search(str(region / "catalog.json"), "s2", area, YEAR)
    item = next(i for i in found.items if i.datetime.strftime("%Y-%m") == "2023-06"
                and i.properties["proj:code"] == "EPSG:32631").clone()
    red = tmp_path / "red.tif"
    with rasterio.open(item.assets["B04"].href) as file:
        dn, profile = file.read(1), file.profile
    with rasterio.open(red, "w", **profile) as file:
        file.write(dn if shifted else np.where(dn > 0, np.maximum(dn, 1001) - 1000, 0), 1)
    del item.properties["sandbox:seed"]
    item.assets = {"red": pystac.Asset(str(red)), "scl": item.assets["SCL"]}
    grid = sheets(area, 10)[0].geobox

    def listed(applied: bool) -> np.ndarray:
        item.properties |= {"earthsearch:payload_id": "x", "s2:processing_baseline": "05.09",
                            "earthsearch:boa_offset_applied": applied}
        cube = load_cube(dataclasses.replace(found, items=(item,)), grid, ("B04",), YEAR)
        return cube.x[np.isfinite(cube.x)]

    says = "seems to be still in it" if shifted else "seems to be subtracted already"
    with pytest.raises(DataTrouble, match=rf"item {item.id} contradicts its metadata.*{says}"):
        listed(applied=shifted)
    assert 0.02 < np.median(listed(applied=not shifted)) < 0.2


@pytest.mark.real
def test_real_vegetation_is_as_dark_as_the_check_believes(shared: Path) -> None:
    """Every fourth scene of a real archive, hazy ones too; 1 000 either way leaves the bounds."""
    darkest = []
    for path in sorted((shared / "scenes/flanders_2018/sentinel-2-l2a").glob("*/*.json"))[::4]:
        assets = json.loads(path.read_text())["assets"]
        red, scl = (rasterio.open(path.parent / assets[k]["href"]).read(1) for k in ("B04", "SCL"))
        scl = scl.repeat(2, 0).repeat(2, 1) if scl.shape != red.shape else scl
        vegetation = red[(scl == SCL_VEGETATION) & (red > 0)] * np.float32(1e-4)
        if vegetation.size < 900:
            continue
        assert doubt(vegetation, "fixed", 0.0) == ""
        assert doubt(vegetation - 0.1, "s2-baseline", -0.1)
        assert doubt(vegetation + 0.1, "fixed", 0.0)
        darkest.append(float(np.quantile(vegetation, 0.01)))
    assert len(darkest) > 10
    low, high = DARK_VEGETATION
    assert low < min(darkest) <= max(darkest) < high - 0.03


# --- borders and nodata


def placed(tmp_path: Path, values: np.ndarray, asset: str, **item: Any) -> pystac.Item:
    """An item of one small file that does not say what its nodata is."""
    grid = window((500000, 5600000, 500040, 5600020), 32631, 10)
    path = tmp_path / f"{asset}.tif"
    with rasterio.open(path, "w", driver="GTiff", width=4, height=2, count=1, dtype=values.dtype,
                       crs="EPSG:32631", transform=grid.affine) as file:
        file.write(values, 1)
    assert rasterio.open(path).nodata is None
    raw = record("one", "2023-05-01T00:00:00Z", **item.pop("properties", {})) | item
    raw["geometry"] = shapely.geometry.mapping(shapely.box(2.9, 50.4, 3.1, 50.6))
    raw["assets"] = {asset: {"href": str(path)}}
    return to_item(raw)


def test_zeros_at_the_border_of_radar_are_gaps(tmp_path: Path) -> None:
    """Border zeros and noise below zero have no logarithm; a decibel of them would be a guess."""
    power = np.array([[0, 0, -1e-5, 0.1], [-32768, np.nan, 1e-6, 1.0]], np.float32)
    item = placed(tmp_path, power, "vv", collection="sentinel-1-rtc")
    grid = window((500000, 5600000, 500040, 5600020), 32631, 10)
    scene = open_scenes(ItemSet("s1", "c", (item,)), grid, ("vv",)).compute()["value"].values[0, 0]
    np.testing.assert_allclose(scene, [[np.nan, np.nan, np.nan, -10],
                                       [np.nan, np.nan, -60, 0]], rtol=1e-6)


@pytest.mark.parametrize(("unit", "wanted"), [
    ("linear", [np.nan, np.nan]),  # power below zero: noise that was subtracted
    ("reflectance", [-0.0005, -0.002]),  # dark water after atmospheric correction
    ("dB", [10 ** -0.5, 10 ** -2]),
])
def test_the_unit_is_the_tables_and_not_guessed_from_the_numbers(
    unit: str, wanted: list[float]
) -> None:
    """An image of negatives only looks like decibels, whatever it is."""
    row = Source("t/t", "s1", "t", {}, unit, "sigma0", 0, 1e-4 if unit == "reflectance" else 1.0)
    got = to_physical(np.array([-5, -20], np.int32), row, row.scale, row.offset)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_nodata_is_the_tables_where_the_file_is_silent(tmp_path: Path) -> None:
    dn = np.array([[65535, 0, 2500, 1], [65535, 65535, 65535, 10000]], np.uint16)
    item = placed(tmp_path, dn, "B04", collection="sentinel-2-monthly")
    grid = window((500000, 5600000, 500050, 5600020), 32631, 10)  # a column beyond the file
    cube = load_cube(ItemSet("s2", "c", (item,)), grid, ("B04",), YEAR)
    step = YEAR.months.index(2023 * 12 + 4)
    nan = np.nan
    np.testing.assert_allclose(
        cube.x[step, 0], [[nan, 0, 0.25, 1e-4, nan], [nan, nan, nan, 1, nan]], rtol=1e-6)
    assert cube.count[step].tolist() == [[0, 1, 1, 1, 0], [0, 0, 0, 1, 0]]


def test_quality_codes_are_never_mixtures(tmp_path: Path) -> None:
    """Read coarser than it is, a scene classification gives one of its codes, though its
    overviews hold averages of them."""
    codes = np.random.default_rng(0).choice(np.array([4, 8], np.uint8), (64, 64))
    path = tmp_path / "scl.tif"
    with rasterio.open(path, "w", driver="GTiff", width=64, height=64, count=1, dtype="uint8",
                       crs="EPSG:32631", transform=Affine(20, 0, 500000, 0, -20, 5600000),
                       tiled=True, blockxsize=16, blockysize=16) as file:
        file.write(codes, 1)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], rasterio.enums.Resampling.average)
    with rasterio.open(path, OVERVIEW_LEVEL=1) as file:
        assert len(np.unique(file.read(1))) > 2  # the trap is laid
    raw = record("one", "2023-05-01T00:00:00Z", **{"s2:processing_baseline": "05.10"})
    raw["geometry"] = shapely.geometry.mapping(shapely.box(2.9, 50.4, 3.1, 50.6))
    raw["assets"] = {k: {"href": str(path)} for k in ("B04", "SCL")}
    items = ItemSet("s2", "c", (to_item(raw),))
    grid = window((500000, 5600000 - 1280, 501280, 5600000), 32631, 80)
    scene = open_scenes(items, grid, ("B04",)).compute()["value"].values[0, 0]
    clear = np.isfinite(scene)
    centre = codes[2::4, 2::4]
    np.testing.assert_array_equal(clear, centre == 4)


# --- orbits and platforms


def test_the_orbits_of_a_tile_are_counted_by_pass() -> None:
    west, east = shapely.box(2.9, 50.7, 3.0, 50.9), shapely.box(2.9, 50.7, 3.2, 50.9)

    def look(name: str, time: str, where: shapely.Geometry, **stated: Any) -> pystac.Item:
        one = record(name, f"2023-05-{time}Z", platform="sentinel-1a", **stated)
        return to_item(one | {"geometry": shapely.geometry.mapping(where),
                              "collection": "sentinel-1-rtc"})

    up = {"sat:orbit_state": "ascending", "sat:relative_orbit": 161}
    down = {"sat:orbit_state": "descending", "sat:relative_orbit": 37}
    items = ItemSet("s1", "c", (
        look("a", "01T17:00:00", east, **up), look("b", "01T17:00:25", east, **up),  # two frames
        look("c", "13T17:00:00", east, **up), look("d", "05T06:00:00", west, **down),
        look("e", "09T06:00:00", west),
    ))
    tiles = [sheets(shapely.box(x, 50.8, x + 0.002, 50.801), 10)[0].geobox for x in (2.93, 3.13)]
    assert orbits_of(items, tiles) == [
        {"ascending 161": 2, "descending 37": 1, "not stated": 1}, {"ascending 161": 2}]
