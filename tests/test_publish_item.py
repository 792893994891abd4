"""The STAC item: valid, true to its files, and readable by the tools that people use."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import numpy as np
import odc.stac
import pystac
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pystac.extensions.classification import ClassificationExtension
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import RasterExtension
from referencing import Registry, Resource

from pipeline.publish.cog import write_cog
from pipeline.publish.item import MapRecord, map_item
from pipeline.spec.layers import layers_of
from pipeline.spec.tasks import CROPLAND, LFMC, Task
from pipeline.spec.timeline import parse_period

BOX = GeoBox((40, 30), Affine(10, 0, 600_000, 0, -10, 5_600_000), 32631)
AREA = shapely.box(4.4098, 50.5390, 4.4142, 50.5427)
NOW = datetime(2024, 5, 1, 12, 30, tzinfo=UTC)


def record(**changes: object) -> MapRecord:
    base = {
        "id": "cropland-s1-2023-10-utm31n", "title": "Cropland", "description": "A test",
        "footprint": AREA, "timeline": parse_period("2022-11:2023-10", 12, NOW), "created": NOW,
        "software": {"wallmap": "0.1.0", "GDAL": "3.10"}, "lineage": "s1 composites, MDiCo",
        "expression": "python -m pipeline.map --aoi a.geojson",
        "properties": {"wallmap:card": "ab"},
        "derived_from": ("https://example.com/items/a", "https://example.com/items/b"),
    }
    return MapRecord(**{**base, **changes})


def sheet(folder: Path, task: Task) -> dict[str, np.ndarray]:
    arrays = {}
    for layer in layers_of(task):
        codes = [c.code for c in layer.classes] or range(100)
        data = np.resize(np.array([*codes]), BOX.shape).astype(layer.dtype)
        data[:2] = layer.nodata
        write_cog(folder / f"{layer.name}.tif", data, BOX, layer, {})
        arrays[layer.name] = data
    (folder / "preview.png").write_bytes(b"png")
    return arrays


@pytest.fixture(params=[CROPLAND, LFMC], ids=lambda t: t.key)
def made(request, tmp_path: Path) -> tuple[Path, dict, Task, dict[str, np.ndarray]]:
    arrays = sheet(tmp_path, request.param)
    item = map_item(tmp_path, record(), BOX, layers_of(request.param), "preview.png")
    (tmp_path / "item.json").write_text(json.dumps(item, allow_nan=False))
    return tmp_path, item, request.param, arrays


def core_schema() -> jsonschema.Draft7Validator:
    """STAC 1.1.0's item schema with all that it refers to, as it ships with pystac."""
    root = Path(pystac.__file__).parent / "validation" / "jsonschemas"
    found = [json.loads(p.read_text()) for p in root.rglob("*.json")]
    registry = Registry().with_resources(  # one $id there lacks its dot
        (s["$id"].rstrip("#").replace("commonjson", "common.json"), Resource.from_contents(s))
        for s in found
    )
    (item,) = (s for s in found if "/v1.1.0/" in s["$id"] and s["title"] == "STAC Item")
    return jsonschema.Draft7Validator(item, registry=registry)


def test_the_item_is_valid_stac(made) -> None:
    _, item, _, _ = made
    validator = core_schema()
    assert [e.message for e in validator.iter_errors(item)] == []
    broken = {**item, "properties": {**item["properties"], "datetime": "yesterday"}}
    assert list(validator.iter_errors({k: v for k, v in item.items() if k != "bbox"}))
    assert list(validator.iter_errors(broken))


