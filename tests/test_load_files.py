"""Reading files: lost, broken and foreign ones are named; over HTTP only ranges are asked for."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from pipeline.data.aoi import read_aoi
from pipeline.data.items import ItemSet
from pipeline.data.load import load_cube, open_composite
from pipeline.data.search import search
from pipeline.data.stacks import Loader
from pipeline.spec.errors import DataTrouble
from pipeline.spec.grid import sheets
from pipeline.spec.sensors import SENSORS
from pipeline.spec.timeline import parse_period
from tests.support.stac_server import StacServer

YEAR = parse_period("2023-10", 12)


@pytest.fixture(scope="module")
def found(region: Path, region_aoi: str) -> dict[str, ItemSet]:
    """Per sensor, what the sandbox has for the year."""
    geometry = read_aoi(region_aoi).geometry
    catalog = str(region / "catalog.json")
    return {key: search(catalog, key, geometry, YEAR) for key in SENSORS}


@pytest.mark.parametrize("loader", ["odc", "stackstac"])
def test_a_lost_file_fails_and_is_named(
    region: Path, tmp_path: Path, area: shapely.Geometry, loader: Loader
) -> None:
    copy = tmp_path / "region"
    shutil.copytree(region, copy)
    items = search(str(copy / "catalog.json"), "l8", area, YEAR)
    victim = items.items[3]
    path = Path(victim.assets["red"].href)
    grid = sheets(area, 10)[0].geobox
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    lazy = open_composite(items, grid, ("red",), YEAR, loader=loader)
    with pytest.raises(DataTrouble, match=f"item {victim.id}.*{path.name}.*run again"):
        lazy.compute()
    path.unlink()
    with pytest.raises(DataTrouble, match=f"item {victim.id}.*No such file"):
        lazy.compute()


def test_wrong_type_and_rotated_files_are_refused(
    region: Path, tmp_path: Path, area: shapely.Geometry
) -> None:
    items = search(str(region / "catalog.json"), "s1", area, YEAR)
    grid = sheets(area, 10)[0].geobox
    for name, transform, dtype, says in (
        ("a.tif", grid.affine, "float64", "holds float64, the archive's row float32"),
        ("b.tif", Affine(10, 2, 740000, 2, -10, 4865000), "float32", "north-up grid"),
    ):
        with rasterio.open(tmp_path / name, "w", driver="GTiff", width=9, height=9, count=1,
                           dtype=dtype, crs="EPSG:32631", transform=transform) as file:
            file.write(np.ones((9, 9), dtype), 1)
        one = items.items[0].clone()
        one.assets["vv"].href = str(tmp_path / name)
        with pytest.raises(DataTrouble, match=says):
            load_cube(dataclasses.replace(items, items=(one,)), grid, ("vv",), YEAR)


# --- over HTTP


@pytest.mark.parametrize("sensor", list(SENSORS))
def test_range_requests_give_the_same_pixels(
    region: Path, found: dict[str, ItemSet], area: shapely.Geometry, sensor: str
) -> None:
    grid, bands = sheets(area, 10)[0].geobox, SENSORS[sensor].band_names[:2]
    period = parse_period("2023-04", 2)
    with StacServer(region) as server:
        items = search(server.url, sensor, area, period)
        cube = load_cube(items, grid, bands, period)
        reads = [r for r in server.requests if r[0] == "GET" and r[1].startswith("/files/")]
        ranges = [status for _, _, asked, status in reads if asked]
        whole = [path for _, path, asked, _ in reads if not asked]
    assert ranges
    assert set(ranges) == {206}
    assert whole == []
    local = load_cube(found[sensor], grid, bands, period)
    np.testing.assert_array_equal(cube.x, local.x)
    np.testing.assert_array_equal(cube.count, local.count)


def test_a_file_that_the_server_lacks(region: Path, area: shapely.Geometry) -> None:
    period = parse_period("2023-04", 1)
    with StacServer(region) as server:
        items = search(server.url, "s1", area, period)
        one = items.items[0].clone()
        one.assets["vv"].href += ".gone.tif?sig=secret"
        with pytest.raises(DataTrouble, match=r"gone\.tif.*404") as caught:
            load_cube(dataclasses.replace(items, items=(one,)), sheets(area, 10)[0].geobox,
                      ("vv",), period)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
