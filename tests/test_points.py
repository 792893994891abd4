"""Sample tables: what is written is read back, windows, gaps, and the traps of real sets."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.data.points import read_samples, write_samples
from pipeline.data.sample_set import SampleSet
from pipeline.data.windows import choose_windows, monthly
from pipeline.spec.errors import BadRequest, DataTrouble
from pipeline.spec.tasks import task

CROPLAND, LFMC = task("cropland"), task("lfmc")
REAL = Path(__file__).parents[2] / "shared" / "data" / "points"
NOV_2017 = 2017 * 12 + 10
BANDS = {"s1": ("vv", "vh")}

real = [
    pytest.mark.real,
    pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/points is not there"),
]


def frame(n=3, **columns):
    return pd.DataFrame({
        "sample_id": [f"p{k}" for k in range(n)], "lon": np.linspace(4, 5, n),
        "lat": np.full(n, 51.0), "group": [f"g{k}" for k in range(n)],
        "cropland": [0.0, 1.0, np.nan][:n], **columns,
    })


def series(n=3, t=12, b=2, seed=0):
    x = np.random.default_rng(seed).normal(-12, 3, (n, t, b)).astype(np.float32)
    x[0, t // 3] = np.nan
    return x


def write(folder, samples=None, label="cropland", **more):
    given = {"task": CROPLAND, "name": "mine", "licence": "CC0-1.0", "label_column": label,
             "bands": BANDS, "radiometry": {"s1": "gamma0-rtc"}}
    samples = frame() if samples is None else samples
    write_samples(folder, samples, np.arange(NOV_2017, NOV_2017 + 12), {"s1": series()},
                  **(given | more))
    return folder


def test_written_series_are_read_back_to_the_bit(tmp_path):
    got = read_samples(write(tmp_path), CROPLAND)
    x, valid = got.series["s1"]
    assert x.tobytes() == series()[:2].tobytes()
    assert valid.sum() == 23
    assert not valid[0, 4]
    assert (got.name, got.licence, got.radiometry) == ("mine", "CC0-1.0", {"s1": "gamma0-rtc"})
    assert got.bands == BANDS
    assert got.months[0].tolist() == list(range(NOV_2017, NOV_2017 + 12))
    assert got.primary.all()


def test_rows_without_a_label_are_left_out(tmp_path):
    got = read_samples(write(tmp_path), CROPLAND)
    assert got.ids.tolist() == ["p0", "p1"]
    assert got.target.tolist() == [0, 1]
    assert got.rows == 2


def test_labels_may_be_class_names(tmp_path):
    folder = write(tmp_path, frame(kind=["cropland", "other", "cropland"]), "kind")
    assert read_samples(folder, CROPLAND).target.tolist() == [1, 0, 1]


def test_an_unknown_class_is_refused_with_the_known_ones(tmp_path):
    folder = write(tmp_path, frame(kind=["wheat", "other", "other"]), "kind")
    with pytest.raises(BadRequest, match=r"wheat.*0 or other, 1 or cropland"):
        read_samples(folder, CROPLAND)


def test_values_of_a_regression_are_kept(tmp_path):
    samples = frame(moisture=[80.5, 120.0, 99.0])
    write_samples(tmp_path, samples, np.arange(4) + NOV_2017, {"s1": series(t=4)}, task=LFMC,
                  name="m", licence="CC0", label_column="moisture", bands=BANDS,
                  radiometry={"s1": "sigma0"})
    assert read_samples(tmp_path, LFMC).target.tolist() == [80.5, 120.0, 99.0]


@pytest.mark.parametrize(("change", "kind", "match"), [
    ({"feature_path": "0"}, BadRequest, "another task, feature path"),
    ({"task": "lfmc"}, BadRequest, "another task"),
    ({"radiometry": None}, DataTrouble, "malformed"),
])
def test_a_sidecar_that_does_not_fit_is_refused(tmp_path, change, kind, match):
    sidecar = write(tmp_path) / "dataset.json"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | change))
    with pytest.raises(kind, match=match):
        read_samples(tmp_path, CROPLAND)


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(BadRequest, match=r"samples\.parquet"):
        read_samples(tmp_path / "nowhere", CROPLAND)
    write(tmp_path)
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(BadRequest, match=r"no set of that name is known.*flanders_2018"):
        read_samples(tmp_path, CROPLAND)


def test_damaged_tables_are_named(tmp_path):
    write(tmp_path)
    (tmp_path / "series.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataTrouble, match=r"series\.parquet"):
        read_samples(tmp_path, CROPLAND)
    write(tmp_path)
    frame().drop(columns="lat").to_parquet(tmp_path / "samples.parquet")
    with pytest.raises(DataTrouble, match="lat"):
        read_samples(tmp_path, CROPLAND)


def test_nothing_labelled_and_no_such_sensor(tmp_path):
    write(tmp_path, frame(cropland=[np.nan] * 3))
    with pytest.raises(BadRequest, match="has a label"):
        read_samples(tmp_path, CROPLAND)
    write(tmp_path)
    with pytest.raises(BadRequest, match="none of the sensors"):
        read_samples(tmp_path, CROPLAND, ["s2"])


def test_ids_must_be_unique_and_folders_writable(tmp_path):
    with pytest.raises(BadRequest, match="not unique"):
        write(tmp_path, frame(sample_id=["a", "a", "b"]))
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRequest, match="cannot write"):
        write(tmp_path / "file" / "below")


def test_the_primary_window_ends_in_october_of_the_labels_year():
    june_2021 = 2021 * 12 + 5
    got = choose_windows(np.array([2020 * 12 + 7]), np.array([2021 * 12 + 10]),
                         np.array([float(june_2021)]), 12, every=True)
    ends = got.first + 11
    assert ends[got.primary].tolist() == [2021 * 12 + 9]
    # 16 months hold 5 windows; the one that ends in July lacks the second month after the label
    assert sorted(ends.tolist()) == [2021 * 12 + m for m in (7, 8, 9, 10)]


def test_the_nearest_window_is_taken_where_october_cannot_be_had():
    july_2017 = 2017 * 12 + 6
    got = choose_windows(np.array([2017 * 12]), np.array([2018 * 12 + 4]),
                         np.array([float(july_2017)]), 12, every=False)
    assert got.first.tolist() == [2017 * 12]


def test_a_series_shorter_than_the_window_is_filled_with_gaps(tmp_path):
    write(tmp_path)
    table = pd.read_parquet(tmp_path / "series.parquet")
    table[table.time >= "2018-01-01"].to_parquet(tmp_path / "series.parquet")
    x, valid = read_samples(tmp_path, CROPLAND).series["s1"]
    assert x.shape == (2, 12, 2)
    assert valid[1].tolist() == [True] * 10 + [False] * 2


def test_dekads_become_months_as_maps_do():
    rows = pd.DataFrame({"vv": [-10.0, -20.0, -5.0], "vh": [-20.0, -20.0, -9.0]}, dtype=np.float32)
    got = monthly(rows, np.array([0, 0, 0]), np.array([7, 7, 8]), ["vv", "vh"], "sar")
    # mean of linear power: 10 log10((0.1 + 0.01) / 2)
    assert got.loc[(0, 7), "vv"] == pytest.approx(10 * np.log10(0.055), rel=1e-6)
    assert got.loc[(0, 8)].tolist() == pytest.approx([-5, -9])
    rows = pd.DataFrame({"B04": [0.1, 0.9, 0.2, np.nan]}, dtype=np.float32)
    got = monthly(rows, np.zeros(4, int), np.array([7, 7, 7, 8]), ["B04"], "optical")
    assert got.loc[(0, 7), "B04"] == np.float32(0.2)
    assert np.isnan(got.loc[(0, 8), "B04"])


def test_shapes_are_checked_where_a_set_is_born(tmp_path):
    got = read_samples(write(tmp_path), CROPLAND)
    fields = {k: getattr(got, k) for k in SampleSet.__dataclass_fields__}
    with pytest.raises(ValueError, match="target"):
        SampleSet(**fields | {"target": got.target[:1]})
    with pytest.raises(ValueError, match="s1 is"):
        SampleSet(**fields | {"bands": {"s1": ("vv",)}})


class TestReal:
    pytestmark = real

    @pytest.mark.parametrize(("name", "rows", "positive", "end"), [
        ("flanders_2018", 473, 108, 9), ("flanders_2021", 136, 30, 9),
        ("france_2022_corsica", 453, 66, 9), ("france_2023", 471, 283, 9),
        ("canada_2017", 3604, 2319, 11),
    ])
    def test_cropland_sets(self, name, rows, positive, end):
        got = read_samples(REAL / name, CROPLAND)
        assert (got.rows, int(got.target.sum())) == (rows, positive)
        assert set(got.months[:, -1] % 12) == {end}
        assert got.radiometry == {"s1": "sigma0", "s2": "l2a"}
        s1, s2 = got.series["s1"][0], got.series["s2"][0]
        assert np.nanmin(s1) < -15  # decibels
        assert 0.02 < np.nanmedian(s2) < 0.4  # reflectance

    def test_months_that_repeat_the_month_before_are_gaps(self):
        got = read_samples(REAL / "itu_cropland", CROPLAND)
        table = pd.read_parquet(REAL / "itu_cropland" / "series.parquet")
        landsat = table[table.sensor == "l8"]
        copied = landsat.l8_carried_forward.eq(True) | landsat.l8_missing.eq(True)
        assert copied.sum() > 2000
        assert got.series["l8"][1].sum() == len(landsat) - copied.sum()
        assert len(set(got.groups)) == 59  # 0.1 degree cells, not three countries

    def test_nodata_of_flanders_2018_is_a_gap(self):
        x, valid = read_samples(REAL / "flanders_2018", CROPLAND, ["s2"]).series["s2"]
        assert np.isnan(x[~valid]).all()
        assert not (x[valid] == 0).all(-1).any()
        assert 0.85 < valid.mean() < 0.95

    def test_lfmc_counts_its_steps_by_lag(self):
        got = read_samples(REAL / "lfmc", LFMC)
        assert got.series["s1"][1].all()
        assert got.series["l8"][1].all()
        assert got.bands["l8"] == ("blue", "green", "red", "nir", "swir16")
        s2 = got.series["s2"][1]
        assert not s2[:, 0].any()  # Sentinel-2 has lags -2 to 0 only
        assert s2[:, 1:].all(1).sum() == 2269
        assert got.radiometry["s2"] == "l1c"
        table = pd.read_parquet(REAL / "lfmc" / "samples.parquet")
        dates = pd.to_datetime(table.date)
        assert got.months[:, -1].tolist() == (dates.dt.year * 12 + dates.dt.month - 1).tolist()

    def test_unlabelled_points_are_refused(self):
        with pytest.raises(BadRequest):
            read_samples(REAL / "itu_cropland_unlabelled", CROPLAND)
