"""CropHarvest: a tiny copy in the published layout, and its real arrays and exports."""

from __future__ import annotations

import sys
from pathlib import Path

import geopandas as gpd
import h5py
import numpy as np
import pandas as pd
import pytest
import rasterio
from affine import Affine
from shapely import Point, box

from pipeline.data.benchmarks import load_benchmark
from pipeline.data.benchmarks.cropharvest import GROUPS, MULTI, decode, months_until
from pipeline.data.benchmarks.earth_engine import COLUMNS, export_arrays, export_series
from pipeline.prep.features import features
from pipeline.spec.errors import BadRequest, DataTrouble

TOGO = "98-togo_2019-02-06_2020-02-01.tif"
HONDURAS = ("min_lat=14.9517_min_lon=-86.2507_max_lat=14.9531_max_lon=-86.2493_"
            "dates=2017-01-01_2018-12-31_all.tif")


@pytest.fixture(scope="module")
def exports(shared: Path) -> Path:
    return shared / "points" / "gee_tifs"


def array(seed: int) -> np.ndarray:
    """(12, 18) whose value says where it stands: step in the tens, column in the units."""
    return 1000.0 * seed + 20.0 * np.arange(12)[:, None] + np.arange(18)


def write(folder: Path, **changed) -> Path:
    """Five samples: two to learn from, one for testing, one without data, one unlabelled."""
    (folder / "features" / "arrays").mkdir(parents=True)
    columns = {
        "index": [0, 7, 1, 2, 3],
        "dataset": ["togo", "ethiopia", "togo-eval", "togo", "togo"],
        "is_crop": [1, 0, 1, 1, 0],
        "lat": [6.11, 9.55, 6.2, 6.3, 6.4], "lon": [1.22, 38.96, 1.3, 1.4, 1.5],
        "collection_date": ["2020-03-01T00:00:00"] * 5,
        "export_end_date": ["2020-02-01T00:00:00", "2021-02-01T00:00:00"] + ["2020-02-01"] * 3,
        "is_test": [False, False, True, False, False],
        "label": ["maize", None, None, None, None],
        "classification_label": ["cereals", "non_crop", "sugar", "cereals", None],
        "externally_contributed_dataset": [False] * 5, "harvest_date": [None] * 5,
        "planting_date": [None] * 5,
    } | changed
    shapes = [box(1.2, 6.1, 1.25, 6.15)] + [Point(x, y) for x, y in zip(
        columns["lon"][1:], columns["lat"][1:], strict=True)]
    gpd.GeoDataFrame(columns, geometry=shapes, crs=4326).to_file(folder / "labels.geojson")
    for k, name in enumerate(("0_togo", "7_ethiopia", "1_togo-eval", "3_togo")):
        with h5py.File(folder / "features" / "arrays" / f"{name}.h5", "w") as file:
            file.create_dataset("array", data=array(k))
            file.attrs["is_crop"] = 1
    return folder


def test_the_published_layout_is_read(tmp_path):
    got = load_benchmark("cropharvest-binary", write(tmp_path))
    s = got.sets[0]
    assert s.ids.tolist() == ["0_togo", "7_ethiopia", "3_togo"]  # no test sample, none without data
    assert s.target.tolist() == [1, 0, 0]
    assert got.region[0].tolist() == ["togo", "ethiopia", "togo"]
    assert s.groups.tolist() == ["1.2_6.1", "39.0_9.6", "1.5_6.4"]
    assert s.lon.tolist() == [1.22, 38.96, 1.5]
    assert s.months[1].tolist() == list(range(2020 * 12 + 1, 2021 * 12 + 1))
    s1, s2 = s.series["s1"][0], s.series["s2"][0]
    assert s1.shape == (3, 12, 2)
    assert s1[1, 3].tolist() == [1060.0, 1061.0]
    assert s2.shape == (3, 12, 11)
    assert np.allclose(s2[0, 2] * 1e4, np.arange(42, 53))  # columns 2 to 12 of the third step
    assert s.bands["s2"] == ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11",
                             "B12")
    assert s.context["elevation"].tolist() == [15, 1015, 3015]
    assert s.context["slope"].tolist() == [16, 1016, 3016]
    assert s.radiometry == {"s1": "sigma0", "s2": "l1c"}
    assert got.official is None


def test_the_ten_groups_of_the_multi_variant(tmp_path):
    got = load_benchmark("cropharvest-multi", write(tmp_path), ["s2"])
    assert tuple(c.name for c in got.task.classes) == GROUPS
    assert len(GROUPS) == 10
    assert got.sets[0].ids.tolist() == ["0_togo", "7_ethiopia"]  # labelled ones
    assert [GROUPS[k] for k in got.sets[0].target] == ["cereals", "non_crop"]
    assert tuple(got.sets[0].series) == ("s2",)


