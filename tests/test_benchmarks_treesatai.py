"""TreeSatAI-Time-Series: a tiny copy in the published layout, its real patch, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import h5py
import numpy as np
import pytest
import rasterio
from affine import Affine
from shapely import box

from pipeline.data.benchmarks import load_benchmark
from pipeline.data.benchmarks.treesatai import (
    GENERA,
    multi_labels,
    product_month,
    read_aerial,
    read_series,
)
from pipeline.learn.table import stack, tensors
from pipeline.spec.errors import DataTrouble

NAMES = ("Abies_alba_1_10_WEFL_NLF", "Acer_2_20_WEFL_NLF", "Tilia_3_30_WEFL_NLF",
         "Cleared_4_40_WEFL_NLF")
SHARES = {
    NAMES[0]: [["Abies", 0.8], ["Picea", 0.0701], ["Fagus", 0.07]],
    NAMES[1]: [["Acer", 1.0]],
    NAMES[2]: [["Tilia", 0.06]],
    NAMES[3]: [["Cleared", 0.5], ["Tilia", 0.3]],
}
LISTS = {"train": NAMES[:1], "val": NAMES[1:3], "test": NAMES[3:]}
REAL = "Abies_alba_1_1005_WEFL_NLF"


def product(sensor: str, day: int) -> str:
    date = f"2020{1 + day // 28:02d}{1 + day % 28:02d}"
    if sensor == "s2":
        return f"S2A_MSIL2A_{date}T102421_N0213_R065_T32UNC_{date}T115419"
    return f"S1A_IW_GRDH_1SDV_{date}T170841_{date}T170906_030639_0382D5_360A"


def write_h5(path: Path, days: list[int], s1_days: list[int]) -> None:
    """Each value says the day and the band; the masks, that day in percent."""
    day = np.array(days, np.float32)[:, None, None, None]
    band = np.arange(10, dtype=np.float32)[:, None, None]
    with h5py.File(path, "w") as file:
        file["sen-2-data"] = np.broadcast_to(100 * day + band, (len(days), 10, 6, 6))
        file["sen-2-masks"] = np.broadcast_to(day / 2, (len(days), 2, 6, 6))
        file["sen-2-products"] = [product("s2", d) for d in days]
        for orbit in ("asc", "des"):
            power = np.broadcast_to(np.array([0.1, 0.01])[None, :, None, None],
                                    (len(s1_days), 2, 6, 6)).copy()
            power[:, 1, 0, 0] = 1.6e-12
            file[f"sen-1-{orbit}-data"] = power.astype(np.float32)
            file[f"sen-1-{orbit}-products"] = [product("s1", d) for d in s1_days]


def write(folder: Path) -> Path:
    """Four patches of another place each; one has no genus above the threshold."""
    for part in ("labels", "split", "geojson", "sentinel-ts", "aerial"):
        (folder / part).mkdir(parents=True)
    (folder / "labels" / "TreeSatBA_v9_60m_multi_labels.json").write_text(
        json.dumps({f"{n}.tif": v for n, v in SHARES.items()}))
    for part, names in LISTS.items():
        (folder / "split" / f"{part}_filenames.lst").write_text(
            "\n".join(f"{n}.tif" for n in names) + "\n")
    corners = [(500_000 + 20_000 * k, 5_700_000) for k in range(4)]
    gpd.GeoDataFrame({"IMG_ID": NAMES}, geometry=[box(x, y, x + 60, y + 60) for x, y in corners],
                     crs=25832).to_file(folder / "geojson" / "bb_60m.GeoJSON")
    for k, name in enumerate(NAMES):
        # the acquisitions of the first patch are not in order
        write_h5(folder / "sentinel-ts" / f"{name}_2020.h5",
                 [40, 10, 80] if k == 0 else list(range(10 * k, 150 + 10 * k)), [7 * k + 1])
        write_tif(folder / "aerial" / f"{name}.tif", k)
    return folder


def write_tif(path: Path, k: int, count: int = 4, dtype: str = "uint8") -> None:
    with rasterio.open(path, "w", driver="GTiff", width=8, height=8, count=count, dtype=dtype,
                       crs=25832, transform=Affine(0.2, 0, 500_000, 0, -0.2, 5_700_000)) as file:
        file.write(np.arange(count * 64).reshape(count, 8, 8).astype(dtype) // 2 + k)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("treesatai"))


@pytest.fixture(scope="module")
def both(folder):
    return load_benchmark("treesatai", folder)


def test_a_genus_counts_above_seven_percent():
    assert multi_labels([("Abies", 0.07), ("Tilia", 0.0701)]).nonzero()[0].tolist() == [14]
    assert not multi_labels([]).any()
    with pytest.raises(ValueError, match="Larch"):
        multi_labels([("Larch", 0.5)])


def test_the_month_of_a_product():
    assert product_month(b"S2A_MSIL2A_20200102T102421_N0213_R065_T32UNC_20200102T115419") == (
        2020 * 12 + 1 / 31)
    assert product_month(product("s1", 28)) == 2020 * 12 + 1
    with pytest.raises(ValueError, match="no date"):
        product_month("S2A_MSIL2A_2020")


def test_the_official_parts_and_labels(both):
    s = both.sets[0]
    assert s.ids.tolist() == [NAMES[0], NAMES[1], NAMES[3]]  # one has no genus that counts
    assert both.official[0].tolist() == ["train", "validation", "test"]
    assert both.task.kind == "multilabel"
    assert s.target.dtype == np.float32
    named = [{GENERA[k] for k in np.flatnonzero(row)} for row in s.target]
    assert named == [{"Abies", "Picea"}, {"Acer"}, {"Cleared", "Tilia"}]
    assert set(both.region[0]) == {"lower-saxony"}
    assert len(set(s.groups)) == 3
    # 500 km east in zone 32 is its central meridian, 9 degrees
    assert s.lon[0] == pytest.approx(9.0004, abs=2e-4)
    assert s.lat[0] == pytest.approx(51.45, abs=0.01)


def test_series_end_with_the_last_step_and_begin_with_gaps(both):
    s = both.sets[0]
    x, valid = s.series["s2"]
    assert x.shape == (3, 146, 12, 6, 6)
    assert valid.sum(1).tolist() == [3, 146, 146]  # of 150, the last 146
    assert np.isnan(x[0, :143]).all()
    # days 10, 40 and 80 in order; band j = 100 day + j, over 10 000
    assert np.allclose(x[0, 143:, 3, 2, 4], [0.1003, 0.4003, 0.8003])
    assert np.allclose(x[0, 143:, 10:, 0, 0], np.array([[5, 5], [20, 20], [40, 40]]) / 100)
    assert x[1, 0, 0, 0, 0] == pytest.approx(0.14)  # day 14 of 10 to 159
    months = s.months_of("s2")
    assert months.shape == (3, 146)
    # day 10 is 11 January, day 40 is 13 February, day 80 is 25 March
    assert np.allclose(months[0, 143:], 2020 * 12 + np.array([10 / 31, 1 + 12 / 29, 2 + 24 / 31]))


def test_an_image_is_one_step(both):
    s = both.sets[0]
    x, valid = s.series["aerial"]
    assert x.shape == (3, 1, 4, 8, 8)
    assert x[0, 0, 0, 0, :4].tolist() == [0, 0, np.float32(1 / 255), np.float32(1 / 255)]
    assert x[2, 0, 3, 7, 7] == np.float32(130 / 255)
    assert valid.all()
    assert s.months_of("aerial").shape == (3, 1)


def test_radar_power_becomes_decibels(folder):
    s = load_benchmark("treesatai", folder, ["s1"]).sets[0]
    x, valid = s.series["s1"]
    assert x.shape == (3, 151, 2, 6, 6)
    assert valid.sum(1).tolist() == [1, 1, 1]
    assert np.allclose(x[0, -1, 0], -10)
    assert np.allclose(x[0, -1, 1, 1:], -20)
    assert np.isnan(x[0, -1, 1, 0, 0])  # 1.6e-12 is no measurement
    assert s.months_of("s1").shape == (3, 151)
    assert tuple(s.series) == ("s1",)


def test_damaged_files_are_named(tmp_path):
    folder = write(tmp_path)
    write_tif(folder / "aerial" / f"{NAMES[1]}.tif", 0, count=3)
    with pytest.raises(DataTrouble, match=r"no aerial image.*3 bands of uint8"):
        load_benchmark("treesatai", folder, ["aerial"])
    (folder / "sentinel-ts" / f"{NAMES[1]}_2020.h5").unlink()
    with pytest.raises(DataTrouble, match=r"no series of Acer_2_20.*sentinel-ts.zip"):
        load_benchmark("treesatai", folder, ["s2"])
    with h5py.File(folder / "sentinel-ts" / f"{NAMES[0]}_2020.h5", "r+") as file:
        del file["sen-2-data"]
        file["sen-2-data"] = np.zeros((3, 9, 6, 6), np.float32)
    with pytest.raises(DataTrouble, match=r"another layout.*9, 6, 6"):
        load_benchmark("treesatai", folder, ["s2"])
    (folder / "split" / "test_filenames.lst").write_text("Quercus_9.tif\n")
    with pytest.raises(DataTrouble, match=r"labels or lists.*Quercus_9"):
        load_benchmark("treesatai", folder, ["s2"])


# --- the real patch ------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def patch(shared):
    return shared / "points" / "treesatai" / f"{REAL}.h5"


@pytest.mark.real
def test_the_real_patch_is_what_h5py_reads(patch):
    with h5py.File(patch) as file:
        s2, masks = file["sen-2-data"][:], file["sen-2-masks"][:]
        s1 = file["sen-1-asc-data"][:]
    x, months = read_series(patch, "s2")
    assert x.shape == (146, 12, 6, 6)
    assert np.allclose(x[:, :10], s2 / 1e4)
    assert np.allclose(x[:, 10:], masks[:, :2] / 100)
    assert x[:, 10:].max() == 1
    assert (np.diff(months) >= 0).all()
    assert (months >= 2020 * 12).all()
    assert (months < 2021 * 12).all()
    # vegetation in a clear summer: the near infrared stands above the red
    clear = (x[:, 10:].max((1, 2, 3)) < 0.05) & (months % 12 >= 5) & (months % 12 < 8)
    assert clear.sum() > 3
    assert (x[clear, 6] > 2 * x[clear, 2]).mean() > 0.9
    db, at = read_series(patch, "s1")
    assert db.shape == (60, 2, 6, 6)
    assert len(at) == 60
    assert np.allclose(db, 10 * np.log10(s1), atol=1e-4)
    assert (db[:, 0] > db[:, 1]).mean() > 0.9  # co- above cross-polarised


@pytest.mark.real
def test_the_real_patch_in_the_published_layout(patch, tmp_path):
    folder = write(tmp_path)
    shares = json.loads((patch.parent / "multi_labels_500.json").read_text())
    (folder / "labels" / "TreeSatBA_v9_60m_multi_labels.json").write_text(json.dumps(shares))
    official = (patch.parent / "train_filenames_500.lst").read_text().split()
    assert f"{REAL}.tif" in official
    (folder / "split" / "train_filenames.lst").write_text(f"{REAL}.tif\n")
    for part in ("val", "test"):
        (folder / "split" / f"{part}_filenames.lst").write_text("")
    (folder / "sentinel-ts" / f"{REAL}_2020.h5").symlink_to(patch)
    gpd.GeoDataFrame({"IMG_ID": [REAL]}, geometry=[box(5e5, 57e5, 5e5 + 60, 57e5 + 60)],
                     crs=25832).to_file(folder / "geojson" / "bb_60m.GeoJSON")
    s = load_benchmark("treesatai", folder, ["s2"]).sets[0]
    assert s.series["s2"][1].all()
    assert [GENERA[k] for k in np.flatnonzero(s.target[0])] == sorted(
        g for g, share in shares[f"{REAL}.tif"] if share > 0.07)


@pytest.mark.real
def test_the_real_labels_are_counted_like_this(patch):
    shares = json.loads((patch.parent / "multi_labels_500.json").read_text())
    target = np.stack([multi_labels(v) for v in shares.values()])
    want = [sum(any(g == genus and s > 0.07 for g, s in v) for v in shares.values())
            for genus in GENERA]
    assert target.sum(0).tolist() == want
    assert min(want) > 0


# --- the table of what was read ------------------------------------------------------------------

@pytest.fixture(scope="module")
def table(both):
    return stack(both.sets, both.task, ("aerial", "s2"))


def test_images_and_series_of_other_lengths_stand_in_one_table(table, both):
    assert table.bands == {"aerial": ("nir", "green", "blue", "red"),
                           "s2": both.task.features["s2"]}
    assert table.months_of("s2").shape == (3, 146)
    assert table.months_of("aerial").shape == (3, 1)
    assert table.target.shape == (3, 15)
    assert table.scored("aerial").all()
    assert table.radiometry["s2"] == ("l2a",)


def test_tensors_of_images_are_standardised_pixel_by_pixel(table, both):
    rows = np.array([True, True, False])
    data = tensors(table, rows, context=())
    assert tuple(data.inputs["aerial"].shape) == (3, 1, 4, 8, 8)
    assert tuple(data.inputs["s2"].shape) == (3, 146, 12, 6, 6)
    assert data.seen["s2"].sum(1).tolist() == [3, 146, 146]
    assert data.present.all()
    assert data.class_weights is None
    assert data.target.dtype.is_floating_point
    assert np.array_equal(data.target.numpy(), both.sets[0].target)
    x, valid = both.sets[0].series["s2"]
    values = x[:2, :, 4][valid[:2]].astype(np.float64)
    card = data.cards["s2"]
    assert card.mean[4] == pytest.approx(values.mean())
    assert card.std[4] == pytest.approx(values.std())
    z = data.inputs["s2"].numpy()
    assert (z[0, :143] == 0).all()
    assert np.allclose(z[2, :, 4], (x[2, :, 4] - values.mean()) / values.std(), atol=1e-5)


def test_context_fills_channels_of_images(table):
    data = tensors(table, np.ones(3, bool), context=("valid", "month_sin"), static=("lon",))
    z = data.inputs["s2"].numpy()
    assert z.shape == (3, 146, 12 + 2 + 2, 6, 6)
    assert (z[0, :, 12] == (np.arange(146) >= 143)[:, None, None]).all()
    angle = 2 * np.pi * (10 / 31) / 12
    assert np.allclose(z[0, 143, 13], np.sin(angle), atol=1e-6)
    assert (z[:, :, 15] == 1).all()
    assert np.ptp(z[:, :, 14], axis=(1, 2, 3)).max() == 0


def test_a_missing_pixel_is_a_gap_and_its_neighbours_are_not(folder):
    got = load_benchmark("treesatai", folder, ["s1"])
    data = tensors(stack(got.sets, got.task, ("s1",)), np.ones(3, bool), context=())
    z = data.inputs["s1"].numpy()[:, -1]
    assert (z[:, :, 0, 0] == 0).all()
    assert data.seen["s1"].sum(1).tolist() == [1, 1, 1]


def test_a_set_without_the_sensor_has_gaps_of_the_others_shape(folder, both):
    other = load_benchmark("treesatai", folder, ["s2"]).sets
    joined = stack([*both.sets, *other], both.task, ("s2", "aerial"))
    x, valid = joined.series["aerial"]
    assert x.shape == (6, 1, 4, 8, 8)
    assert valid[:, 0].tolist() == [True] * 3 + [False] * 3
    assert np.isnan(x[3:]).all()
    assert joined.months_of("aerial").shape == (6, 1)


def test_a_file_that_is_no_image(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"nothing")
    with pytest.raises(DataTrouble, match="cannot read"):
        read_aerial(tmp_path / "a.tif")