def test_extensions_read_back(made) -> None:
    folder, _, task, arrays = made
    item = pystac.Item.from_file(str(folder / "item.json"))
    projection = ProjectionExtension.ext(item)
    assert projection.code == "EPSG:32631"
    assert projection.shape == [40, 30]
    assert projection.transform == [10, 0, 600_000, 0, -10, 5_600_000]
    assert projection.bbox == [600_000, 5_599_600, 600_300, 5_600_000]
    for layer in layers_of(task):
        asset = item.assets[layer.name]
        (band,) = RasterExtension.ext(asset).bands
        assert (band.data_type, band.nodata) == (layer.dtype, layer.nodata)
        assert (band.scale, band.offset, band.unit or "") == (layer.scale, 0, layer.unit)
        content = (folder / f"{layer.name}.tif").read_bytes()
        assert FileExtension.ext(asset).size == len(content)
        assert FileExtension.ext(asset).checksum == "1220" + hashlib.sha256(content).hexdigest()
        if layer.kind == "classes":
            classes = ClassificationExtension.ext(asset).classes
            assert {c.value: c.color_hint for c in classes if not c.nodata} == {
                c.code: "{:02X}{:02X}{:02X}".format(*c.colour) for c in layer.classes
            }
            assert [c.value for c in classes if c.nodata] == [layer.nodata]
            assert {*np.unique(arrays[layer.name])} <= {c.value for c in classes}
        else:
            assert "classification:classes" not in asset.extra_fields


def test_assets_roles_and_links(made) -> None:
    folder, item, _, _ = made
    assert [*item["assets"]] == ["map", "confidence", "sensor", "observations", "quality",
                                   "preview"]
    for asset in item["assets"].values():
        assert asset["href"].startswith("./")
        assert (folder / asset["href"]).is_file()
    assert item["assets"]["map"]["roles"] == ["data"]
    assert item["assets"]["preview"]["roles"] == ["overview"]
    assert item["assets"]["map"]["type"] == pystac.MediaType.COG
    assert [(link["rel"], link["href"]) for link in item["links"]] == [
        ("derived_from", "https://example.com/items/a"),
        ("derived_from", "https://example.com/items/b"),
    ]


def test_times_and_processing(made) -> None:
    properties = made[1]["properties"]
    assert properties["start_datetime"] == "2022-11-01T00:00:00Z"
    assert properties["end_datetime"] == properties["datetime"] == "2023-10-31T23:59:59Z"
    assert properties["created"] == "2024-05-01T12:30:00Z"
    assert properties["processing:software"] == {"wallmap": "0.1.0", "GDAL": "3.10"}
    assert properties["processing:lineage"] == "s1 composites, MDiCo"
    assert properties["processing:expression"] == {
        "format": "bash", "expression": "python -m pipeline.map --aoi a.geojson",
    }
    assert properties["wallmap:card"] == "ab"


@pytest.mark.filterwarnings("ignore:The 'shapely.ops.transform:DeprecationWarning:odc")
def test_odc_stac_loads_the_map(made) -> None:
    """The most used loader finds grid, data type and nodata in the item alone."""
    folder, _, task, arrays = made
    item = pystac.Item.from_file(str(folder / "item.json"))
    loaded = odc.stac.load([item], bands=["map", "observations"])
    assert loaded["map"].dtype == task.dtype
    assert loaded["map"].nodata == task.nodata
    assert loaded.odc.geobox == BOX
    np.testing.assert_array_equal(loaded["map"][0], arrays["map"])
    np.testing.assert_array_equal(loaded["observations"][0], arrays["observations"])


def test_footprints_follow_rfc_7946(tmp_path: Path) -> None:
    sheet(tmp_path, CROPLAND)
    clockwise = shapely.Polygon([(4, 50), (4, 51), (5, 51), (5, 50)])
    item = map_item(tmp_path, record(footprint=clockwise), BOX, layers_of(CROPLAND))
    assert shapely.geometry.shape(item["geometry"]).exterior.is_ccw
    assert item["bbox"] == [4, 50, 5, 51]
    assert "preview" not in item["assets"]
    two = shapely.MultiPolygon([clockwise, shapely.box(6, 50, 7, 51)])
    item = map_item(tmp_path, record(footprint=two, expression=""), BOX, layers_of(CROPLAND))
    assert item["geometry"]["type"] == "MultiPolygon"
    assert "processing:expression" not in item["properties"]
    assert not [e.message for e in core_schema().iter_errors(item)]


def test_preview_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "utm31n").mkdir()
    sheet(tmp_path / "utm31n", CROPLAND)
    os.replace(tmp_path / "utm31n" / "preview.png", tmp_path / "preview.png")
    item = map_item(tmp_path / "utm31n", record(), BOX, layers_of(CROPLAND), "../preview.png")
    assert item["assets"]["preview"]["href"] == "../preview.png"
    assert item["assets"]["preview"]["file:size"] == 3
