"""The source table against recorded answers of the real APIs, and against the real scenes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest

from pipeline.data.search import to_item
from pipeline.data.sources import (
    MASK_DTYPE,
    MASK_FILL,
    SOURCES,
    STORED_DTYPE,
    assets_needed,
    collections_of,
    rows_of,
    source_of,
    why_not,
)
from pipeline.prep.masks import MASKS
from pipeline.prep.radiometry import scaling, to_physical
from pipeline.spec.errors import BadRequest
from pipeline.spec.sensors import SENSORS


def recorded(shared: Path, folder: str = "*") -> Iterator[pystac.Item]:
    for path in sorted((shared / "stac_recorded").glob(f"{folder}/*.json")):
        raw = json.loads(path.read_text())
        for record in raw.get("features", [raw]):
            whole = record.get("geometry") and record.get("collection")  # templates have neither
            if record.get("type") == "Feature" and whole:
                yield to_item(record)


def item(collection: str, properties: dict[str, Any], *assets: str) -> pystac.Item:
    record = {
        "type": "Feature", "stac_version": "1.0.0", "id": "one", "collection": collection,
        "geometry": {"type": "Point", "coordinates": [0, 0]}, "bbox": [0, 0, 0, 0], "links": [],
        "properties": {"datetime": "2023-01-01T00:00:00Z", **properties},
        "assets": {key: {"href": f"https://example.org/{key}.tif"} for key in assets},
    }
    return to_item(record)


EXPECTED = {  # (folder, collection) -> (sensor, row, radiometry); None: no row may fit
    ("planetary_computer", "sentinel-1-rtc"): ("s1", "sentinel-1-rtc", "gamma0-rtc"),
    ("planetary_computer", "sentinel-2-l2a"): ("s2", "sentinel-2-l2a", "l2a"),
    ("planetary_computer", "landsat-c2-l2"): ("l8", "landsat-c2-l2", "landsat-c2-sr"),
    ("planetary_computer", "sentinel-1-grd"): None,
    ("earth_search_v1", "sentinel-2-l2a"): ("s2", "sentinel-2-l2a", "l2a"),
    ("earth_search_v1", "sentinel-2-c1-l2a"): ("s2", "sentinel-2-c1-l2a", "l2a"),
    ("earth_search_v1", "landsat-c2-l2"): ("l8", "landsat-c2-l2", "landsat-c2-sr"),
    ("earth_search_v1", "sentinel-1-grd"): None,
    ("earth_search_v1", "sentinel-2-l1c"): None,
}


@pytest.mark.real
@pytest.mark.parametrize(("folder", "collection"), list(EXPECTED))
def test_recorded_items_find_their_row(shared: Path, folder: str, collection: str) -> None:
    wanted = EXPECTED[folder, collection]
    items = [i for i in recorded(shared, folder) if i.collection_id == collection]
    assert items
    for found in items:
        rows = {key: rows_of(found, key) for key in SENSORS}
        assert sum(map(len, rows.values())) == (0 if wanted is None else 1), found.id
        if wanted is None:
            continue
        sensor, row, radiometry = wanted
        assert rows[sensor][0].key == f"{folder.removesuffix('_v1').replace('_', '-')}/{row}"
        assert rows[sensor][0].radiometry == radiometry
        if "vv" in found.assets or sensor != "s1":  # some S1 items are HH/HV
            assert set(assets_needed(rows[sensor][0], SENSORS[sensor].band_names) or ()) <= set(
                found.assets
            )


@pytest.mark.real
def test_recorded_scalings(shared: Path) -> None:
    """DN 2000 by the table against the provider's own numbers, where it gives right ones."""
    seen = set()
    for found in recorded(shared):
        for sensor in ("s2", "l8"):
            source = source_of(found, sensor)
            if source is None:
                continue
            key = next(iter(source.assets.values()))
            asset = found.assets[key].extra_fields
            scale, offset = scaling(source, found.properties, asset)
            seen.add((source.key, scale, offset))
            if sensor == "l8" or source.key.endswith("c1-l2a"):
                band = asset["raster:bands"][0]
                assert (scale, offset) == (band["scale"], band["offset"])
    assert seen == {
        ("planetary-computer/sentinel-2-l2a", 1e-4, 0.0),  # baseline 02.12
        ("planetary-computer/sentinel-2-l2a", 1e-4, -0.1),  # baselines 05.10, 05.11
        ("planetary-computer/landsat-c2-l2", 2.75e-5, -0.2),
        ("earth-search/sentinel-2-l2a", 1e-4, 0.0),  # harmonised, whatever raster:bands say
        ("earth-search/sentinel-2-c1-l2a", 1e-4, -0.1),
        ("earth-search/landsat-c2-l2", 2.75e-5, -0.2),
    }


