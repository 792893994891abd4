"""Areas, items and cards that nobody would write: our errors or a result, no crash, no hang."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from pipeline.data.aoi import read_aoi
from pipeline.data.checkpoints import CARD, WEIGHTS, load_checkpoint
from pipeline.data.items import freeze, thaw
from pipeline.data.search import search
from pipeline.data.stacks import open_stacks
from pipeline.infer.orbits import orbits_of
from pipeline.infer.plan import plan
from pipeline.spec.card import CheckpointCard
from pipeline.spec.errors import PipelineError
from pipeline.spec.grid import sheets
from pipeline.spec.tasks import CROPLAND
from pipeline.spec.timeline import parse_period
from tests.support.toy import toy_card

YEAR = parse_period("2023-10", 12)
AREA = shapely.box(5.995, 43.898, 6.005, 43.902)

calmly = settings(deadline=None, derandomize=True, max_examples=150, suppress_health_check=[
    HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

ODD = st.sampled_from([
    "", "\0", "\x1b[2J", "\ud800", "../../etc", "NaN", "9" * 400, 2**80, -1, 1e308, float("inf"),
    float("nan"), True, None, [], {}, [[]], "2023-13-45T99:00:00Z", "EPSG:0", "+proj=pipeline",
    "http://[", "file:///etc/passwd", "/vsizip/x", "x" * 5000, "0001-01-01T00:00:00-23:59",
    "9999-12-31T23:59:59+00:00", [[["a", 1]]], {"a": {"a": {"a": []}}},
]).map(copy.deepcopy)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | ODD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner,
                                                                max_size=4),
    max_leaves=12,
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths of everything inside a JSON value."""
    inner = (value.items() if isinstance(value, dict)
             else enumerate(value) if isinstance(value, list) else ())
    return [path] + [p for k, v in inner for p in places(v, (*path, k))]


@st.composite
def spoilt(draw: st.DrawFn, whole: Any) -> Any:
    """A valid value with a few parts replaced, removed or added."""
    value = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(value)))
        if not path:
            continue
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        action = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if action == "replace":
            holder[path[-1]] = draw(JSON)
        elif action == "remove":
            del holder[path[-1]]
        elif isinstance(holder, dict):
            holder[draw(st.sampled_from(["proj:epsg", "platform", "x"]))] = draw(JSON)
    return value


def ours(action: Callable[[], object]) -> Any:
    """What it returns; None where it raised one of our errors."""
    with contextlib.suppress(PipelineError):
        return action()
    return None


# --- items

BASE = {
    "type": "Feature", "stac_version": "1.0.0", "id": "one", "collection": "sentinel-2-l2a",
    "stac_extensions": ["https://stac-extensions.github.io/projection/v1.1.0/schema.json"],
    "geometry": json.loads(shapely.to_geojson(AREA)), "bbox": list(AREA.bounds),
    "links": [{"rel": "self", "href": "https://example.org/one.json"}],
    "properties": {
        "datetime": "2023-05-01T10:00:00Z", "start_datetime": "2023-05-01T10:00:00Z",
        "end_datetime": "2023-05-01T10:00:30Z", "created": "2023-05-02T00:00:00Z",
        "eo:cloud_cover": 5.0, "platform": "sentinel-2a", "proj:epsg": 32631,
        "s2:processing_baseline": "05.00", "s2:datatake_id": "GS2A_20230501T100000_1_N05.00",
        "s2:mgrs_tile": "31TGJ", "s2:datastrip_id": "S2A_x_S20230501T100000_N05.00",
        "s2:generation_time": "2023-05-02T00:00:00Z", "sat:orbit_state": "ascending",
        "sat:relative_orbit": 8,
    },
    "assets": {
        key: {"href": f"https://example.org/{key}.tif", "proj:shape": [100, 100],
              "proj:transform": [10, 0, 740000, 0, -10, 4866000],
              "raster:bands": [{"scale": 1e-4, "offset": -0.1}]}
        for key in ("B02", "B04", "B08", "SCL")
    },
}
RADAR = copy.deepcopy(BASE)
RADAR |= {"collection": "sentinel-1-rtc",
          "assets": dict.fromkeys(("vv", "vh"), BASE["assets"]["B02"])}
OWN_SCALE = copy.deepcopy(BASE)  # Earth Search's: scale and offset are the asset's own
OWN_SCALE |= {"collection": "sentinel-2-c1-l2a",
              "assets": dict.fromkeys(("red", "nir", "scl"), BASE["assets"]["B02"])}
OWN_SCALE["properties"]["earthsearch:payload_id"] = "x"


