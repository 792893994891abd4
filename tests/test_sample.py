"""Labelled points -> samples: what is taken, what is refused, and that samples are map pixels."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pystac
import pytest

from pipeline import cli, sample
from pipeline.data.extract import read_points
from pipeline.data.items import ItemSet, thaw
from pipeline.data.load import load_cube
from pipeline.data.points import read_samples
from pipeline.data.search import search
from pipeline.prep.features import bands_needed
from pipeline.spec.errors import BadRequest
from pipeline.spec.grid import sheets
from pipeline.spec.sensors import SENSORS
from pipeline.spec.tasks import CROPLAND, LFMC

NEEDED = {k: bands_needed(CROPLAND.features[k], SENSORS[k].band_names) for k in SENSORS}


def feature(lon=5.999, lat=43.9, **properties) -> dict:
    return {"type": "Feature", "properties": {"y": 1, "period": "2023-10"} | properties,
            "geometry": {"type": "Point", "coordinates": [lon, lat]}}


def geojson(path: Path, *features: dict, **more) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features} | more))
    return path


def few(region: Path, path: Path, n: int) -> Path:
    """So many of the region's labelled points."""
    made = json.loads((region / "truth/points_cropland.geojson").read_text())
    return geojson(path, *made["features"][:n])


def run(*argv: object) -> int:
    return cli.run(sample.command, [str(a) for a in argv])


# ---- points


def test_labels_may_be_names_and_points_without_one_are_counted(tmp_path):
    path = geojson(tmp_path / "p.geojson", feature(y="cropland"), feature(y=None),
                   feature(y="other"), feature(y="1"))
    got = read_points(path, "y", CROPLAND, None)
    assert got.target.tolist() == [1, 0, 1]
    assert got.unlabelled == 1
    assert got.ids.tolist() == ["p_000000", "p_000001", "p_000002"]


def test_values_are_taken_as_they_are(tmp_path):
    path = geojson(tmp_path / "p.geojson", feature(y="81.5"), feature(y=None))
    got = read_points(path, "y", LFMC, "2023-10")
    assert (got.target.tolist(), got.unlabelled) == ([81.5], 1)


def test_points_without_a_group_get_their_cell(tmp_path):
    path = geojson(tmp_path / "p.geojson", feature(farm="a"), feature(farm=None), feature(farm="b"))
    assert read_points(path, "y", CROPLAND, None, "farm").group.tolist() == ["a", "6.0_43.9", "b"]
    assert read_points(path, "y", CROPLAND, None).group.tolist() == ["6.0_43.9"] * 3


@pytest.mark.parametrize(("features", "label", "group", "says"), [
    ([feature(y="wheat"), feature(y="other")], "y", None, "unknown class; got 'wheat'"),
    ([feature(y=1), feature(y=7)], "y", None, "unknown class; got '7'; allowed: 0 or other, 1 or"),
    ([feature(y=None), feature(y=None)], "y", None, "has a label"),
    ([feature()], "geometry", None, "no such property for --label-column"),
    ([feature()], "crop", None, "got 'crop'; allowed: y, period"),
    ([feature()], "y", "farm", "no such property for --group-column; got 'farm'"),
    ([feature(), feature(lat=84.1)], "y", None, "1 points lie where nothing is mapped"),
    ([feature(lat=-80.1)], "y", None, "latitudes -80 to 84"),
    ([feature(lon=500123.0, lat=4861000.0)], "y", None, "500123,4.861e+06"),
    ([feature(lon=float("nan"))], "y", None, "not in degrees"),
    ([feature(lon=float("inf"))], "y", None, "not in degrees"),
    ([feature(), feature() | {"geometry": None}], "y", None, "or other shapes"),
    ([feature(id="a"), feature(id="b"), feature(id="a")], "y", None, "1 points have an id"),
    ([feature(id=4), feature(id=None)], "y", None, "1 points have no id"),
    ([feature(lat=43.9, period=None)], "y", None, "not a month"),
    *[([feature() | {"properties": {name: 1}}], name, None, "would overwrite")
      for name in ("sample_id", "lon", "lat", "group")],
])
def test_points_that_cannot_be_sampled_are_refused(tmp_path, features, label, group, says):
    path = geojson(tmp_path / "p.geojson", *features)
    with pytest.raises(BadRequest) as refused:
        read_points(path, label, CROPLAND, None, group)
    assert says in str(refused.value)
    assert "np." not in str(refused.value)


def test_labels_of_a_value_must_be_numbers(tmp_path):
    path = geojson(tmp_path / "p.geojson", feature(y="80"), feature(y="wet"))
    with pytest.raises(BadRequest, match="not all numbers; got 'wet'"):
        read_points(path, "y", LFMC, "2023-10")


@pytest.mark.filterwarnings("ignore:'crs' was not provided:UserWarning")
def test_a_file_without_crs_or_without_geometry_is_refused(tmp_path):
    frame = gpd.GeoDataFrame({"y": [1]}, geometry=gpd.points_from_xy([5.0], [43.9]))
    frame.to_file(tmp_path / "p.gpkg")
    with pytest.raises(BadRequest, match="declares no CRS"):
        read_points(tmp_path / "p.gpkg", "y", CROPLAND, "2023-10")
    pd.DataFrame({"y": [1]}).to_csv(tmp_path / "p.csv")
    with pytest.raises(BadRequest, match="holds no points"):
        read_points(tmp_path / "p.csv", "y", CROPLAND, "2023-10")


