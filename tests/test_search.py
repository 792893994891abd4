"""Search: static, table and API catalogues agree; duplicates, faults and freezing."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import shapely

from pipeline.data import web
from pipeline.data.aoi import read_aoi
from pipeline.data.api import outlines
from pipeline.data.items import when
from pipeline.data.search import search
from pipeline.spec.errors import BadRequest, DataTrouble
from pipeline.spec.timeline import parse_period
from tests.support.records import record
from tests.support.stac_server import StacServer

YEAR = parse_period("2023-10", 12)


@pytest.fixture(scope="module")
def server(region: Path) -> Iterator[StacServer]:
    with StacServer(region, page=7) as running:
        yield running


# --- the three kinds of catalogue


@pytest.mark.parametrize("sensor", ["s1", "s2", "l8"])
def test_folder_table_and_api_agree(
    region: Path, server: StacServer, area: shapely.Geometry, sensor: str
) -> None:
    folder = search(str(region / "catalog.json"), sensor, area, YEAR)
    table = search(str(region / "items.parquet"), sensor, area, YEAR)
    api = search(server.url, sensor, area, YEAR)
    # an oracle that shares no code with the search: the server's own list
    wanted = {
        i["id"] for i in server.items
        if i["collection"] == folder.items[0].collection_id
        and "2022-11" <= i["properties"]["datetime"][:7] <= "2023-10"
        and shapely.geometry.shape(i["geometry"]).intersects(area)
    }
    for found in (folder, table, api):
        ids = [i.id for i in found.items]
        assert len(ids) > 10
        assert set(ids) | {name for name, _ in found.skipped} == wanted
        assert [when(i) for i in found.items] == sorted(when(i) for i in found.items)
        assert ids == [i.id for i in folder.items]
        assert found.skipped == folder.skipped
    assert api.fingerprint == folder.fingerprint
    assert api.catalog == server.url
    assert all(a.href.startswith(server.url) for i in api.items for a in i.assets.values())
    assert all(Path(a.href).is_file() for i in folder.items for a in i.assets.values())


def test_pages_that_repeat_items_and_busy_servers(
    server: StacServer, area: shapely.Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_sleep", lambda _: None)
    calm = search(server.url, "s1", area, YEAR)
    server.repeat, server.faults = True, [503, 429, 502]
    server.requests.clear()
    busy = search(server.url, "s1", area, YEAR)
    server.repeat = False
    assert [s for m, _, _, s in server.requests if m == "POST"][:4] == [503, 429, 502, 200]
    assert busy.fingerprint == calm.fingerprint
    assert len({i.id for i in busy.items}) == len(busy.items)


def test_period_is_half_open(region: Path, area: shapely.Geometry) -> None:
    month = search(str(region / "catalog.json"), "s1", area, parse_period("2023-04", None))
    year = search(str(region / "catalog.json"), "s1", area, YEAR)
    inside = [i.id for i in year.items if when(i).strftime("%Y-%m") == "2023-04"]
    assert [i.id for i in month.items] == inside


def test_reprocessed_and_foreign_items_are_listed(region: Path, area: shapely.Geometry) -> None:
    s2 = search(str(region / "catalog.json"), "s2", area, YEAR)
    reasons = dict(s2.skipped)
    kept = {i.id for i in s2.items}
    assert reasons
    assert all(r.removeprefix("superseded by ") in kept for r in reasons.values())
    l8 = search(str(region / "catalog.json"), "l8", area, YEAR)
    assert any("platform landsat-7" in reason for _, reason in l8.skipped)


# --- what goes wrong


def test_nothing_there(region: Path, server: StacServer, area: shapely.Geometry) -> None:
    catalog = str(region / "catalog.json")
    ocean = shapely.box(-40, 20, -39, 21)
    for place in (catalog, server.url):
        with pytest.raises(DataTrouble, match=r"no usable s1 image within -40\.0000.*open sea"):
            search(place, "s1", ocean, YEAR)
        with pytest.raises(DataTrouble, match=r"in 2001-01:2001-03.*sentinel-1-rtc.*--period"):
            search(place, "s1", area, parse_period("2001-01:2001-03", None))


def test_catalogue_is_down_or_none(
    tmp_path: Path, server: StacServer, area: shapely.Geometry
) -> None:
    with pytest.raises(DataTrouble, match=r"STAC API.*127\.0\.0\.1:9: Connection refused"):
        search("http://127.0.0.1:9", "s1", area, YEAR)
    for path in ("/files/catalog.json", "/nowhere", "/files/items.parquet"):
        with pytest.raises(DataTrouble, match="does not answer as a STAC API"):
            search(server.url + path, "s1", area, YEAR)
    with pytest.raises(BadRequest, match=r"no such catalogue.*planetary-computer"):
        search(str(tmp_path / "catalog.json"), "s1", area, YEAR)
    for name, text, says in (
        ("a.json", "{", "not JSON"), ("b.json", "[]", "not STAC"),
        ("c.json", '{"type": "FeatureCollection"}', "not a STAC catalogue"),
        ("d.parquet", "PAR1", "not a readable stac-geoparquet"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataTrouble, match=says):
            search(str(tmp_path / name), "s1", area, YEAR)


def test_search_that_keeps_failing(
    server: StacServer, area: shapely.Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_sleep", lambda _: None)
    server.faults = [503] * 7
    with pytest.raises(DataTrouble, match="HTTP 503"):
        search(server.url, "s1", area, YEAR)
    server.faults = []


def test_api_with_raw_grd_only(server: StacServer, area: shapely.Geometry) -> None:
    offered = server.collections
    server.collections = {"sentinel-1-grd": offered["sentinel-1-rtc"] | {"id": "sentinel-1-grd"}}
    try:
        with pytest.raises(DataTrouble, match=r"sentinel-1-grd is refused.*terrain-corrected"):
            search(server.url, "s1", area, YEAR)
    finally:
        server.collections = offered


def test_local_catalogue_stays_in_its_folder(tmp_path: Path, area: shapely.Geometry) -> None:
    """Links and assets that leave the folder are left out and say so; a loop of links ends."""
    inside = tmp_path / "cat"
    (inside / "one").mkdir(parents=True)
    outline = shapely.geometry.mapping(area)
    good = record("good", "2023-03-01T00:00:00Z") | {"geometry": outline}
    bad = copy.deepcopy(good) | {"id": "bad"}
    good["assets"]["B02"]["href"] = "./B02.tif"
    bad["assets"]["B02"]["href"] = "file:///etc/passwd"
    for item in (good, bad):
        (inside / "one" / f"{item['id']}.json").write_text(json.dumps(item))
    (inside / "catalog.json").write_text(json.dumps({
        "type": "Catalog", "id": "c", "links": [
            {"rel": "child", "href": "./catalog.json"},
            {"rel": "item", "href": "./one/good.json"}, {"rel": "item", "href": "one/bad.json"},
            {"rel": "item", "href": "../../outside.json"},
        ],
    }))
    found = search(str(inside / "catalog.json"), "s2", area, YEAR)
    assert [i.id for i in found.items] == ["good"]
    assert found.items[0].assets["B02"].href == str(inside / "one" / "B02.tif")
    reasons = dict(found.skipped)
    assert "outside the catalogue's folder" in reasons["bad"]
    assert "outside the catalogue's folder" in reasons["../../outside.json"]
    (inside / "one" / "good.json").unlink()
    with pytest.raises(DataTrouble, match=r"page of the catalogue is missing.*good\.json"):
        search(str(inside / "catalog.json"), "s2", area, YEAR)


def test_broken_items_are_left_out(tmp_path: Path, area: shapely.Geometry) -> None:
    outline = shapely.geometry.mapping(area)
    good = record("good", "2023-03-01T00:00:00Z") | {"geometry": outline}
    broken = [good | {"id": "no-shape", "geometry": None},
              good | {"id": "no-time", "properties": {"datetime": None}},
              good | {"id": "bad-shape", "geometry": {"type": "Polygon"}}]
    for item in (good, *broken):
        (tmp_path / f"{item['id']}.json").write_text(json.dumps(item))
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "c", "links": [
        {"rel": "item", "href": f"./{i['id']}.json"} for i in (good, *broken)]}))
    found = search(str(tmp_path / "catalog.json"), "s2", area, YEAR)
    assert [i.id for i in found.items] == ["good"]
    assert {name for name, _ in found.skipped} == {"no-shape", "no-time", "bad-shape"}


def test_malformed_catalogues_are_refused(tmp_path: Path, area: shapely.Geometry) -> None:
    path = tmp_path / "catalog.json"
    for links in (None, ["a"], {"rel": "item"}):
        path.write_text(json.dumps({"type": "Catalog", "id": "c", "links": links}))
        with pytest.raises(DataTrouble, match=r"not STAC.*catalog\.json: its links are not a list"):
            search(str(path), "s2", area, YEAR)
    with pytest.raises(DataTrouble, match="does not answer as a STAC API"):
        search("https://", "s2", area, YEAR)


def test_remote_children_and_malformed_items_are_left_out(
    tmp_path: Path, area: shapely.Geometry
) -> None:
    outline = shapely.geometry.mapping(area)
    good = record("good", "2023-03-01T00:00:00Z") | {"geometry": outline}
    soup = {"type": "Soup", "coordinates": []}
    items = [good, good | {"id": "links", "links": [5]}, good | {"id": "soup", "geometry": soup}]
    for item in items:
        (tmp_path / f"{item['id']}.json").write_text(json.dumps(item))
    links = [{"rel": "item", "href": f"./{i['id']}.json"} for i in items]
    links.append({"rel": "child", "href": "http://example.org/y.json?sig=x", "title": "more"})
    (tmp_path / "catalog.json").write_text(
        json.dumps({"type": "Catalog", "id": "c", "links": links}))
    found = search(str(tmp_path / "catalog.json"), "s2", area, YEAR)
    assert [i.id for i in found.items] == ["good"]
    reasons = dict(found.skipped)
    assert set(reasons) == {"links", "soup", "more"}
    assert reasons["links"] == "not a valid item: its links are not a list of objects"
    assert reasons["more"] == (
        "http://example.org/y.json: remote children of a local catalogue are not followed")


def test_outlines_for_requests() -> None:
    across = read_aoi("179,10,-179,11").geometry
    assert [o.bounds for o in outlines(across)] == [(-180, 10, -179, 11), (179, 10, 180, 11)]
    round_one = shapely.Point(5, 50).buffer(1, quad_segs=1000)
    (small,) = outlines(round_one)
    assert shapely.get_num_coordinates(small) < 10
    assert small.contains(round_one)
    assert outlines(shapely.box(0, 0, 1, 1)) == [shapely.box(0, 0, 1, 1)]
