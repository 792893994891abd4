"""Units, masks, composites and features against numbers worked by hand and against NumPy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from pipeline.prep import masks
from pipeline.prep.composite import (
    aggregate,
    aggregate_count,
    mean,
    median,
)
from pipeline.prep.features import CONTEXT, bands_needed, cube_planes, features, model_input
from pipeline.prep.radiometry import scaling, to_db, to_physical
from pipeline.spec.card import SensorCard
from pipeline.spec.cube import Cube
from pipeline.spec.grid import window
from pipeline.spec.source import OffsetRule, Source, Unit
from pipeline.spec.timeline import Timeline, parse_month
from tests.support.composites import composite

NAN = np.nan


def row(unit: Unit = "reflectance", nodata: float = 0, rule: OffsetRule = "fixed",
        scale: float = 1.0, offset: float = 0.0) -> Source:
    return Source("t/t", "s2", "t", {}, unit, "l2a", nodata, scale, offset, rule)


# --- radiometry


@pytest.mark.parametrize(("dtype", "unit", "nodata", "scale", "offset", "dn", "wanted"), [
    # USGS: DN 7 273 is 0.0000075, DN 43 636 is 0.99999
    ("uint16", "reflectance", 0, 2.75e-5, -0.2, [0, 7273, 43636], [NAN, 7.5e-6, 0.99999]),
    # Sentinel-2 from baseline 04.00: DN 1 000 is a valid 0, DN 0 is nodata
    ("uint16", "reflectance", 0, 1e-4, -0.1, [0, 1000, 3000, 900], [NAN, 0, 0.2, -0.01]),
    ("float32", "linear", -32768, 1, 0, [-32768, 0, -1e-4, NAN, 0.05], [NAN, NAN, NAN, NAN, 0.05]),
    ("int32", "dB", 0, 1e-4, 0, [0, -100_000, 50_000], [NAN, 0.1, 10**0.5]),
    ("uint16", "dn20log10", 65535, 1, -83, [65535, 0, 1000], [NAN, NAN, 10**-2.3]),
])
def test_constant_vectors(dtype, unit, nodata, scale, offset, dn, wanted) -> None:
    got = to_physical(np.array(dn, dtype), row(unit, nodata), scale, offset)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("unit", ["reflectance", "linear", "dB", "dn20log10"])
def test_damaged_numbers_are_gaps_and_do_not_warn(unit: Unit) -> None:
    signalling = np.array([0x7F800001], np.uint32).view(np.float32)
    dn = np.concatenate([signalling, np.array([3e38, np.inf, 7], np.float32)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = to_physical(dn, row(unit), 10.0, 0.0)
    assert np.isnan(got).tolist() == [True, True, True, False]


def test_scale_per_acquisition() -> None:
    dn = np.full((2, 1, 1), 2000, np.uint16)
    offset = np.array([0.0, -0.1], np.float32)[:, None, None]
    np.testing.assert_allclose(to_physical(dn, row(), 1e-4, offset).ravel(), [0.2, 0.1], rtol=1e-6)


@pytest.mark.parametrize(("baseline", "offset"), [
    ("02.12", 0.0), ("03.01", 0.0), ("04.00", -0.1), ("05.11", -0.1), ("10.00", -0.1),
])
def test_sentinel_2_offset_by_baseline(baseline: str, offset: float) -> None:
    source = row(rule="s2-baseline", scale=1e-4)
    assert scaling(source, {"s2:processing_baseline": baseline}, {}) == (1e-4, offset)


@pytest.mark.parametrize("properties", [{}, {"s2:processing_baseline": "new"}])
def test_baseline_is_never_guessed(properties: dict) -> None:
    with pytest.raises(ValueError, match=r"wanted NN\.NN"):
        scaling(row(rule="s2-baseline"), properties, {})


@pytest.mark.parametrize("asset", [
    {"raster:bands": [{"scale": 1e-4, "offset": -0.1}]},
    {"bands": [{"raster:scale": 1e-4, "raster:offset": -0.1}]},
    {"raster:scale": 1e-4, "raster:offset": -0.1},
])
def test_scaling_of_the_asset(asset: dict) -> None:
    assert scaling(row(rule="raster-bands"), {}, asset) == (1e-4, -0.1)


@pytest.mark.parametrize("asset", [{}, {"raster:bands": []}, {"raster:bands": [{"scale": 1}]}])
def test_scaling_of_the_asset_is_never_guessed(asset: dict) -> None:
    with pytest.raises(ValueError, match="scale and offset are missing"):
        scaling(row(rule="raster-bands"), {}, asset)


def test_decibels() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = to_db(np.array([1, 0.1, 2, NAN], np.float32))
    np.testing.assert_allclose(got, [0, -10, 3.0103, NAN], rtol=1e-5)


# --- masks


def test_scene_classification() -> None:
    clear = masks.scl_clear(np.arange(12, dtype=np.uint8))
    assert np.flatnonzero(clear).tolist() == [2, 4, 5, 6, 7]


@pytest.mark.parametrize(("qa", "clear"), [
    (21824, True),  # clear land (USGS LSDS-1619, table 6-3)
    (21952, True),  # water
    (21826, False),  # dilated cloud over land
    (22280, False),  # high-confidence cloud
    (23888, False),  # cloud shadow
    (30048, False),  # snow
    (54596, False),  # high-confidence cirrus
    (1, False),  # fill
])
def test_landsat_collection_2(qa: int, clear: bool) -> None:
    assert masks.landsat_c2_clear(np.array([qa], np.uint16))[0] == clear


@pytest.mark.parametrize(("qa", "clear"), [
    (322, True),  # clear (USGS LSDS-1368, table 7-1)
    (324, True),  # water
    (328, False),  # cloud shadow
    (336, False),  # snow
    (352, False),  # cloud
    (834, False),  # high-confidence cirrus
    (0, False), (1, False),  # fill
])
def test_landsat_collection_1(qa: int, clear: bool) -> None:
    assert masks.landsat_c1_clear(np.array([qa], np.uint16))[0] == clear


# --- composites


def _gappy(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    stack = rng.normal(size=(n, 9, 11)).astype(np.float32)
    stack[rng.random(stack.shape) < 0.4] = NAN
    return stack


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 12])
def test_median_and_mean_against_numpy(n: int) -> None:
    stack = _gappy(n, n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of all-NaN pixels
        middle, average = np.nanmedian(stack, 0), np.nanmean(stack, 0, dtype=np.float64)
    np.testing.assert_array_equal(median(stack, np.arange(n))[0], middle)
    np.testing.assert_allclose(mean(stack, np.arange(n))[0], average, rtol=1e-6)


def test_even_counts_take_the_mean_of_the_middle() -> None:
    stack = np.array([4, 1, NAN, 2, 8], np.float32)[:, None, None]
    assert median(stack, np.arange(5))[0][0, 0] == 3.0


def test_order_of_acquisitions_does_not_matter() -> None:
    stack, rng = _gappy(8, 3), np.random.default_rng(0)
    for kind in ("optical", "sar"):
        steps, passes = np.array([0, 0, 0, 1, 1, 1, 1, 2]), np.arange(8)
        one, n_one = composite(stack, steps, passes, 4, kind)
        mixed = rng.permutation(8)
        two, n_two = composite(stack[mixed], steps[mixed], passes[mixed], 4, kind)
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(n_one, n_two)
        assert np.isnan(one[3]).all()
        assert not n_one[3].any()


def test_a_pass_counts_once() -> None:
    """Two overlapping tiles of a pass, the first with a hole, and another pass."""
    values = np.array([[1, NAN], [2, 2], [4, 8]], np.float32)[:, None, :]
    out, count = composite(values, np.zeros(3, int), np.array([5, 5, 7]), 1, "optical")
    assert out[0, 0].tolist() == [2.5, 5.0]
    assert count[0, 0].tolist() == [2, 2]


def test_radar_mean_is_linear() -> None:
    power = np.array([0.1, 0.001, 0.001], np.float32)[:, None, None]
    out, _ = composite(power, np.zeros(3, int), np.arange(3), 1, "sar")
    # mean of -10, -30 and -30 dB in power is -14.69 dB, not -23.3; nor the median, -30
    assert to_db(out)[0, 0, 0] == pytest.approx(10 * np.log10(0.034), abs=1e-4)


def test_aggregate() -> None:
    fine = np.array([[1, 3, NAN, NAN], [NAN, 5, NAN, NAN]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coarse = aggregate(fine, 2)
    np.testing.assert_array_equal(coarse, np.array([[3, NAN]], np.float32))
    assert aggregate_count(np.array([[0, 3], [1, 2]], np.uint8), 2).tolist() == [[3]]
    assert aggregate(fine, 1) is fine


# --- features


def _card(*names: str) -> SensorCard:
    n = len(names)
    return SensorCard(names, (0.5,) * n, (0.25,) * n, "l2a", ("l2a",), (0, 12), (0.5, 0.9))


def test_indices_by_hand() -> None:
    x = np.array([[[0.05, 0.45, 0.2]]], np.float32)  # red, nir, swir
    got = features(x, ["B04", "B08", "B11"], ["ndvi", "ndwi", "nirv", "B04"])[0, 0]
    np.testing.assert_allclose(got, [0.8, 0.25 / 0.65, 0.45 * 0.8, 0.05], rtol=1e-6)
    same = features(x, ["red", "nir", "swir16"], ["ndvi", "ndwi", "nirv", "red"])[0, 0]
    np.testing.assert_array_equal(got, same)
    radar = features(np.array([[[-10, -17.5]]], np.float32), ["vv", "vh"], ["vh_vv"])
    assert radar[0, 0, 0] == -7.5


def test_indices_stay_in_range_and_keep_gaps() -> None:
    x = np.array([[[-0.02, 0.01]], [[0, 0]], [[NAN, NAN]]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = features(x, ["red", "nir"], ["ndvi"])[:, 0, 0]
    np.testing.assert_array_equal(got, np.array([-1, 0, NAN], np.float32))


def test_bands_needed() -> None:
    s2 = ("B02", "B04", "B08", "B11")
    assert bands_needed(["ndwi", "B02"], s2) == ("B02", "B08", "B11")
    assert bands_needed(["nirv"], ("blue", "red", "nir")) == ("red", "nir")
    assert bands_needed(["vh_vv"], ("vv", "vh")) == ("vv", "vh")
    for names, available in ((["ndvi"], ("vv",)), (["B99"], s2)):
        with pytest.raises(KeyError, match="no band or index"):
            bands_needed(names, available)


def test_model_input_by_hand() -> None:
    x = np.array([[[0.75], [NAN], [0.5]]], np.float32)  # (1, 3, 1)
    valid = np.array([[True, False, False]])
    months = np.array([parse_month("2020-12"), parse_month("2021-01"), parse_month("2021-04")])
    got = model_input(x, valid, months, ["B02"], _card("B02"))
    assert got.shape == (1, 3, 1 + len(CONTEXT))
    wanted = [
        [1, 1, np.sin(2 * np.pi * 11 / 12), np.cos(2 * np.pi * 11 / 12)],
        [0, 0, 0, 1],  # a gap is the mean and says so; January is angle 0
        [0, 0, 1, 0],  # a value that is not valid is a gap, too
    ]
    np.testing.assert_allclose(got[0], wanted, atol=1e-6)


def test_a_step_with_one_band_missing_is_a_gap() -> None:
    x = np.array([[[0.2, NAN]]], np.float32)
    got = model_input(x, np.array([[True]]), np.array([0]), ["B02", "B03"], _card("B02", "B03"))
    assert got[0, 0].tolist() == [0, 0, 0, 0, 1]


def test_cube_planes_row_by_row() -> None:
    grid = window((0, 0, 30, 20), 32631, 10)  # 3 x 2 pixels
    x = np.arange(2 * 4 * 2 * 3, dtype=np.float32).reshape(2, 4, 2, 3)
    count = np.zeros((2, 2, 3), np.uint8)
    count[1, 1, 2] = 3
    cube = Cube("s2", ("a", "b", "c", "d"), Timeline(24000, 2), grid, x, count)
    planes, valid = cube_planes(cube)
    assert planes.shape == (2, 4, 6)
    assert planes[..., 4].tolist() == x[:, :, 1, 1].tolist()
    assert np.argwhere(valid).tolist() == [[1, 5]]