@calmly
@given(record=st.one_of(spoilt(BASE), spoilt(RADAR), spoilt(OWN_SCALE),
                        JSON.map(lambda j: {"assets": {}, "x": j})))
def test_items(tmp_path: Path, record: Any) -> None:
    sensor = "s1" if isinstance(record, dict) and "vv" in str(record.get("assets")) else "s2"
    text = json.dumps(record)
    page = {"type": "Catalog", "id": "c", "links": [{"rel": "item", "href": "./one.json"}]}
    (tmp_path / "catalog.json").write_text(json.dumps(page))
    (tmp_path / "one.json").write_text(text)
    found = ours(lambda: search(str(tmp_path / "catalog.json"), sensor, AREA, YEAR))
    if found is None:
        return
    freeze(tmp_path / "frozen.json", found)
    again = thaw(tmp_path / "frozen.json")
    assert again is None or again.fingerprint == found.fingerprint
    rows = plan(sheets(AREA, 10), 512, {sensor: found}, toy_card(CROPLAND), YEAR, ())
    assert rows
    found.touching(rows[0].tile.geobox)
    orbits_of(found, [rows[0].tile.geobox])
    assert len(found.passes) == len(found.items)
    band = "vv" if sensor == "s1" else "B04"
    ours(lambda: open_stacks(found.usable((band,)), rows[0].tile.geobox, (band,), 512, "odc"))


@calmly
@given(page=JSON)
def test_pages_of_a_catalogue(tmp_path: Path, page: Any) -> None:
    (tmp_path / "catalog.json").write_text(json.dumps(page))
    assert ours(lambda: search(str(tmp_path / "catalog.json"), "s2", AREA, YEAR)) is None


@pytest.mark.parametrize("text", ["[" * 100_000, '{"links":' * 50_000, "1" * 5000, '"\\ud800"'])
def test_texts_that_break_parsers(tmp_path: Path, text: str) -> None:
    for name in ("catalog.json", "aoi.geojson", CARD):
        (tmp_path / name).write_text(text)
    (tmp_path / WEIGHTS).write_bytes(b"")
    for action in (
        lambda: search(str(tmp_path / "catalog.json"), "s2", AREA, YEAR),
        lambda: read_aoi(str(tmp_path / "aoi.geojson")),
        lambda: load_checkpoint(tmp_path),
    ):
        with pytest.raises(PipelineError):
            action()


# --- areas

RING = [[5.0, 50.0], [5.1, 50.0], [5.1, 50.1], [5.0, 50.1], [5.0, 50.0]]
FEATURE = {
    "type": "FeatureCollection", "crs": {"type": "name", "properties": {"name": "EPSG:4326"}},
    "features": [{"type": "Feature", "properties": {"name": "x", "period": "2023-10"},
                  "geometry": {"type": "MultiPolygon", "coordinates": [[RING]]}}],
}


@calmly
@given(area=spoilt(FEATURE) | JSON)
def test_areas(tmp_path: Path, area: Any) -> None:
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps(area))
    if found := ours(lambda: read_aoi(str(path))):
        assert found.geometry.is_valid
        assert found.geometry.area > 0
        assert all(isinstance(v, str) for v in found.defaults.values())


@calmly
@given(text=st.text(max_size=30) | st.lists(st.floats(), max_size=5).map(
    lambda v: ",".join(map(str, v))))
def test_area_texts(text: str) -> None:
    with contextlib.suppress(OSError):
        ours(lambda: read_aoi(text))


# --- cards

CARD_JSON = json.loads(json.dumps(toy_card(CROPLAND).to_json()))


@calmly
@given(card=spoilt(CARD_JSON) | JSON)
def test_cards(card: Any) -> None:
    if found := ours(lambda: CheckpointCard.from_json(card)):
        for sensor in found.sensors.values():
            assert all(isinstance(v, float | int) for v in (*sensor.mean, *sensor.std))
            assert np.isfinite(sensor.score_at(3.0))
        json.dumps(found.to_json(), allow_nan=False)


@calmly
@given(data=st.binary(max_size=200), at=st.integers(0, 300))
def test_weights(tmp_path: Path, data: bytes, at: int) -> None:
    """A file that is what its card says is still not believed."""
    good = save({"a": np.ones(8, np.float32)})
    bad = good[:at] + data + good[at + len(data):]
    (tmp_path / WEIGHTS).write_bytes(bad)
    card = CARD_JSON | {"sha256": hashlib.sha256(bad).hexdigest()}
    (tmp_path / CARD).write_text(json.dumps(card))
    if found := ours(lambda: load_checkpoint(tmp_path)):
        assert all(isinstance(v, np.ndarray) for v in found[1].values())
