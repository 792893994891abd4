"""Pages and items that a search lost, and files without a pixel, are noticed."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely

from pipeline import cli
from pipeline.data.items import ItemSet
from pipeline.data.load import load_cube
from pipeline.data.search import search
from pipeline.infer.gate import through_gate
from pipeline.map import command
from pipeline.mapping import MapPlan, make_request, plan_map
from pipeline.spec.errors import DataTrouble
from pipeline.spec.timeline import parse_period
from tests.support.fault_server import FaultServer, anew, sleepless

SPRING = parse_period("2023-04", 2)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return sleepless(monkeypatch)


@pytest.fixture(scope="module")
def running(region: Path) -> Iterator[FaultServer]:
    with FaultServer(region) as server:
        yield server


@pytest.fixture
def server(running: FaultServer, waits: list[float]) -> FaultServer:
    return anew(running)


@pytest.fixture(scope="module")
def items(running: FaultServer, area: shapely.Geometry) -> ItemSet:
    return search(running.url, "s1", area, SPRING)


# --- searches


def ids(items: ItemSet) -> list[str]:
    return [i.id for i in items.items]


def test_lost_pages_and_items_are_noticed(
    server: FaultServer, items: ItemSet, area: shapely.Geometry
) -> None:
    for count in (True, False):
        server.count, server.page, server.drop = count, 3, 0
        assert ids(search(server.url, "s1", area, SPRING)) == ids(items)
    server.count, server.drop = True, 2
    assert ids(search(server.url, "s1", area, SPRING)) == ids(items)
    assert server.drop == 0
    server.repeat = True
    assert ids(search(server.url, "s1", area, SPRING)) == ids(items)
    server.lose, server.repeat = 1, False
    with pytest.raises(DataTrouble, match=r"more items than it gives.*got '\d of \d at 2023-0"):
        search(server.url, "s1", area, SPRING)


def test_pages_that_go_round_in_circles_end(
    server: FaultServer, items: ItemSet, area: shapely.Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = FaultServer.answer

    def again(self: FaultServer, query: dict) -> dict:
        page = plain(self, {k: v for k, v in query.items() if k != "token"})
        page["links"] = [{"rel": "next", "method": "POST", "href": f"{self.url}/search",
                          "body": query}]
        return page

    monkeypatch.setattr(FaultServer, "answer", again)
    assert ids(search(server.url, "s1", area, SPRING)) == ids(items)
    server.count = False
    monkeypatch.setattr("pipeline.data.api.MAX_PAGES", 30)
    with pytest.raises(DataTrouble, match="more than 30 pages"):
        search(server.url, "s1", area, SPRING)


# --- silent empties: files without a failure and without a pixel


@pytest.fixture(scope="module")
def planned(region: Path, region_aoi: str, untrained: dict[str, Path], tmp_path_factory) -> MapPlan:
    return plan_map(make_request(
        region_aoi, "s1", period="2023-10", catalog=str(region / "catalog.json"),
        checkpoint=str(untrained["cropland"]), out=str(tmp_path_factory.mktemp("out"))))


def test_a_tile_that_came_empty_once_is_read_again(planned: MapPlan) -> None:
    row = planned.rows[0]
    cube = load_cube(planned.items["s1"], row.tile.geobox, ("vv", "vh"), planned.request.timeline)
    empty = dataclasses.replace(cube, count=np.zeros_like(cube.count))
    reads = iter([empty, cube])
    got = through_gate(lambda: next(reads), row, planned.items["s1"], 3)
    assert got is cube
    reads = iter([empty])  # clouds may cover every image: nothing was promised
    assert through_gate(lambda: next(reads), row, planned.items["s1"], 99) is empty
    # the images have pixels there: what is empty are the composites, which may be as it should
    assert through_gate(lambda: empty, row, planned.items["s1"], 3) is empty


def test_files_that_hold_nothing_are_a_failure_and_no_gap(
    region: Path, region_aoi: str, untrained: dict[str, Path], tmp_path: Path, capfd
) -> None:
    hollow = tmp_path / "hollow"
    shutil.copytree(region, hollow)
    for path in hollow.glob("sentinel-1-rtc/**/*.tiff"):
        with rasterio.open(path) as file:
            profile = file.profile
        with rasterio.open(path, "w", **profile) as file:
            file.write(np.zeros((1, file.height, file.width), file.dtypes[0]))
    argv = ["--quiet", "--aoi", region_aoi, "--sensor", "s1", "--period", "2023-10", "--checkpoint",
            str(untrained["cropland"]), "--catalog", str(hollow / "catalog.json"), "--out",
            str(tmp_path / "out")]
    assert cli.run(command, argv) == 3
    said = capfd.readouterr().err
    assert "suspicious: the tile is empty in all" in said
    assert "sentinel-1-rtc" in said
    assert "--resume" in said
    assert not list(tmp_path.glob("out/**/*.tif"))