@pytest.mark.real
def test_real_scenes_find_their_row(shared: Path) -> None:
    keys = {}
    for path in sorted((shared / "scenes").glob("*/*/*/*.json")):
        found = to_item(json.loads(path.read_text()))
        rows = [row for key in SENSORS for row in rows_of(found, key)]
        assert len(rows) == 1, path
        keys.setdefault((path.parts[-4], found.collection_id), set()).add(rows[0].radiometry)
        for key in rows[0].assets.values():
            stored = found.assets[key].extra_fields["raster:bands"][0]
            assert stored["nodata"] == rows[0].nodata
            assert stored["data_type"] == STORED_DTYPE[rows[0].unit]
    assert keys == {
        ("flanders_2018", "sentinel-2-l2a"): {"l2a"},
        ("flanders_2018", "sentinel-1-grd-sigma0"): {"sigma0"},
        ("flanders_2018", "landsat-c1-l2-sr"): {"landsat-c1-sr"},
        ("hesbaye_2021", "sentinel-2-monthly"): {"l2a"},
        ("hesbaye_2021", "sentinel-1-monthly"): {"sigma0"},
    }


def test_table_is_whole() -> None:
    assert len({row.key for row in SOURCES}) == len(SOURCES)
    for row in SOURCES:
        assert row.sensor in SENSORS
        assert set(row.assets) <= set(SENSORS[row.sensor].band_names)
        assert (row.mask is None) == (row.mask_asset == "")
        assert row.unit in STORED_DTYPE
        np.dtype(STORED_DTYPE[row.unit]).type(row.nodata)  # fits
        if row.mask:
            assert MASKS[row.mask]
            # a pixel that is not there is not clear, whatever its band says
            nothing = np.array([MASK_FILL[row.mask]], MASK_DTYPE[row.mask])
            assert not MASKS[row.mask](nothing)[0]
    assert {row.sensor for row in SOURCES if row.key.startswith("sandbox/")} == set(SENSORS)
    assert collections_of("s1") == ("sentinel-1-rtc", "sentinel-1-grd-sigma0", "sentinel-1-monthly")
    with pytest.raises(BadRequest, match="unknown sensor"):
        collections_of("s3")


def test_harmonised_or_not_is_two_rows() -> None:
    properties = {"s2:processing_baseline": "05.09", "earthsearch:payload_id": "x"}
    asset = {"raster:bands": [{"scale": 1e-4, "offset": -0.1}]}
    found = {}
    for applied in (True, False):
        one = item("sentinel-2-l2a", properties | {"earthsearch:boa_offset_applied": applied})
        (row,) = rows_of(one, "s2")
        found[applied] = scaling(row, one.properties, asset)
    assert found == {True: (1e-4, 0.0), False: (1e-4, -0.1)}
    assert source_of(item("sentinel-2-l2a", properties), "s2") is None  # flag absent: not guessed


def test_sandbox_rows_and_refusals() -> None:
    own = {"sandbox:seed": 7, "s2:processing_baseline": "04.00"}
    (row,) = rows_of(item("sentinel-2-l2a", own), "s2")
    assert row.key == "sandbox/sentinel-2-l2a"
    assert row.signer == ""
    grd = item("sentinel-1-grd", {"platform": "sentinel-1a"}, "vv", "vh")
    assert source_of(grd, "s1") is None
    assert "neither calibrated nor terrain-corrected" in why_not(grd, "s1")
    l7 = item("landsat-c2-l2", {"platform": "landsat-7"}, "red")
    assert source_of(l7, "l8") is None
    assert "platform landsat-7" in why_not(l7, "l8")


def test_archive_encodings_by_hand() -> None:
    rows = {row.key: row for row in SOURCES}
    # 20 log10(10 000) - 83 = -3 dB = 0.501187 in power
    monthly = rows["archive/sentinel-1-monthly"]
    power = to_physical(np.array([10_000, 65535, 0], np.uint16), monthly, 1.0, monthly.offset)
    np.testing.assert_allclose(power, [10**-0.3, np.nan, np.nan], rtol=1e-5)
    # -123 456 -> -12.3456 dB
    sigma0 = rows["archive/sentinel-1-grd-sigma0"]
    power = to_physical(np.array([-123_456, 0], np.int32), sigma0, sigma0.scale, sigma0.offset)
    np.testing.assert_allclose(power, [10**-1.23456, np.nan], rtol=1e-5)
    # 65 436 is -100, fill is -999
    oli = rows["archive/landsat-c1-l2-sr"]
    value = to_physical(np.array([2500, 65436, 64537], np.uint16), oli, oli.scale, oli.offset)
    np.testing.assert_allclose(value, [0.25, -0.01, np.nan], rtol=1e-5)
