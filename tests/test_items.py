"""Item sets: duplicates, passes, freezing; hrefs and signing."""

from __future__ import annotations

import copy
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import shapely

from pipeline.data.aoi import read_aoi
from pipeline.data.duplicates import newest
from pipeline.data.hrefs import absolute, shown, unsigned
from pipeline.data.items import ItemSet, freeze, pass_numbers, thaw, when
from pipeline.data.search import search, to_item
from pipeline.data.signing import _planetary_computer, signed
from pipeline.spec.errors import DataTrouble
from pipeline.spec.timeline import parse_period
from tests.support.records import record

YEAR = parse_period("2023-10", 12)


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
    with pytest.raises(DataTrouble, match=r"frozen item list cannot be read.*delete it"):
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


# --- hrefs and signing


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
    class Mint:
        def sign(self, url: str) -> str:
            return url + "?sig=1"

    monkeypatch.setattr("pipeline.data.signing._planetary_computer", Mint)
    blob = "https://sentinel2l2a01.blob.core.windows.net/x/B02.tif"
    assert signed(blob, "planetary-computer") == blob + "?sig=1"
    assert signed(blob, "") == blob
    for href in ("https://example.org/B02.tif", "/data/B02.tif", blob.replace("https", "http"),
                 "https://evil.org/x.blob.core.windows.net/", "s3://usgs-landsat/x.TIF"):
        assert signed(href, "planetary-computer") == href


def test_the_signer_asks_where_the_library_of_planetary_computer_says() -> None:
    """Imported when it is first needed; its own warnings are not ours."""
    assert _planetary_computer()._endpoint == (
        "https://planetarycomputer.microsoft.com/api/sas/v1/token")
