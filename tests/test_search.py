"""Search: static, table and API catalogues agree; duplicates, faults and freezing."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import shapely

from pipeline.data.aoi import read_aoi
from pipeline.data.catalogs import outlines
from pipeline.data.duplicates import newest
from pipeline.data.hrefs import absolute, shown, unsigned
from pipeline.data.items import ItemSet, freeze, pass_numbers, thaw, when
from pipeline.data.search import search, to_item
from pipeline.data.signing import signed
from pipeline.spec.errors import BadRequest, DataTrouble
from pipeline.spec.timeline import parse_period
from tests.support.stac_server import StacServer

YEAR = parse_period("2023-10", 12)


@pytest.fixture(scope="module")
def server(region: Path) -> Iterator[StacServer]:
    with StacServer(region, page=7) as running:
        yield running


@pytest.fixture
def area(region_aoi: str) -> shapely.Geometry:
    return read_aoi(region_aoi).geometry


def record(name: str, when: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "sentinel-2-l2a",
        "geometry": {"type": "Point", "coordinates": [5, 50]}, "bbox": [5, 50, 5, 50], "links": [],
        "properties": {"datetime": when, **properties},
        "assets": {"B02": {"href": f"https://example.org/{name}.tif"}},
    }


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
    monkeypatch.setattr("urllib3.Retry.sleep", lambda *_: None)
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
        with pytest.raises(DataTrouble, match="in 2001-01:2001-03.*sentinel-1-rtc.*--period"):
            search(place, "s1", area, parse_period("2001-01:2001-03", None))


def test_catalogue_is_down_or_none(
    tmp_path: Path, server: StacServer, area: shapely.Geometry
) -> None:
    with pytest.raises(DataTrouble, match=r"STAC API.*127\.0\.0\.1:9: Connection refused"):
        search("http://127.0.0.1:9", "s1", area, YEAR)
    for path in ("/files/catalog.json", "/nowhere", "/files/items.parquet"):
        with pytest.raises(DataTrouble, match="does not answer as a STAC API"):
            search(server.url + path, "s1", area, YEAR)
    with pytest.raises(BadRequest, match="no such catalogue.*planetary-computer"):
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
    monkeypatch.setattr("urllib3.Retry.sleep", lambda *_: None)
    server.faults = [503] * 7
    with pytest.raises(DataTrouble, match="too many 503 error responses"):
        search(server.url, "s1", area, YEAR)
    server.faults = []


def test_api_with_raw_grd_only(server: StacServer, area: shapely.Geometry) -> None:
    offered = server.collections
    server.collections = {"sentinel-1-grd": offered["sentinel-1-rtc"] | {"id": "sentinel-1-grd"}}
    try:
        with pytest.raises(DataTrouble, match="sentinel-1-grd is refused.*terrain-corrected"):
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


# --- duplicates


def pc(tile: str, baseline: str, made: str, start: str = "T102559") -> dict[str, Any]:
    name = f"S2A_{tile}_{baseline}_{made}_{start}"
    return record(name, "2023-05-01T10:20:21Z", **{
        "platform": "Sentinel-2A", "s2:mgrs_tile": tile, "s2:processing_baseline": baseline,
        "s2:datatake_id": f"GS2A_20230501T102021_041000_N{baseline}",
        "s2:datastrip_id": f"S2A_OPER_MSI_L2A_DS_X_{made}_S20230501{start}_N{baseline}",
        "s2:generation_time": f"{made[:4]}-{made[4:6]}-{made[6:8]}T00:00:00Z",
    })


def kept(*records: dict[str, Any], sensor: str = "s2") -> tuple[list[str], dict[str, str]]:
    chosen, dropped = newest([to_item(copy.deepcopy(r)) for r in records], sensor)
    return sorted(i.id for i in chosen), dict(dropped)


def test_newest_baseline_then_newest_generation() -> None:
    old, new = pc("31UES", "04.00", "20240909"), pc("31UES", "05.10", "20230801")
    again, other = pc("31UES", "05.10", "20240101"), pc("31UFS", "04.00", "20230501")
    ids, dropped = kept(old, new, again, other)
    assert ids == sorted([again["id"], other["id"]])
    assert dropped == {old["id"]: f"superseded by {again['id']}",
                       new["id"]: f"superseded by {again['id']}"}
    assert kept(again, new, other, old) == (ids, dropped)  # whatever the order


def test_two_strips_of_a_tile_are_both_kept() -> None:
    one, two = pc("31UES", "05.10", "20230502"), pc("31UES", "05.10", "20230502", "T103001")
    assert kept(one, two)[0] == sorted([one["id"], two["id"]])


def test_landsat_tier_replaces_real_time() -> None:
    def scene(tier: str, made: str) -> dict[str, Any]:
        return record(f"LC09_{tier}_{made}", "2023-05-01T10:30:00Z", **{
            "platform": "landsat-9", "landsat:wrs_path": "199", "landsat:wrs_row": "025",
            "landsat:collection_category": tier, "created": f"{made}T00:00:00Z",
        }) | {"collection": "landsat-c2-l2"}

    ids, dropped = kept(scene("RT", "2023-05-20"), scene("T1", "2023-05-16"), sensor="l8")
    assert ids == ["LC09_T1_2023-05-16"]
    assert dropped == {"LC09_RT_2023-05-20": "superseded by LC09_T1_2023-05-16"}


@pytest.mark.real
def test_one_acquisition_in_two_recorded_collections(shared: Path) -> None:
    """Earth Search publishes the same granule as Collection 1 and as the older collection."""
    items = []
    for path in sorted((shared / "stac_recorded/earth_search_v1").glob("search_filter_page*.json")):
        items += [to_item(f) for f in json.loads(path.read_text())["features"]
                  if f["collection"] in ("sentinel-2-l2a", "sentinel-2-c1-l2a")]
    chosen, dropped = newest(items, "s2")
    assert len(chosen) + len(dropped) == len(items)
    tiles = [i.properties["grid:code"] for i in chosen]
    assert len(set(tiles)) == len(tiles) == len({i.properties["grid:code"] for i in items})
    both = {i.properties["grid:code"] for i in items if i.collection_id == "sentinel-2-l2a"} & {
        i.properties["grid:code"] for i in items if i.collection_id == "sentinel-2-c1-l2a"}
    assert both
    assert all(i.collection_id == "sentinel-2-c1-l2a" for i in chosen
               if i.properties["grid:code"] in both)


@pytest.mark.real
@pytest.mark.parametrize(("name", "sensor"), [
    ("items_sentinel-1-rtc_sample4", "s1"), ("search_sentinel-2-l2a_datetime", "s2"),
    ("search_sentinel-2-l2a_site2_2020_jun_jul_35MNM", "s2"), ("items_landsat-c2-l2_page", "l8"),
])
def test_recorded_items_are_all_different_acquisitions(
    shared: Path, name: str, sensor: str
) -> None:
    raw = json.loads((shared / f"stac_recorded/planetary_computer/{name}.json").read_text())
    items = [to_item(f) for f in raw["features"]]
    assert newest(items, sensor) == (items, [])
    again = [to_item(f) for f in raw["features"]]
    for item in again:
        item.id += "_again"
    chosen, dropped = newest(items + again, sensor)
    assert len(chosen) == len(dropped) == len(items)


# --- passes and time


def test_passes() -> None:
    def at(minute: float, platform: str = "sentinel-1a") -> pystac.Item:
        time = datetime(2023, 5, 1, 23, 50, tzinfo=UTC) + timedelta(minutes=minute)
        return to_item(record(f"{platform}{minute}", time.isoformat(), platform=platform))

    # frames 25 s apart, also over midnight, are one pass; the next orbit, another satellite not
    items = [at(0), at(0.4), at(9.9), at(10.3), at(108), at(0, "sentinel-1b")]
    numbers = pass_numbers(items)
    assert len({numbers[k] for k in range(4)}) == 1
    assert len({numbers[0], numbers[4], numbers[5]}) == 3
    mixed = [4, 2, 5, 0, 3, 1]
    again = pass_numbers([items[k] for k in mixed])
    same = np.equal.outer(numbers, numbers)[np.ix_(mixed, mixed)]
    assert (np.equal.outer(again, again) == same).all()


def test_composites_of_a_period() -> None:
    month = {"start_datetime": "2023-02-01T00:00:00Z", "end_datetime": "2023-02-28T23:59:59Z"}
    one, two = (to_item(record(n, None, **month)) for n in "ab")  # type: ignore[arg-type]
    assert when(one).date().isoformat() == "2023-02-14"
    assert len(set(pass_numbers([one, two]))) == 2


@pytest.mark.real
def test_monthly_archive(shared: Path) -> None:
    area = read_aoi(str(shared / "scenes/hesbaye_2021/aoi.geojson")).geometry
    catalog = str(shared / "scenes/hesbaye_2021/catalog.json")
    for sensor in ("s1", "s2"):
        found = search(catalog, sensor, area, parse_period("2021-10", 12))
        assert [when(i).strftime("%Y-%m") for i in found.items] == [
            "2020-11", "2020-12", *(f"2021-{m:02d}" for m in range(1, 11))]
        assert len(set(found.passes)) == 12
    assert "B8A" not in found.bands()


@pytest.mark.real
def test_two_scenes_seconds_apart_are_one_pass(shared: Path) -> None:
    area = read_aoi(str(shared / "scenes/flanders_2018/aoi.geojson")).geometry
    found = search(str(shared / "scenes/flanders_2018/catalog.json"), "l8", area,
                   parse_period("2018-07", 12))
    assert len(found.items) == 18
    assert len(set(found.passes)) == 16  # 2018-06-06 and 2018-07-24 hold two each


# --- item sets


def test_freeze_and_thaw(tmp_path: Path, region: Path, area: shapely.Geometry) -> None:
    found = search(str(region / "catalog.json"), "s2", area, YEAR)
    path = tmp_path / "s2.json"
    freeze(path, found)
    again = thaw(path)
    assert again.fingerprint == found.fingerprint
    assert again.skipped == found.skipped
    assert (again.sensor, again.catalog) == ("s2", found.catalog)
    assert [i.to_dict() for i in again.items] == [i.to_dict() for i in found.items]
    assert again.sources == found.sources
    assert os.listdir(tmp_path) == ["s2.json"]
    path.write_text(path.read_text()[:-40])
    with pytest.raises(DataTrouble, match="frozen item list cannot be read.*delete it"):
        thaw(path)
    with pytest.raises(DataTrouble, match="frozen item list"):
        thaw(tmp_path / "none.json")


def test_nothing_signed_is_frozen(tmp_path: Path) -> None:
    raw = record("one", "2023-05-01T10:20:21Z")
    raw["assets"]["B02"]["href"] = absolute(
        "https://x.blob.core.windows.net/c/B02.tif?se=2023&sig=abc", "https://api.example.org", None
    )
    freeze(tmp_path / "f.json", ItemSet("s2", "c", (to_item(raw),)))
    text = (tmp_path / "f.json").read_text()
    assert "https://x.blob.core.windows.net/c/B02.tif" in text
    assert "sig=" not in text
    assert "se=" not in text


def test_fingerprint_is_of_the_images() -> None:
    def one(**properties: Any) -> str:
        return ItemSet("s2", "c", (to_item(record("a", "2023-05-01T10:20:21Z", **properties)),)
                       ).fingerprint

    assert one() == one()
    assert one() != one(**{"s2:processing_baseline": "05.10"})
    moved = record("a", "2023-05-01T10:20:21Z")
    moved["assets"]["B02"]["href"] = "https://elsewhere.org/x/a.tif"
    assert ItemSet("s2", "d", (to_item(moved),)).fingerprint == one()


def test_usable_names_what_is_missing(region: Path, area: shapely.Geometry) -> None:
    found = search(str(region / "catalog.json"), "s2", area, YEAR)
    assert found.usable(("B04", "B08")) is found
    lacking = thawed(found)
    del lacking.items[0].assets["B08"]
    del lacking.items[1].assets["SCL"]
    left = lacking.usable(("B04", "B08"))
    assert len(left.items) == len(found.items) - 2
    assert (found.items[0].id, "lacks asset B08") in left.skipped
    assert (found.items[1].id, "lacks asset SCL") in left.skipped
    assert len(lacking.usable(("B04",)).items) == len(found.items) - 1


def thawed(items: ItemSet) -> ItemSet:
    return ItemSet(items.sensor, items.catalog, tuple(i.clone() for i in items.items),
                   items.skipped)


# --- hrefs, signing, outlines


def test_hrefs(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    base = str(root / "c" / "item.json")
    assert absolute("./B 02.tif", base, root) == str(root / "c" / "B 02.tif")
    assert absolute(f"file://{root}/x.tif", base, root) == str(root / "x.tif")
    assert absolute("https://e.org/x.tif?a=1", base, root) == "https://e.org/x.tif?a=1"
    assert absolute("x.tif", "https://e.org/i/one", None) == "https://e.org/i/x.tif"
    for href in ("../../x.tif", "/etc/passwd", "/vsizip/x.zip", "ftp://e.org/x.tif",
                 "file:///etc/passwd"):
        with pytest.raises(ValueError, match=r"outside|neither"):
            absolute(href, base, root)
    for href in ("file:///x.tif", "/vsis3/x", "", "javascript:x"):
        with pytest.raises(ValueError, match="not an address on the web"):
            absolute(href, "https://e.org/", None)
    os.symlink("/etc", root / "link")
    with pytest.raises(ValueError, match="outside"):
        absolute("link/passwd", str(root / "item.json"), root)
    assert unsigned("https://b.org/x.tif?X-Amz-Signature=1&v=2") == "https://b.org/x.tif"
    assert shown("https://me:secret@b.org/x.tif?sig=1") == "https://b.org/x.tif"
    assert shown("/data/x.tif") == "/data/x.tif"


def test_tokens_go_to_azure_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.signing._planetary_computer", lambda: lambda u: u + "?sig=1")
    blob = "https://sentinel2l2a01.blob.core.windows.net/x/B02.tif"
    assert signed(blob, "planetary-computer") == blob + "?sig=1"
    assert signed(blob, "") == blob
    for href in ("https://example.org/B02.tif", "/data/B02.tif", blob.replace("https", "http"),
                 "https://evil.org/x.blob.core.windows.net/", "s3://usgs-landsat/x.TIF"):
        assert signed(href, "planetary-computer") == href


def test_outlines_for_requests() -> None:
    across = read_aoi("179,10,-179,11").geometry
    assert [o.bounds for o in outlines(across)] == [(-180, 10, -179, 11), (179, 10, 180, 11)]
    round_one = shapely.Point(5, 50).buffer(1, quad_segs=1000)
    (small,) = outlines(round_one)
    assert shapely.get_num_coordinates(small) < 10
    assert small.contains(round_one)
    assert outlines(shapely.box(0, 0, 1, 1)) == [shapely.box(0, 0, 1, 1)]
