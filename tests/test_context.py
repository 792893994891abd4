"""Season and place as model input: legends, slope, shares, cards, sample columns."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.data.place_columns import place_columns
from pipeline.data.points import read_samples
from pipeline.data.sample_set import KNOWN_SETS, KnownSet, SampleSet
from pipeline.data.signing import signed
from pipeline.prep.features import features, model_input
from pipeline.prep.place import halo_px, place_rows, shares, slope, terrain
from pipeline.spec.card import CheckpointCard, SensorCard
from pipeline.spec.context import (
    CONTEXT,
    GLOBCOVER,
    GROUPS,
    LAYERS,
    PLACE,
    WORLDCOVER,
    layers_needed,
)
from pipeline.spec.errors import BadRequest, DataTrouble
from pipeline.spec.tasks import CROPLAND, LFMC, TASKS
from tests.support.toy import toy_card

NAN = np.float32(np.nan)


# --- names and legends


def test_what_a_task_may_use_a_map_can_fetch() -> None:
    for task in TASKS.values():
        assert all(PLACE[name].layer in (*LAYERS, "grid") for name in task.static)
        # cells that slope is computed from are centred on the map pixel
        assert task.slope_m % task.read_m == 0
        assert (task.slope_m // task.read_m) % 2 == task.aggregate % 2 == 1
    assert layers_needed(LFMC.static) == ("dem", "landcover")
    assert layers_needed(("lon", "canopy_height")) == ()


@pytest.mark.parametrize("legend", [WORLDCOVER, GLOBCOVER])
def test_every_code_is_shared_out_completely(legend) -> None:
    for code, groups in legend.items():
        assert set(groups) <= set(GROUPS), code
        assert sum(groups.values()) == pytest.approx(1), code
    assert {g for groups in legend.values() for g in groups} == set(GROUPS)


def test_legends_by_hand() -> None:
    assert sorted(WORLDCOVER) == [10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100]
    assert 0 not in WORLDCOVER  # nodata
    assert 230 not in GLOBCOVER
    assert WORLDCOVER[95] == GLOBCOVER[170] == {"tree": 1.0}  # mangroves
    assert GLOBCOVER[20]["crop"] > 0.5 > GLOBCOVER[30]["crop"]  # mosaics: cropland first or second
    assert GLOBCOVER[110]["herb"] == GLOBCOVER[120]["tree"] * 2 == pytest.approx(0.4)


# --- elevation and slope


def test_slope_is_horns_of_cells_around_the_pixel() -> None:
    """Cells of 950 m with whole-metre elevations, and Horn's formula with its nine letters."""
    a, b, c, d, e, f, g, h, i = heights = (310, 325, 402, 298, 340, 371, 260, 305, 333)
    side = LFMC.slope_m // LFMC.read_m
    n = (2 * halo_px(LFMC) + 1) * LFMC.aggregate  # one map pixel and its halo
    dem = np.full((n, n), NAN)
    first = n // 2 - side - side // 2
    for k, height in enumerate(heights):
        row, col = first + (k // 3) * side, first + (k % 3) * side
        dem[row : row + side, col : col + side] = height
    dx = ((c + 2 * f + i) - (a + 2 * d + g)) / (8 * 950)
    dy = ((g + 2 * h + i) - (a + 2 * b + c)) / (8 * 950)
    want = math.degrees(math.atan(math.hypot(dx, dy)))
    got = terrain(dem, LFMC)
    assert got["slope"].shape == (1, 1)
    assert got["slope"][0, 0] == pytest.approx(want, rel=1e-6)
    assert got["elevation"][0, 0] == e


@pytest.mark.parametrize("task", [LFMC, CROPLAND])
def test_a_plane_has_its_slope_everywhere(task) -> None:
    n = (4 + 2 * halo_px(task)) * task.aggregate
    row, col = np.mgrid[:n, :n] * task.read_m
    dem = (1000 + 0.03 * col - 0.04 * row).astype(np.float32)
    got = terrain(dem, task)
    np.testing.assert_allclose(got["slope"], math.degrees(math.atan(0.05)), rtol=1e-4)
    rim = halo_px(task) * task.aggregate
    first = dem[rim : rim + task.aggregate, rim : rim + task.aggregate]
    assert got["elevation"][0, 0] == pytest.approx(first.mean(), rel=1e-6)
    assert got["slope"].shape == got["elevation"].shape == (4, 4)


def two_squares(n: int) -> bool:
    return any(math.isqrt(n - k * k) ** 2 == n - k * k for k in range(math.isqrt(n) + 1))


@pytest.mark.real
def test_the_label_sets_slopes_are_horns_at_that_scale(shared: Path) -> None:
    """(8 d tan slope)^2 is a sum of two squared whole numbers, for d = 950.47 m."""
    folder = shared / "points/lfmc"
    table = pd.read_parquet(folder / "samples.parquet")
    assert (table.elevation == table.elevation.round()).all()
    square = np.unique((8 * 950.47 * np.tan(np.radians(table.slope.to_numpy(np.float64)))) ** 2)
    # beyond, float32 does not resolve whole numbers any more
    square = square[square < 2e5]
    whole = np.round(square).astype(int)
    assert len(whole) > 80
    np.testing.assert_allclose(square, whole, atol=0.2)
    assert all(two_squares(int(n)) for n in whole)
    assert not all(two_squares(n) for n in range(100, 120))
    assert abs(LFMC.slope_m - 950.47) < LFMC.read_m / 2


def test_voids_are_unknown_and_never_zero() -> None:
    n = (4 + 2 * halo_px(CROPLAND)) * CROPLAND.aggregate
    rim = halo_px(CROPLAND)
    for fill in (NAN, np.float32(-32767), np.float32(-9999), np.float32(3.4e38)):
        dem = np.full((n, n), np.float32(100))
        dem[rim, rim] = fill
        got = terrain(dem, CROPLAND)
        assert np.isnan(got["elevation"][0, 0])
        assert np.isfinite(got["elevation"]).sum() == 15
        assert (got["slope"] == 0).all()  # one void of 81 read pixels: the cell is known
        dem[rim - 4 : rim + 5, rim + 5 : rim + 14] = fill  # a whole cell east of the first pixel
        assert np.isnan(slope(np.where(dem == 100, dem, NAN), CROPLAND)[0, 0])
    empty = terrain(np.full((n, n), NAN), CROPLAND)
    assert np.isnan(empty["slope"]).all()
    assert np.isnan(empty["elevation"]).all()


def test_half_a_pixel_of_voids_leaves_the_mean_of_the_rest() -> None:
    n = (1 + 2 * halo_px(LFMC)) * LFMC.aggregate
    dem = np.full((n, n), np.float32(200))
    dem[:, n // 2 :] = NAN
    assert terrain(dem, LFMC)["elevation"][0, 0] == 200


def test_shares_by_hand() -> None:
    codes = np.array([[10, 10, 40, 95], [20, NAN, 0, 77]], np.float32)
    got = shares(codes, 2)
    assert set(got) == set(GROUPS)
    one = {k: v[0].tolist() for k, v in got.items()}
    assert one["tree"] == pytest.approx([2 / 3, 0.5])  # 0 and 77 are no classes: not counted
    assert one["shrub"] == pytest.approx([1 / 3, 0])
    assert one["crop"] == [0, 0.5]
    total = np.sum(list(got.values()), axis=0)
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    assert np.isnan(shares(np.full((2, 2), NAN), 2)["tree"]).all()
    mosaic = shares(np.full((1, 1), np.float32(20)), 1, GLOBCOVER)
    assert mosaic["crop"][0, 0] == np.float32(0.6)


# --- cards and model input


def entry(**changes) -> SensorCard:
    plain = SensorCard(("vv", "vh"), (-11.0, -18.0), (4.0, 4.0), "sigma0", ("sigma0",), (0, 4),
                       (0.1, 0.5))
    return dataclasses.replace(plain, **changes)


PLACED = {"static": ("elevation", "tree"), "static_mean": (1000.0, 0.5),
          "static_std": (500.0, 0.25)}


def series(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    x = rng.normal(-14, 4, (n, 4, 2)).astype(np.float32)
    x[rng.random((n, 4)) < 0.2] = np.nan
    return x, np.isfinite(x).all(-1), 24000 + np.arange(4)


def test_without_place_the_input_is_the_old_one_to_the_bit() -> None:
    x, valid, months = series(50)
    card = entry()
    raw = features(x, ("vv", "vh"), card.features)
    z = (raw - np.asarray(card.mean, np.float32)) / np.asarray(card.std, np.float32)
    angle = 2 * np.pi * (months % 12) / 12
    season = np.stack([np.sin(angle), np.cos(angle)], -1).astype(np.float32)
    old = np.concatenate([np.where(valid[..., None], z, np.float32(0)),
                          valid[..., None].astype(np.float32),
                          np.broadcast_to(season, (50, 4, 2))], axis=-1)
    np.testing.assert_array_equal(model_input(x, valid, months, ("vv", "vh"), card), old)
    none = model_input(x, valid, months, ("vv", "vh"), entry(context=()))
    np.testing.assert_array_equal(none, old[..., :2])
    some = model_input(x, valid, months, ("vv", "vh"), entry(context=("month_cos", "valid")))
    np.testing.assert_array_equal(some, old[..., [0, 1, 4, 2]])


def test_place_by_hand() -> None:
    x, valid, months = series(3)
    card = entry(**PLACED)
    place = np.array([[1500, 0.25], [1000, NAN], [NAN, NAN]], np.float32)
    got = model_input(x, valid, months, ("vv", "vh"), card, place)
    assert got.shape[-1] == card.channels == 2 + 3 + 2 + 1
    assert got[0, :, 5:].tolist() == [[1, -1, 1]] * 4
    # half known is unknown: a model knows one flag for the place
    assert not got[1:, :, 5:].any()
    plain = model_input(x, valid, months, ("vv", "vh"), entry())
    np.testing.assert_array_equal(got[..., :5], plain)
    unknown = model_input(x, valid, months, ("vv", "vh"), card)
    assert not unknown[..., 5:].any()
    assert entry(context=()).channels == 2


def test_place_rows_are_in_the_cards_order() -> None:
    grid = {"tree": np.array([[1, 2], [3, 4]], np.float32),
            "elevation": np.array([[10, 20], [30, 40]], np.float32)}
    got = place_rows(grid, ("elevation", "slope", "tree"), 4)
    assert got.dtype == np.float32
    assert got[:, 0].tolist() == [10, 20, 30, 40]
    assert got[:, 2].tolist() == [1, 2, 3, 4]
    assert np.isnan(got[:, 1]).all()


def test_old_cards_load_and_new_ones_come_back() -> None:
    card = toy_card(LFMC)
    raw = json.loads(json.dumps(card.to_json()))
    for fields in raw["sensors"].values():
        for name in ("context", "static", "static_mean", "static_std"):
            del fields[name]
    assert CheckpointCard.from_json(raw) == card
    assert card.sensors["s1"].context == CONTEXT
    placed = dataclasses.replace(
        card, sensors={k: dataclasses.replace(v, **PLACED) for k, v in card.sensors.items()})
    assert CheckpointCard.from_json(json.loads(json.dumps(placed.to_json()))) == placed


@pytest.mark.parametrize(("changes", "says"), [
    ({"context": ["valid", "weather"]}, "weather"),
    ({"static": ["height"], "static_mean": [0.0], "static_std": [1.0]}, "height"),
    ({"static": ["slope"]}, "do not fit its 1 place features"),
    ({"static": ["slope"], "static_mean": [0.0], "static_std": [0.0]}, "not finite and positive"),
    ({"static": ["slope"], "static_mean": [math.inf], "static_std": [1.0]},
     "static_mean"),
])
def test_a_card_with_other_inputs_is_refused(changes, says) -> None:
    raw = json.loads(json.dumps(toy_card(LFMC).to_json()))
    raw["sensors"]["s1"] |= changes
    with pytest.raises(BadRequest, match=says):
        CheckpointCard.from_json(raw)


# --- samples


def test_columns_of_samples(tmp_path: Path) -> None:
    table = pd.DataFrame({"crop": [1, 0], "static_crop": [0.25, None],
                          "static_canopy_height": [12, math.inf], "static_weather": [1, 2]})
    got = place_columns(table, KnownSet("x", {}), tmp_path)
    assert set(got) == {"crop", "canopy_height"}
    np.testing.assert_array_equal(got["crop"], np.array([0.25, np.nan], np.float32))
    np.testing.assert_array_equal(got["canopy_height"], np.array([12, np.nan], np.float32))
    with pytest.raises(DataTrouble, match=r"static_slope.*does not hold numbers"):
        place_columns(pd.DataFrame({"static_slope": ["steep"]}), KnownSet("x", {}), tmp_path)


def test_codes_of_a_published_set_become_shares(tmp_path: Path) -> None:
    table = pd.DataFrame({"elevation": [5, 6, 7], "forest_cover": [70, 20, 230]})
    got = place_columns(table, KNOWN_SETS["lfmc"], tmp_path)
    assert got["elevation"].tolist() == [5, 6, 7]
    assert got["tree"][:2].tolist() == pytest.approx([1, 0.4 / 3])
    assert all(np.isnan(got[g][2]) for g in GROUPS)


@pytest.mark.real
def test_the_lfmc_set_knows_its_places(shared: Path) -> None:
    got = read_samples(shared / "points/lfmc", LFMC)
    assert {*LFMC.static, "canopy_height"} <= set(got.context)
    for name, column in got.context.items():
        assert np.isfinite(column).all(), name
    np.testing.assert_allclose(sum(got.context[g] for g in GROUPS), 1, rtol=1e-6)
    assert 0 <= got.context["slope"].min() < got.context["slope"].max() < 12


def test_a_set_refuses_columns_of_another_shape() -> None:
    n = 2
    plain = {
        "name": "x", "licence": "", "task": "lfmc", "ids": np.arange(n), "lon": np.zeros(n),
        "lat": np.zeros(n), "target": np.zeros(n), "groups": np.array(["a", "b"]),
        "months": np.zeros((n, 4), int), "primary": np.ones(n, bool), "series": {}, "bands": {},
        "radiometry": {},
    }
    good = SampleSet(**plain, context={"slope": np.zeros(n, np.float32)})
    assert good.context["slope"].shape == (2,)
    for bad in ({"slope": np.zeros(3, np.float32)}, {"slope": np.zeros(n)},
                {"weather": np.zeros(n, np.float32)}):
        with pytest.raises(ValueError, match="context"):
            SampleSet(**plain, context=bad)


def test_open_buckets_need_no_account() -> None:
    assert signed("s3://copernicus-dem-30m/a/b.tif", "planetary-computer") == (
        "https://copernicus-dem-30m.s3.amazonaws.com/a/b.tif")
    assert signed("s3://usgs-landsat/a.tif", "") == "s3://usgs-landsat/a.tif"