def test_projected_points_are_brought_to_degrees(tmp_path):
    frame = gpd.GeoDataFrame({"y": [1]}, geometry=gpd.points_from_xy([5.9], [43.9]), crs=4326)
    frame.to_crs(32631).to_file(tmp_path / "p.gpkg")
    got = read_points(tmp_path / "p.gpkg", "y", CROPLAND, "2023-10")
    assert (got.lon[0], got.lat[0]) == (pytest.approx(5.9), pytest.approx(43.9))


# ---- command line


def test_a_sampled_pixel_is_the_mapped_one_where_items_lack_an_unused_band(
    region, tmp_path, monkeypatch, capsys
):
    """Every other Sentinel-2 item lacks B8A, which no feature of the task is made of, and one
    lacks B04, which some are."""
    found = []

    def lossy(*args):
        items = search(*args)
        if items.sensor == "s2":
            for item in items.items[::2]:
                del item.assets["B8A"]
            del items.items[1].assets["B04"]
        found.append(items)
        return items

    monkeypatch.setattr("pipeline.sample.search", lossy)
    path = geojson(tmp_path / "p.geojson", *(
        f for f in json.loads((region / "truth/points_cropland.geojson").read_text())["features"]
        if f["geometry"]["coordinates"][0] < 5.9995))
    points = read_points(path, "cropland", CROPLAND, "2023-10")
    out = tmp_path / "samples"
    assert run("--points", path, "--label-column", "cropland", "--catalog",
               region / "catalog.json", "--period", "2023-10", "--sensors", "s2", "--out", out,
               "--quiet") == 0
    capsys.readouterr()
    got = read_samples(out, CROPLAND)
    assert got.bands["s2"] == NEEDED["s2"]
    kept = thaw(out / "items/s2.json")
    assert len(kept.items) == len(found[0].items) - 1
    # as mapping does it: the sheet of an area around the points, read in one piece
    sheet = sheets(points.area, CROPLAND.pixel_m)[0]
    usable = ItemSet("s2", "", found[0].items).usable(NEEDED["s2"])
    cube = load_cube(usable, sheet.geobox, NEEDED["s2"], points.timelines[0])
    at = gpd.GeoSeries(gpd.points_from_xy(got.lon, got.lat), crs=4326).to_crs(sheet.epsg)
    p = ~sheet.geobox.affine
    col, row = p.a * at.x.to_numpy() + p.c, p.e * at.y.to_numpy() + p.f
    want = cube.x[:, :, np.floor(row).astype(int), np.floor(col).astype(int)].transpose(2, 0, 1)
    assert len(want) > 50
    assert np.isfinite(want).any()
    np.testing.assert_array_equal(got.series["s2"][0], want)


def test_auto_samples_every_sensor_and_says_what_it_left_out(region, tmp_path, capsys):
    path = few(region, tmp_path / "p.geojson", 6)
    made = json.loads(path.read_text())
    made["features"][2]["properties"]["cropland"] = None
    path.write_text(json.dumps(made))
    out = tmp_path / "samples"
    assert run("--points", path, "--label-column", "cropland", "--catalog",
               region / "catalog.json", "--period", "2023-10", "--sensors", "auto", "--out", out,
               "--quiet", "--json") == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert (report["points"], report["unlabelled"]) == (5, 1)
    assert set(report["valid_share"]) == set(SENSORS)
    assert said.err == "left out 1 points without a label\n"
    assert read_samples(out, CROPLAND).bands == NEEDED


def test_images_that_all_lack_a_band_leave_the_sensor_out(region, tmp_path, monkeypatch, capsys):
    def without(*args):
        items = search(*args)
        for item in items.items:
            item.assets = {k: v for k, v in item.assets.items() if k != "vh"}
        return items

    monkeypatch.setattr("pipeline.sample.search", without)
    argv = ("--points", few(region, tmp_path / "p.geojson", 3), "--label-column", "cropland",
            "--catalog", region / "catalog.json", "--period", "2023-10", "--quiet",
            "--sensors", "s1", "--out", tmp_path / "x")
    assert run(*argv) == 3
    err = capsys.readouterr().err.splitlines()
    assert "no s1 image has the bands that the task needs" in err[0]
    assert "lacks asset vh" in err[0]
    assert "no sensor has an acquisition" in err[1]
    assert len(err) == 2


def test_repeated_ids_are_refused_before_the_catalogue_is_asked(tmp_path, monkeypatch, capsys):
    def never(*args) -> pystac.Item:
        raise AssertionError("searched")

    monkeypatch.setattr("pipeline.sample.search", never)
    path = geojson(tmp_path / "p.geojson", feature(id="a"), feature(id="a"))
    assert run("--points", path, "--label-column", "y", "--out", tmp_path / "x") == 2
    err = capsys.readouterr().err
    assert "id that occurred before; got 'a'" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()
