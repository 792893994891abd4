"""How files are read: by whom, when they are signed, how many requests, how large the graphs."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import pickle
import threading
from pathlib import Path
from urllib.parse import urlsplit

import cloudpickle
import numpy as np
import pytest
import rasterio
import rasterio.env
import shapely
from affine import Affine
from pyproj import Transformer
from rasterio.control import GroundControlPoint

from pipeline.data import load, rasters
from pipeline.data.items import ItemSet, footprint
from pipeline.data.load import load_cube, open_composite
from pipeline.data.reader import centres
from pipeline.data.search import search, to_item
from pipeline.data.stacks import crs_of, open_stacks
from pipeline.infer.lanes import Lanes
from pipeline.infer.predict import Predictor
from pipeline.infer.run import Reader, run_tiles
from pipeline.infer.store import RunStore
from pipeline.mapping import make_request, plan_map
from pipeline.spec.errors import DataTrouble
from pipeline.spec.grid import sheets
from pipeline.spec.layers import layers_of
from pipeline.spec.timeline import parse_period
from tests.support.records import record
from tests.support.stac_server import StacServer

SPRING = parse_period("2023-04", 2)


@pytest.fixture
def found(region: Path, area: shapely.Geometry) -> ItemSet:
    return search(str(region / "catalog.json"), "s1", area, SPRING)


# --- the loader


def test_maps_are_read_without_stackstac(
    found: ItemSet, area: shapely.Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise AssertionError("stackstac was used")

    monkeypatch.setattr("pipeline.data.load_stackstac.stackstac.stack", gone)
    grid = sheets(area, 10)[0].geobox
    assert load_cube(found, grid, ("vv",), SPRING).count.any()
    assert open_composite(found, grid, ("vv",), SPRING)["count"].any().compute()
    with pytest.raises(AssertionError, match="stackstac was used"):
        open_composite(found, grid, ("vv",), SPRING, loader="stackstac")


@pytest.mark.parametrize(("sensor", "band"), [("s1", "vv"), ("l8", "red")])
def test_the_loaders_settings_go_wherever_a_file_is_read(
    region: Path, area: shapely.Geometry, monkeypatch: pytest.MonkeyPatch, sensor: str, band: str
) -> None:
    """In every reading thread, of quality bands, too, and in a graph that was sent to another
    process."""
    found = search(str(region / "catalog.json"), sensor, area, SPRING)
    seen: list[tuple[int, dict]] = []

    def watched(*args: object, **options: object) -> rasterio.DatasetReader:
        seen.append((threading.get_ident(), rasterio.env.getenv()))
        return opened(*args, **options)

    opened = rasterio.open
    grid = sheets(area, 10)[0].geobox
    lazy = open_composite(found, grid, (band,), SPRING)["value"].data
    sent = pickle.loads(cloudpickle.dumps(lazy))
    monkeypatch.setattr(rasters.rasterio, "open", watched)
    here = load_cube(found, grid, (band,), SPRING, num_workers=3).x
    np.testing.assert_array_equal(sent.compute(scheduler="synchronous"), here)
    assert len(seen) >= 4
    assert threading.get_ident() in {thread for thread, _ in seen}
    assert len({thread for thread, _ in seen}) > 1
    for _, options in seen:
        assert {k: options.get(k) for k in rasters.GDAL_OPTIONS} == rasters.GDAL_OPTIONS


def test_files_are_signed_when_they_are_opened_and_each_time_anew(
    found: ItemSet, area: shapely.Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def sign(href: str, *_: object) -> str:
        asked.append(href)
        return href

    monkeypatch.setattr(rasters, "signed", sign)
    lazy = open_composite(found, sheets(area, 10)[0].geobox, ("vv",), SPRING)
    assert asked == []  # a graph may wait longer than a token lives
    lazy["value"].compute()
    once = len(asked)
    assert set(asked) <= {i.assets["vv"].href for i in found.items}
    assert once > 0
    lazy["value"].compute()
    assert len(asked) == 2 * once


def test_only_the_files_themselves_are_asked_for_and_seldom(
    region: Path, area: shapely.Geometry
) -> None:
    """No listing, no side-car files, no probing: header and pixels of small files in two."""
    with StacServer(region) as server:
        items = search(server.url, "l8", area, SPRING)
        server.requests.clear()
        load_cube(items, sheets(area, 10)[0].geobox, ("red", "nir"), SPRING, num_workers=1)
        paths = [path for _, path, _, _ in server.requests]
    wanted = {urlsplit(a.href).path for i in items.items for k, a in i.assets.items()
              if k in ("red", "nir08", "qa_pixel")}
    assert set(paths) <= wanted
    assert paths
    assert max(paths.count(path) for path in paths) <= 2


# --- grids that cannot be mapped from by rows and columns


@pytest.mark.parametrize("transform", [
    Affine(10, 3, 740000, 0, -10, 4865000), Affine(10, 0, 740000, 3, -10, 4865000),
    Affine.translation(740000, 4865000) @ Affine.rotation(12) @ Affine.scale(10, -10), None,
], ids=["sheared eastwards", "sheared northwards", "rotated", "ground control points"])
def test_images_in_slant_or_sheared_geometry_are_refused(
    found: ItemSet, area: shapely.Geometry, tmp_path: Path, transform: Affine | None
) -> None:
    """Rows and columns of raw radar follow its orbit: a grid invented for them is a mile off."""
    path = tmp_path / "raw.tif"
    points = [GroundControlPoint(r, c, 6.0 + c / 1e3, 44.0 - r / 1e3)
              for r in (0, 9) for c in (0, 9)]
    how = {"transform": transform} if transform else {"gcps": points}
    with rasterio.open(path, "w", driver="GTiff", width=9, height=9, count=1, dtype="float32",
                       crs="EPSG:32631", **how) as file:
        file.write(np.ones((9, 9), np.float32), 1)
    one = found.items[0].clone()
    one.assets["vv"].href = str(path)
    with pytest.raises(DataTrouble, match=r"raw\.tif.*not on a north-up grid of a known CRS"):
        load_cube(dataclasses.replace(found, items=(one,)), sheets(area, 10)[0].geobox, ("vv",),
                  SPRING)


# --- windows


@pytest.mark.parametrize("crs", ["EPSG:32632", "EPSG:4326"])
def test_where_a_pixel_is_looked_for_does_not_depend_on_the_window(crs: str) -> None:
    """A warper's approximation is half a pixel off in the middle of a window as wide as a tile,
    and in another place for each tiling."""
    whole = sheets(shapely.box(5.8, 43.5, 6.0, 43.7), 10)[0].geobox[:1200, :1200]
    rows, cols = slice(700, 761), slice(33, 500)
    for got, part in zip(centres(whole[rows, cols], crs), centres(whole, crs), strict=True):
        np.testing.assert_array_equal(got, part[rows, cols])
    column, row = 333, 777
    x, y = whole.affine @ (column + 0.5, row + 0.5)
    exact = Transformer.from_crs(str(whole.crs), crs, always_xy=True).transform(x, y)
    assert tuple(part[row, column] for part in centres(whole, crs)) == pytest.approx(exact,
                                                                                     abs=1e-9)


# --- the graphs


def test_the_graph_of_a_tile_does_not_grow_with_the_area(
    region: Path, area: shapely.Geometry
) -> None:
    """Ten times the images elsewhere are no task of a tile."""
    here = search(str(region / "catalog.json"), "s1", area, SPRING)
    elsewhere = []
    for k in range(10 * len(here.items)):
        twin = here.items[k % len(here.items)].clone()
        twin.id = f"{twin.id}-{k}"
        twin.geometry = shapely.geometry.mapping(shapely.box(20, 10, 21, 11))
        for fields in (twin.properties, *(a.extra_fields for a in twin.assets.values())):
            fields.pop("proj:transform", None)
        elsewhere.append(twin)
    country = dataclasses.replace(here, items=(*here.items, *elsewhere))
    tile = sheets(area, 10)[0].geobox[:16, :16]
    one, two = (open_composite(i, tile, ("vv", "vh"), SPRING) for i in (here, country))
    tasks = len(one.__dask_graph__())
    assert len(two.__dask_graph__()) == tasks
    assert tasks < 12 * 2 * len(here.items)  # a dozen tasks a file


@pytest.mark.parametrize("lanes", [Lanes(1, 1), Lanes(1, 2), Lanes(2, 1)])
def test_few_tiles_are_read_ahead_and_no_more(
    region: Path, untrained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    lanes: Lanes,
) -> None:
    begun: list[object] = []
    ahead: list[int] = []

    @functools.wraps(load_cube)
    def counted(*args: object, **options: object) -> object:
        begun.append(args)
        return load.load_cube(*args, **options)

    monkeypatch.setattr("pipeline.infer.run.load_cube", counted)
    request = make_request(
        "5.9965,43.8995,5.9995,43.9006", "s1", period="2023-10", tile_px=16, device="cpu",
        catalog=str(region / "catalog.json"), checkpoint=str(untrained["cropland"]),
        out=str(tmp_path / "out"))
    made = plan_map(request)
    assert len(made.rows) > 3
    store = RunStore.open(tmp_path, {}, made.sheets, layers_of(request.task), 16, False)
    run_tiles(made.rows, Reader(made.items, made.card.sensors, request.timeline, request.task),
              Predictor(request.task, made.card, made.arrays, "cpu"), store,
              lambda _: ahead.append(len(begun)), lanes)
    assert len(begun) == len(made.rows)
    assert all(n <= k + lanes.workers + lanes.ahead for k, n in enumerate(ahead))


# --- what items state


@pytest.mark.parametrize("fields", [
    {"proj:epsg": 32631}, {"proj:code": "EPSG:32631"}, {"proj:code": "epsg:32631"},
])
@pytest.mark.parametrize("declared", ["v1.1.0", "v2.0.0", ""])
@pytest.mark.parametrize("place", ["properties", "asset"])
def test_either_name_of_the_crs_is_understood(fields: dict, declared: str, place: str) -> None:
    raw = record("a", "2023-05-01T00:00:00Z", **(fields if place == "properties" else {}))
    raw["assets"]["B02"] |= fields if place == "asset" else {}
    if declared:
        raw["stac_extensions"] = [
            f"https://stac-extensions.github.io/projection/{declared}/schema.json"]
    assert crs_of(to_item(raw)) == "EPSG:32631"


def test_the_unwarped_tile_of_a_pass_comes_first_whatever_its_crs_is_called(
    region: Path, area: shapely.Geometry
) -> None:
    found = search(str(region / "catalog.json"), "s2", area, SPRING)
    records = [copy.deepcopy(i.to_dict(transform_hrefs=False)) for i in found.items]
    for raw in records:
        raw["properties"]["proj:epsg"] = int(raw["properties"].pop("proj:code")[5:])
        raw["stac_extensions"] = []
    old = dataclasses.replace(found, items=tuple(to_item(r) for r in records))
    grid = sheets(area, 10)[1].geobox
    for items in (found, old):
        (stack,) = open_stacks(items, grid, ("B04",), 512, "odc")
        zones = [crs_of(items.items[k]) for k in stack.images.index]
        assert set(zones) == {"EPSG:32631", "EPSG:32632"}
        assert zones == sorted(zones, reverse=True)  # the window's own zone, then the other


def test_outlines_that_cross_themselves_are_mended(
    tmp_path: Path, untrained: dict[str, Path]
) -> None:
    """Such an outline has no intersection with anything, and asking for one may end the run."""
    knot = [[2.9, 50.7], [3.1, 50.9], [3.1, 50.7], [2.9, 50.9], [2.9, 50.7]]
    raw = record("knot", "2023-03-01T00:00:00Z", platform="sentinel-2a")
    raw |= {"collection": "sentinel-2-monthly", "geometry": {"type": "Polygon",
                                                             "coordinates": [knot]}}
    raw["assets"] = {b: {"href": f"./{b}.tif"} for b in (
        "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")}
    (tmp_path / "knot.json").write_text(json.dumps(raw))
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "c", "links": [
        {"rel": "item", "href": "./knot.json"}]}))
    request = make_request("3.04,50.79,3.06,50.81", "s2", period="2023-10",
                           catalog=str(tmp_path / "catalog.json"),
                           checkpoint=str(untrained["cropland"]), out=str(tmp_path / "out"))
    made = plan_map(request)
    (item,) = made.items["s2"].items
    assert shapely.geometry.shape(item.geometry).is_valid
    assert any(row.choices and row.choices[0].items == 1 for row in made.rows)


@pytest.mark.parametrize("shape", [
    shapely.box(501360, 5629040, 502000, 5629680), shapely.box(3, 50, 4, 91), shapely.Polygon(),
], ids=["metres", "beyond the pole", "empty"])
def test_outlines_that_are_none_are_left_out(
    tmp_path: Path, area: shapely.Geometry, shape: shapely.Geometry
) -> None:
    """One that is not in degrees reaches around the world, or covers everything."""
    good = record("good", "2023-04-01T00:00:00Z") | {"geometry": shapely.geometry.mapping(area)}
    odd = good | {"id": "odd", "geometry": shapely.geometry.mapping(shape)}
    for raw in (good, odd):
        (tmp_path / f"{raw['id']}.json").write_text(json.dumps(raw))
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "c", "links": [
        {"rel": "item", "href": f"./{name}.json"} for name in ("good", "odd")]}))
    found = search(str(tmp_path / "catalog.json"), "s2", area, SPRING)
    assert [item.id for item in found.items] == ["good"]
    assert [(name, "outline" in why) for name, why in found.skipped] == [("odd", True)]


@pytest.mark.parametrize("size", ["INF", "nan", 1e308, "-1e308"])
@pytest.mark.parametrize("field", ["proj:shape", "proj:transform"])
def test_sizes_that_no_image_has_are_not_believed(
    area: shapely.Geometry, size: str | float, field: str
) -> None:
    """The item's outline is what is left; numbers that overflow are no warning either."""
    stated = {"proj:shape": [100, 100], "proj:transform": [10, 0, 740000, 0, -10, 4866000]}
    stated[field][0] = size
    raw = record("odd", "2023-04-01T00:00:00Z", **{"proj:code": "EPSG:32631"}, **stated)
    raw["geometry"] = shapely.geometry.mapping(area)
    assert footprint(to_item(raw)).equals(area.buffer(0.05))
