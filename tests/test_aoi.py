"""AOIs: every way to write one, every way to get it wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import pyogrio
import pytest
import shapely
from shapely.geometry import LineString, Point, Polygon, box, mapping

from pipeline.data.aoi import read_aoi
from pipeline.spec.errors import BadRequest

SQUARE = box(5.0, 50.0, 5.1, 50.1)
UTM31 = "urn:ogc:def:crs:EPSG::32631"


def feature(shape: Any, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "properties": properties, "geometry": mapping(shape)}


def collection(*features: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features), **members}


def named(name: str) -> dict[str, Any]:
    return {"type": "name", "properties": {"name": name}}


def save(folder: Path, value: Any, name: str = "aoi.geojson") -> str:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


@pytest.mark.parametrize("wrap", [mapping, feature, lambda s: collection(feature(s)),
                                  lambda s: mapping(shapely.MultiPolygon([s]))])
def test_all_kinds_of_geojson(tmp_path: Path, wrap: Any) -> None:
    area = read_aoi(save(tmp_path, wrap(SQUARE)))
    assert area.geometry.equals(SQUARE)
    assert area.name == "aoi"
    assert area.defaults == {}


def test_features_are_united(tmp_path: Path) -> None:
    other = box(5.1, 50.0, 5.2, 50.1)
    area = read_aoi(save(tmp_path, collection(feature(SQUARE), feature(other))))
    assert area.geometry.equals(box(5.0, 50.0, 5.2, 50.1))


def test_four_numbers() -> None:
    assert read_aoi("5,50,5.1,50.1").geometry.equals(SQUARE)


def test_declared_crs_is_used(tmp_path: Path) -> None:
    in_utm = gpd.GeoSeries([SQUARE], crs=4326).to_crs(32631)
    file = collection(feature(in_utm.iloc[0]), crs=named(UTM31))
    area = read_aoi(save(tmp_path, file)).geometry
    # four straight UTM edges against four straight edges in degrees: they agree at the corners
    assert shapely.symmetric_difference(area, SQUARE).area < 1e-3 * SQUARE.area
    corners = shapely.MultiPoint(list(SQUARE.exterior.coords))
    assert corners.distance(area.exterior) < 1e-9
    assert max(Point(c).distance(area.exterior) for c in SQUARE.exterior.coords) < 1e-9


def test_geopackage(tmp_path: Path) -> None:
    path = tmp_path / "area.gpkg"
    gpd.GeoDataFrame({"task": ["lfmc"]}, geometry=[SQUARE], crs=4326).to_crs(3035).to_file(path)
    area = read_aoi(str(path))
    assert shapely.symmetric_difference(area.geometry, SQUARE).area < 1e-3 * SQUARE.area
    assert area.defaults == {"task": "lfmc"}


def test_tables_beside_the_layer_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "area.gpkg"
    pyogrio.write_dataframe(pd.DataFrame({"owner": ["a", "b"]}), path, layer="owners")
    with pytest.raises(BadRequest, match="holds no geometry"):
        read_aoi(str(path))
    gpd.GeoDataFrame(geometry=[SQUARE], crs=4326).to_file(path, layer="area", mode="a")
    assert read_aoi(str(path)).geometry.equals(SQUARE)


def test_defaults_and_their_paths(tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text("{}")
    own = {"catalog": "../x/catalog.json", "checkpoint": "there.json", "period": "2021-10",
           "task": "cropland", "colour": 3}
    area = read_aoi(save(tmp_path, collection(feature(SQUARE), properties=own)))
    assert area.defaults == {
        "catalog": str(tmp_path.parent / "x/catalog.json"),
        "checkpoint": str(tmp_path / "there.json"), "period": "2021-10", "task": "cropland",
    }
    plain = {"catalog": "planetary-computer", "checkpoint": "cropland"}
    area = read_aoi(save(tmp_path, feature(SQUARE, **plain)))
    assert area.defaults == plain  # names stay names
    with pytest.raises(BadRequest, match="property period is not text"):
        read_aoi(save(tmp_path, feature(SQUARE, period=2021)))


@pytest.mark.parametrize("shape", [
    Polygon([(179, 10), (-179, 10), (-179, 11), (179, 11)]),  # jumps by 358
    Polygon([(179, 10), (181, 10), (181, 11), (179, 11)]),  # beyond 180
    Polygon([(-181, 10), (-179, 10), (-179, 11), (-181, 11)]),  # beyond -180
])
def test_antimeridian(tmp_path: Path, shape: Polygon) -> None:
    both = shapely.union_all([box(179, 10, 180, 11), box(-180, 10, -179, 11)])
    assert read_aoi(save(tmp_path, mapping(shape))).geometry.equals(both)
    assert read_aoi("179,10,-179,11").geometry.equals(both)


def test_antimeridian_with_hole_and_from_a_projection(tmp_path: Path) -> None:
    ring = [(178, 10), (-178, 10), (-178, 12), (178, 12)]
    hole = [(-179.5, 10.5), (-179.0, 10.5), (-179.0, 11.0), (-179.5, 11.0)]
    area = read_aoi(save(tmp_path, mapping(Polygon(ring, [hole])))).geometry
    assert area.area == pytest.approx(4 * 2 - 0.25)
    assert not area.contains(Point(-179.25, 10.75))
    pacific = gpd.GeoSeries([box(179, 10, 181, 11)], crs=4326).to_crs(3832).iloc[0]
    file = collection(feature(pacific), crs=named("EPSG:3832"))
    area = read_aoi(save(tmp_path, file)).geometry
    assert area.bounds[0] == -180
    assert area.bounds[2] == 180
    assert area.area == pytest.approx(2, rel=1e-6)


def test_wide_area_is_not_taken_for_a_crossing() -> None:
    assert read_aoi("-170,10,170,11").geometry.area == pytest.approx(340)


def test_small_flaws_are_mended(tmp_path: Path) -> None:
    spike = Polygon([(5, 50), (5.1, 50), (5.1, 50.1), (5.2, 50.1), (5.1, 50.1), (5, 50.1)])
    assert not spike.is_valid
    area = read_aoi(save(tmp_path, mapping(spike))).geometry
    assert area.is_valid
    assert area.area == pytest.approx(SQUARE.area)


BOW_TIE = Polygon([(5, 50), (5.1, 50.1), (5.1, 50), (5, 50.1)])
LOPSIDED = Polygon([(5, 50), (5.1, 50.1), (5.1, 50.05), (5, 50.1)])


@pytest.mark.parametrize(("value", "says"), [
    (mapping(BOW_TIE), "crosses itself .*5.05 50.05.*Fix geometries"),
    (mapping(LOPSIDED), "crosses itself"),
    (collection(), "is empty"),
    (feature(Polygon()), "is empty"),
    (collection({"type": "Feature", "properties": {}, "geometry": None}), "is empty"),
    (mapping(Point(5, 50)), "must be polygons.*Point"),
    (collection(feature(SQUARE), feature(LineString([(5, 50), (6, 51)]))), "LineString"),
    (mapping(Polygon([(5, 50), (6, 50), (5, 50)])), "has no area"),
    (mapping(box(501360, 5629040, 502000, 5629680)), "not degrees.*declare their CRS"),
    (mapping(box(5, 89, 6, 95)), "not degrees"),
    (mapping(box(5, 83, 6, 85)), "polar"),
    (mapping(box(5, -85, 6, -79)), "polar"),
    (mapping(Polygon([(0, 70), (120, 70), (-120, 70)])), "around a pole"),
    (collection(feature(SQUARE), crs=None), "crs member"),
    (collection(feature(SQUARE), crs=named("EPSG:999999")), "crs member"),
    ({"type": "Topology"}, "not GeoJSON"),
    ("[1, 2]", "not GeoJSON"),
    ("{", "not readable JSON"),
    ('{"type": "Polygon", "coordinates": [[[0, 1], [2]]]}', "malformed"),
    ('{"type": "Feature"}', "malformed"),
    (collection({"type": "Feature", "geometry": {"type": "Soup", "coordinates": []}}),
     "malformed.*soup"),
    (feature(SQUARE) | {"properties": [1, 2]}, "properties are not a JSON object"),
    (collection(feature(SQUARE), properties="cropland"), "properties are not a JSON object"),
    ('{"type": "Polygon", "coordinates": [[[5, 50], [NaN, 50], [5.1, 50.1], [5, 50]]]}',
     "NaN is not a JSON number"),
])
def test_refused(tmp_path: Path, value: Any, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as caught:
        read_aoi(save(tmp_path, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "says"), [
    ("nowhere.geojson", "no such AOI file"),
    ("5,50,5.1", "no such AOI file"),
    ("5,50,5,50.1", "has no area"),
    ("5,51,5.1,50", "not a box in degrees"),
    ("5,50,500,51", "not a box in degrees"),
    ("5.981, 43.892,5.980,43.893",
     r"W and E look swapped.*try --aoi=5\.980,43\.892,5\.981,43\.893"),
])
def test_refused_texts(text: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        read_aoi(text)


def test_refused_vector_files(tmp_path: Path) -> None:
    bare = tmp_path / "bare.gpkg"
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        gpd.GeoDataFrame(geometry=[SQUARE], crs=None).to_file(bare)
    with pytest.raises(BadRequest, match="declares no CRS"):
        read_aoi(str(bare))
    two = tmp_path / "two.gpkg"
    for layer in ("north", "south"):
        gpd.GeoDataFrame(geometry=[SQUARE], crs=4326).to_file(two, layer=layer)
    with pytest.raises(BadRequest, match="several layers; got 'north, south'"):
        read_aoi(str(two))
    with pytest.raises(BadRequest, match="cannot be read"):
        read_aoi(save(tmp_path, "not a database", "broken.gpkg"))