def test_unknown_labels_and_layouts_are_refused(tmp_path):
    labels = ["wheat", "non_crop", "sugar", "cereals", None]
    with pytest.raises(DataTrouble, match=r"unknown labels.*wheat.*non_crop, cereals"):
        load_benchmark("cropharvest-multi", write(tmp_path / "a", classification_label=labels))
    folder = write(tmp_path / "b")
    with h5py.File(folder / "features" / "arrays" / "0_togo.h5", "w") as file:
        file.create_dataset("array", data=np.zeros((12, 17)))
    with pytest.raises(DataTrouble, match=r"another layout.*\(12, 17\).*\(12, 18\)"):
        load_benchmark("cropharvest-binary", folder)
    with h5py.File(folder / "features" / "arrays" / "0_togo.h5", "w") as file:
        file.create_dataset("arrays", data=np.zeros((12, 18)))
    with pytest.raises(DataTrouble, match="another layout"):
        load_benchmark("cropharvest-binary", folder)
    (folder / "features" / "arrays" / "0_togo.h5").write_bytes(b"not an h5 file")
    with pytest.raises(DataTrouble, match="cannot read"):
        load_benchmark("cropharvest-binary", folder)
    (folder / "labels.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(DataTrouble, match="lacks columns"):
        load_benchmark("cropharvest-binary", folder)


def test_labels_alone_are_not_enough(tmp_path):
    folder = write(tmp_path)
    for path in (folder / "features" / "arrays").iterdir():
        path.unlink()
    with pytest.raises(DataTrouble, match=r"data of none.*INDEX_DATASET.h5.*pip install"):
        load_benchmark("cropharvest-binary", folder)


def test_the_optional_reader_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(BadRequest, match=r"h5py is not installed.*wallmap\[benchmarks\]"):
        load_benchmark("cropharvest-binary", write_without_h5py(tmp_path))


def write_without_h5py(folder: Path) -> Path:
    (folder / "features" / "arrays").mkdir(parents=True)
    (folder / "features" / "arrays" / "0_togo.h5").write_bytes(b"")
    gpd.GeoDataFrame({"index": [0], "dataset": ["togo"], "is_crop": [1], "lat": [6.0], "lon": [1.0],
                      "is_test": [False], "export_end_date": ["2020-02-01"]},
                     geometry=[Point(1, 6)], crs=4326).to_file(folder / "labels.geojson")
    return folder


def test_periods_of_thirty_days_before_the_end_of_the_export():
    # 1 February 2020 - 360 days = 6 February 2019; middles fall on the 21st, and on 17 January
    ends = pd.Series(pd.to_datetime(["2020-02-01", "2019-12-31"]))
    first = 2019 * 12 + 1
    assert months_until(ends).tolist() == [list(range(first, first + 12)),
                                           list(range(first - 1, first + 11))]


def test_what_lies_at_the_exporters_floor_is_no_measurement():
    one = np.zeros((1, 1, 17))
    one[0, 0, :2] = [-49.95, -12.0]
    series, _ = decode(one)
    assert np.isnan(series["s1"][0, 0, 0])
    assert series["s1"][0, 0, 1] == -12


@pytest.mark.real
def test_real_arrays_of_this_layout_are_decoded(shared):
    x = np.load(shared / "points" / "algae_blooms" / "s1_s2_era5_srtm.npy")
    series, place = decode(x[..., :-1])
    s1, s2 = series["s1"], series["s2"]
    assert s1.shape == (1122, 12, 2)
    assert s2.dtype == np.float32
    seen = np.isfinite(s1)
    assert (x[..., :2][~seen] < -49.9).all()
    assert np.allclose(s1[seen], x[..., :2][seen])
    assert 0 < (~seen).mean() < 0.01
    assert np.allclose(s2, x[..., 2:13] / 1e4)
    # the column called NDVI is another index; ours is computed from the bands
    ndvi = features(s2, MULTI.features["s2"][:-1], ["ndvi"])[..., 0]
    green, edge, red, nir = x[..., 3], x[..., 7], x[..., 4], x[..., 8]
    assert (np.abs((edge - green) / (edge + green) - x[..., 17]) < 1e-4).mean() > 0.99
    assert np.allclose(ndvi, (nir - red) / (nir + red), atol=1e-6)
    assert np.array_equal(place["elevation"], x[:, 0, 15].astype(np.float32))
    assert place["slope"].max() < 90


# --- Earth Engine exports ------------------------------------------------------------------------

def write_export(path: Path, steps: int, drop: str = "") -> None:
    """(H, W) = (3, 4) at 1 E 6 N, pixels of 0.1 degree; the k-th band is k, one pixel missing."""
    per_step = ("VV", "VH", "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10",
                "B11", "B12", "temperature_2m", "total_precipitation")
    names = [n if k == 0 else f"{n}_{k}" for k in range(steps) for n in per_step]
    names += ["elevation", "slope"]
    names = [n for n in names if n != drop]
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", driver="GTiff", width=4, height=3, count=len(names),
                       dtype="float64", crs=4326, transform=Affine(0.1, 0, 1, 0, -0.1, 6)) as file:
        for k, name in enumerate(names, 1):
            value = np.full((3, 4), float(k))
            value[2, 3] = np.nan if name == "B4_1" else k
            file.write(value, k)
            file.set_band_description(k, name)


