"""Benchmarks of tidy tables and the published table of fuel moisture; what is refused, and how."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.data.benchmarks import BENCHMARKS, load_benchmark
from pipeline.data.benchmarks.points import CANADA_CROPS, by_continent, by_longitude
from pipeline.data.points import read_samples, write_samples
from pipeline.spec.errors import BadRequest, DataTrouble
from pipeline.spec.sensors import SENSORS
from pipeline.spec.tasks import task

CROPLAND = task("cropland")


@pytest.fixture(scope="module")
def points(shared: Path) -> Path:
    return shared / "points"


@pytest.fixture(scope="module")
def itu(points):
    return load_benchmark("itu", points)


@pytest.fixture(scope="module")
def lfmc(points):
    return load_benchmark("lfmc", points)


def test_every_benchmark_says_where_its_data_is_and_what_it_learns():
    for key, spec in BENCHMARKS.items():
        assert spec.key == key
        assert len(spec.obtain) > 40
        for sensor in (*spec.sensors, *spec.optional):
            assert spec.task.features[sensor], f"{key} has no features of {sensor}"


def test_what_is_not_there_is_refused_with_the_way_to_it(tmp_path):
    with pytest.raises(BadRequest, match=r"unknown benchmark.*lfmc, lfmc3, itu"):
        load_benchmark("eurosat", tmp_path)
    with pytest.raises(BadRequest, match=r"no such sensor.*'s2'.*allowed: s1, l8"):
        load_benchmark("lfmc", tmp_path, ["s2"])
    with pytest.raises(BadRequest, match=r"no folder.*huggingface.*hf download.*--data"):
        load_benchmark("treesatai", None)
    with pytest.raises(BadRequest, match=r"lacks labels.geojson.*10.5281/zenodo.10251170"):
        load_benchmark("cropharvest-multi", tmp_path)
    with pytest.raises(BadRequest, match=r"lacks canada_2017/samples.parquet.*presto-worldcereal"):
        load_benchmark("canada", tmp_path)


@pytest.mark.real
@pytest.mark.parametrize(("key", "rows", "groups", "regions"), [
    ("lfmc", 2578, 150, 4), ("lfmc3", 2269, 149, 4), ("canada", 3246, 58, 4),
    ("france", 924, 97, 2), ("flanders", 609, 131, 2), ("africa", 500, 7, 1),
    ("global", 473, 291, 4), ("cropland", 2506, 526, 6),
])
def test_real_benchmarks_have_the_rows_that_they_should(points, key, rows, groups, regions):
    got = load_benchmark(key, points)
    assert sum(s.rows for s in got.sets) == rows
    assert len(set(np.concatenate([s.groups for s in got.sets]))) == groups
    assert len(set(np.concatenate(got.region))) == regions
    assert got.official is None
    for s, region in zip(got.sets, got.region, strict=True):
        assert region.shape == s.ids.shape
        assert tuple(s.series) == BENCHMARKS[key].sensors


@pytest.mark.real
def test_the_third_sensor_of_fuel_moisture_is_there_for_every_row(points, lfmc):
    three = load_benchmark("lfmc3", points).sets[0]
    x, valid = three.series["s2"]
    assert valid.any(1).all()
    assert not valid[:, 0].any()  # the source has three months of it
    rows = pd.Index(lfmc.sets[0].ids).get_indexer(three.ids)
    assert np.array_equal(three.target, lfmc.sets[0].target[rows])
    assert three.radiometry["s2"] == "l1c"
    assert 0 < np.nanmedian(x) < 0.5


@pytest.mark.real
def test_fuel_moisture_brings_its_place(points, lfmc):
    table = pd.read_parquet(points / "lfmc" / "samples.parquet").set_index("sample_id")
    s = lfmc.sets[0]
    rows = table.loc[s.ids]
    assert np.allclose(s.context["elevation"], rows.elevation)
    assert np.allclose(s.context["canopy_height"], rows.canopy_height)
    needle = (rows.forest_cover == 70).to_numpy()  # needleleaved evergreen forest
    assert (s.context["tree"][needle] == 1).all()
    assert (s.context["tree"][(rows.forest_cover == 140).to_numpy()] == 0).all()  # herbs


@pytest.mark.real
def test_itu_has_all_its_bands_and_three_countries(points, itu):
    s = itu.sets[0]
    assert s.bands["s1"] == ("vv", "vh", "vh_desc")
    assert len(s.bands["s2"]) == 12
    assert s.bands["l8"][-2:] == ("tir1_k", "tir2_k")
    table = pd.read_parquet(points / "itu_cropland" / "samples.parquet").set_index("sample_id")
    assert (itu.region[0] == table.group.loc[s.ids]).all()
    assert (s.target == table.cropland.loc[s.ids]).all()
    series = pd.read_parquet(points / "itu_cropland" / "series.parquet")
    own = series[(series.sample_id == s.ids[700]) & (series.sensor == "l8")].sort_values("time")
    kelvin = own.tir1_k.where(~own.l8_carried_forward.astype(bool)).to_numpy(np.float32)
    assert np.array_equal(s.series["l8"][0][700, :, s.bands["l8"].index("tir1_k")], kelvin,
                          equal_nan=True)


@pytest.mark.real
def test_itu_has_samples_without_labels_in_the_same_layout(itu):
    (free,) = itu.unlabelled
    assert free.rows == 1500
    assert (free.target == -1).all()
    assert free.target.dtype == np.int64
    assert free.bands == itu.sets[0].bands
    assert not set(free.ids) & set(itu.sets[0].ids)


@pytest.mark.real
def test_crops_of_canada_are_those_with_twenty_samples(points):
    got = load_benchmark("canada", points, ["s1"])
    table = pd.read_parquet(points / "canada_2017" / "samples.parquet")
    counts = table.crop_type.value_counts()
    frequent = counts[counts >= 20]
    assert set(frequent.index) == set(CANADA_CROPS)
    found = np.bincount(got.sets[0].target, minlength=13)
    assert found.tolist() == [frequent[name] for name in CANADA_CROPS]
    assert set(got.sets[0].months[:, 0] - 2017 * 12) == {0}
    assert [c.code for c in got.task.classes] == list(range(13))


def test_regions_lie_where_they_should():
    class Places:
        lon = np.array([-125.0, -79.0, 0.0, 0.0, 100.0])
        lat = np.array([40.0, 5.0, 50.0, 10.0, 30.0])

    assert by_continent(Places).tolist() == [
        "america", "america", "europe", "africa", "asia-pacific"]
    assert by_longitude((-100, 50), ("a", "b", "c"))(Places).tolist() == ["a", "b", "b", "b", "c"]


# --- which samples and bands of a table are read -------------------------------------------------

@pytest.fixture
def tiny(tmp_path):
    """Three samples of a sensor with a band that ``spec.sensors`` does not know."""
    frame = pd.DataFrame({
        "sample_id": ["a", "b", "c"], "lon": [4.0, 4.5, 5.0], "lat": [51.0] * 3,
        "group": ["x", "y", "z"], "kind": ["cropland", "fallow", None]})
    x = np.random.default_rng(0).normal(-12, 3, (3, 12, 3)).astype(np.float32)
    write_samples(tmp_path, frame, np.arange(24212, 24224), {"s1": x}, task=CROPLAND, name="tiny",
                  licence="MIT", label_column="kind", bands={"s1": ("vv", "vh", "hh")},
                  radiometry={"s1": "sigma0"})
    return tmp_path, x


def test_foreign_labels_are_refused_or_left_out(tiny):
    folder, _ = tiny
    with pytest.raises(BadRequest, match="fallow"):
        read_samples(folder, CROPLAND)
    got = read_samples(folder, CROPLAND, labels="known")
    assert (got.ids.tolist(), got.target.tolist()) == (["a"], [1])


def test_only_the_samples_without_a_label(tiny):
    got = read_samples(tiny[0], CROPLAND, labels="none")
    assert (got.ids.tolist(), got.target.tolist()) == (["c"], [-1])


def test_further_bands_are_read_where_they_are_asked_for(tiny):
    folder, x = tiny
    assert read_samples(folder, CROPLAND, labels="known").bands["s1"] == SENSORS["s1"].band_names
    got = read_samples(folder, CROPLAND, labels="known", bands={"s1": ("hh", "vv", "hv")})
    assert got.bands["s1"] == ("hh", "vv")
    assert got.series["s1"][0][0].tobytes() == np.ascontiguousarray(x[0][:, [2, 0]]).tobytes()


@pytest.mark.real
def test_rows_of_a_set_are_taken_with_all_that_belongs_to_them(lfmc):
    s = lfmc.sets[0]
    some = s.take(np.array([5, 2]))
    assert some.ids.tolist() == [s.ids[5], s.ids[2]]
    assert np.array_equal(some.series["l8"][0], s.series["l8"][0][[5, 2]])
    assert some.context["slope"].tolist() == s.context["slope"][[5, 2]].tolist()


# --- fuel moisture as published ------------------------------------------------------------------

LAGS = ("t-3", "t-2", "t-1", "t")


def published_row(k: int, site: str, date: str, lat: float = 40.0) -> dict:
    """One row with the columns of the published table, ratios among them."""
    row = {"percent(t)": 100.0 + k, "date": date, "site": site, "latitude": lat,
           "longitude": -110.0 - k, "vv_red(t)": 7.0}
    for c, v in (("slope", 2.5), ("elevation", 900.0 + k), ("canopy_height", 12.0),
                 ("forest_cover", 130), ("silt", 30.0), ("sand", 40.0), ("clay", 30.0)):
        row |= {f"{c}({lag})": v for lag in LAGS}
    for step, lag in enumerate(LAGS):
        row |= {f"vv({lag})": -10.0 - step, f"vh({lag})": -17.0 - k, f"vh_vv({lag})": 7.0}
        row |= {f"{c}({lag})": 1000.0 * (j + 1) + step for j, c in
                enumerate(("red", "green", "blue", "swir", "nir"))}
        row |= {f"{c}({lag})": 0.3 for c in ("ndvi", "ndwi", "nirv")}
    return row


ROWS = [published_row(0, "Alpha", "2016-07-31"), published_row(1, "Beta", "2017-01-15"),
        published_row(0, "Alpha", "2016-07-31", lat=44.0)]


def write_csv(folder: Path) -> Path:
    # the index repeats where the row does
    pd.DataFrame(ROWS, index=[0, 1, 0]).to_csv(folder / "training_features.csv")
    return folder


def test_the_published_table_of_fuel_moisture_is_read(tmp_path):
    got = load_benchmark("lfmc-csv", write_csv(tmp_path))
    s = got.sets[0]
    assert s.target.tolist() == [101.0, 100.0]  # the first row is repeated by the last
    assert s.lat.tolist() == [40.0, 44.0]
    assert s.groups.tolist() == ["Beta", "Alpha"]
    assert s.months.tolist() == [[2016 * 12 + 9, 2016 * 12 + 10, 2016 * 12 + 11, 2017 * 12],
                                 [2016 * 12 + m for m in (3, 4, 5, 6)]]
    x, valid = s.series["l8"]
    assert valid.all()
    assert s.bands["l8"] == ("blue", "green", "red", "nir", "swir16")
    # blue is the third of the reflectances above, stored times 10 000
    assert np.allclose(x[0, :, 0], [0.3, 0.3001, 0.3002, 0.3003])
    assert np.allclose(x[0, 2], [0.3002, 0.2002, 0.1002, 0.5002, 0.4002])
    assert s.series["s1"][0][1].tolist() == [[-10, -17], [-11, -17], [-12, -17], [-13, -17]]
    assert s.context["elevation"].tolist() == [901.0, 900.0]
    assert s.context["shrub"].tolist() == [1.0, 1.0]  # GlobCover 130
    assert s.radiometry == {"s1": "sigma0", "l8": "landsat-c1-sr"}
    assert "NC" in s.licence


def test_the_archive_of_single_files_is_the_same_table(tmp_path):
    for k, row in enumerate(ROWS):
        place = [row["longitude"], row["latitude"]]
        inner = {c: v for c, v in row.items() if c not in ("longitude", "latitude")}
        (tmp_path / f"su_sar_{k}").mkdir()
        (tmp_path / f"su_sar_{k}" / "labels.geojson").write_text(json.dumps(
            {"type": "Feature", "geometry": {"type": "Point", "coordinates": place},
             "properties": inner}))
    one = load_benchmark("lfmc-csv", tmp_path).sets[0]
    (tmp_path / "csv").mkdir()
    other = load_benchmark("lfmc-csv", write_csv(tmp_path / "csv")).sets[0]
    assert np.array_equal(one.target, other.target)
    assert np.array_equal(one.series["l8"][0], other.series["l8"][0])
    assert one.lat.tolist() == other.lat.tolist()


def test_a_table_of_another_layout_is_refused(tmp_path):
    with pytest.raises(BadRequest, match=r"not there.*source\.coop"):
        load_benchmark("lfmc-csv", tmp_path)
    pd.DataFrame([{"site": "a", "percent(t)": 1.0}]).to_csv(tmp_path / "training_features.csv")
    with pytest.raises(DataTrouble, match=r"another layout.*date"):
        load_benchmark("lfmc-csv", tmp_path)


@pytest.mark.real
def test_real_rows_in_the_published_layout_are_the_tidy_set(points, lfmc, tmp_path):
    s = lfmc.sets[0].take(np.arange(40))
    table = pd.read_parquet(points / "lfmc" / "samples.parquet").set_index("sample_id").loc[s.ids]
    series = pd.read_parquet(points / "lfmc" / "series.parquet")
    frame = pd.DataFrame({
        "percent(t)": table.lfmc_percent, "date": table.date.dt.strftime("%Y-%m-%d"),
        "site": table.site, "latitude": table.lat, "longitude": table.lon,
        **{f"{c}(t)": table[c] for c in ("slope", "elevation", "canopy_height", "forest_cover")},
    })
    for step, lag in enumerate(LAGS):
        for sensor, columns, unit in (("s1", ("vv", "vh"), 1.0),
                                      ("l8", ("red", "green", "blue", "swir", "nir"), 1e4)):
            own = series[(series.sensor == sensor) & (series.lag == step - 3)]
            own = own.set_index("sample_id").loc[s.ids]
            for c in columns:
                frame[f"{c}({lag})"] = own[c].to_numpy(np.float64) * unit
    frame.to_csv(tmp_path / "training_features.csv", index=False)
    got = load_benchmark("lfmc-csv", tmp_path).sets[0]
    assert np.array_equal(got.target, s.target)
    assert np.array_equal(got.months, s.months)
    assert np.array_equal(got.groups, s.groups)
    for key in ("s1", "l8"):
        order = [got.bands[key].index(b) for b in s.bands[key]]
        assert np.allclose(got.series[key][0][..., order], s.series[key][0], rtol=1e-6)
    for name, column in s.context.items():
        assert np.allclose(got.context[name], column, equal_nan=True), name