def test_an_export_is_cut_into_steps(tmp_path):
    write_export(tmp_path / "e.tif", 2)
    x, transform = export_arrays(tmp_path / "e.tif", 2)
    assert x.shape == (2, 17, 3, 4)
    assert (transform.c, transform.f) == (1, 6)
    # bands of the second step begin at 18; B1 (20) and B10 (30) are left out
    assert x[1, :4, 0, 0].tolist() == [18, 19, 21, 22]
    assert x[1, 13:, 0, 0].tolist() == [33, 34, 35, 36]
    assert np.isnan(x[1, COLUMNS.index("B4"), 2, 3])
    assert np.isnan(x).sum() == 1
    assert np.array_equal(export_series(tmp_path / "e.tif", 1.35, 5.95, 2), x[:, :, 0, 3])
    assert export_series(tmp_path / "e.tif", 0.99, 5.95, 2) is None


def test_what_is_no_export_is_refused(tmp_path):
    write_export(tmp_path / "e.tif", 2, drop="B8A_1")
    with pytest.raises(DataTrouble, match=r"no CropHarvest export of 2 steps.*B8A_1"):
        export_arrays(tmp_path / "e.tif", 2)
    (tmp_path / "e.tif").write_bytes(b"II*\0")
    with pytest.raises(DataTrouble, match="cannot read"):
        export_arrays(tmp_path / "e.tif", 2)


@pytest.mark.real
@pytest.mark.parametrize(("name", "steps"), [(TOGO, 12), (HONDURAS, 24)])
def test_real_exports_are_what_rasterio_reads(exports, name, steps):
    x, _ = export_arrays(exports / name, steps)
    with rasterio.open(exports / name) as file:
        band = {n: k for k, n in enumerate(file.descriptions, 1)}
        assert x.shape == (steps, 17, *file.shape)
        for step in (0, steps // 2, steps - 1):
            suffix = f"_{step}" if step else ""
            for column in ("VV", "B2", "B8A", "B12", "total_precipitation"):
                want = file.read(band[column + suffix])
                assert np.array_equal(x[step, COLUMNS.index(column)], want), (step, column)
        assert np.array_equal(x[3, COLUMNS.index("slope")], file.read(band["slope"]),
                              equal_nan=True)


@pytest.mark.real
def test_a_sample_without_an_array_is_read_out_of_its_real_export(exports, tmp_path):
    (tmp_path / "eo_data").mkdir()
    (tmp_path / "eo_data" / TOGO).symlink_to(exports / TOGO)
    with rasterio.open(exports / TOGO) as file:
        lon, lat = file.xy(11, 4)
        want = file.read()[:, 11, 4]
        names = file.descriptions
    gpd.GeoDataFrame(
        {"index": [98, 5], "dataset": ["togo", "togo"], "is_crop": [1, 1], "lat": [lat, lat],
         "lon": [lon, lon], "is_test": [False, False], "export_end_date": ["2020-02-01"] * 2},
        geometry=[Point(lon, lat)] * 2, crs=4326).to_file(tmp_path / "labels.geojson")
    s = load_benchmark("cropharvest-binary", tmp_path).sets[0]
    assert s.ids.tolist() == ["98_togo"]
    assert s.months[0, 0] == 2019 * 12 + 1  # the export begins on 6 February 2019
    vv = [want[names.index("VV" if k == 0 else f"VV_{k}")] for k in range(12)]
    b11 = [want[names.index("B11" if k == 0 else f"B11_{k}")] for k in range(12)]
    assert np.allclose(s.series["s1"][0][0, :, 0], vv)
    assert np.allclose(s.series["s2"][0][0, :, 9], np.array(b11) / 1e4)
    assert -25 < s.series["s1"][0][0].mean() < -5
