"""What is learned from: splits, tables, augmentation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.data.points import read_samples
from pipeline.learn.augment import Augmentation, Layout, thin
from pipeline.learn.splits import folds, hold_out, joined_groups
from pipeline.learn.table import S2_TO_OLI, stack, tensors
from pipeline.prep.features import features, model_input
from pipeline.spec.card import SensorCard
from pipeline.spec.errors import BadRequest
from pipeline.spec.sensors import SENSORS
from tests.support.samples import CROPLAND, simulate, table_of

torch.set_num_threads(1)  # tiny networks: more threads only wait for each other


# ---- splits


def test_folds_cut_no_group_and_cover_every_row_once():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 40, 500)
    strata = np.where(groups < 10, "small", "large")
    masks = folds(groups, strata, 5, rng)
    assert (np.sum(masks, axis=0) == 1).all()
    for test in masks:
        assert not set(groups[test]) & set(groups[~test])
        assert abs(test.sum() - 100) < 25
        assert abs((test & (strata == "small")).sum() - (strata == "small").sum() / 5) < 20


def test_folds_need_enough_groups():
    with pytest.raises(ValueError, match="3 groups cannot make 5 folds"):
        folds(np.arange(3), np.zeros(3), 5, np.random.default_rng(0))


def test_the_inner_split_is_of_whole_groups():
    groups = np.repeat(np.arange(20), 5)
    inner = folds(groups, np.zeros(100), 7, np.random.default_rng(0))[0]
    assert 10 <= inner.sum() <= 20
    assert not set(groups[inner]) & set(groups[~inner])


def test_groups_of_two_sets_at_one_place_become_one():
    names = np.array(["a", "a", "b", "b", "a"])
    groups = np.array(["1", "2", "1", "2", "3"])
    lon = np.array([4.001, 5.0, 4.002, 6.0, 5.001])  # a/1 and b/1 share a place; a/2, a/3 do, too
    got = joined_groups(names, groups, lon, np.full(5, 51.001))
    assert got[0] == got[2]
    # within one set its own groups rule: neighbours are not merged
    assert len(set(got)) == 4


def test_holding_out_a_set_takes_the_joined_groups_along():
    names = np.array(["a", "a", "b", "b"])
    (test,) = hold_out(names, np.array([0, 1, 0, 2]), ["b"])
    assert test.tolist() == [True, False, True, True]


# ---- augmentation

CARD = SensorCard(("vv", "vh", "vh_vv"), (-10.0, -17.0, -7.0), (3.0, 3.5, 2.0), "sigma0",
                  ("sigma0",), (12,), (0.0,))


def s1_input(n=64, seed=0):
    x = np.random.default_rng(seed).normal(-14, 3, (n, 12, 2)).astype(np.float32)
    x[:, ::5] = np.nan
    return x, torch.from_numpy(model_input(x, np.isfinite(x[..., 0]), np.arange(12), ("vv", "vh"),
                                           CARD))


def test_thinning_keeps_so_many_valid_steps_and_makes_true_gaps():
    _, x = s1_input()
    got = thin(x, x[..., 3] > 0, Layout.of(CARD), torch.full((64,), 4),
               torch.Generator().manual_seed(0))
    kept = got[..., 3] > 0
    assert (kept.sum(1) == 4).all()
    assert (x[..., 3][kept] == 1).all()
    assert torch.equal(got[..., :3][kept], x[..., :3][kept])
    assert (got[..., :3][~kept] == 0).all()
    assert torch.equal(got[..., 4:], x[..., 4:])  # the season stays


def test_thinning_to_more_steps_than_there_are_changes_nothing():
    _, x = s1_input()
    got = thin(x, x[..., 3] > 0, Layout.of(CARD), torch.full((64,), 12), torch.Generator())
    assert torch.equal(got, x)


def test_without_a_channel_for_it_a_gap_is_a_gap_all_the_same():
    raw, x = s1_input()
    paper = replace(CARD, context=())
    bare = torch.from_numpy(model_input(raw, np.isfinite(raw[..., 0]), np.arange(12),
                                        ("vv", "vh"), paper))
    assert bare.shape == (64, 12, 3)
    got = Augmentation.of("s1", paper, drop=1.0, jitter=True)(
        bare, x[..., 3] > 0, torch.Generator().manual_seed(0))
    assert (got[x[..., 3] == 0] == 0).all()
    assert ((got == 0).all(-1).sum(1) > (bare == 0).all(-1).sum(1)).any()


def test_place_is_withheld_as_a_whole_and_blurred_once_a_row():
    raw, _ = s1_input()
    card = replace(CARD, static=("elevation", "slope"), static_mean=(0.0, 0.0),
                   static_std=(1.0, 1.0))
    place = np.ones((64, 2), np.float32)
    place[:8] = np.nan
    x = torch.from_numpy(model_input(raw, np.isfinite(raw[..., 0]), np.arange(12), ("vv", "vh"),
                                     card, place))
    got = Augmentation.of("s1", card, drop=0.0, jitter=False, hide=0.5, blur=0.3)(
        x, x[..., 3] > 0, torch.Generator().manual_seed(0))
    assert torch.equal(got[..., :6], x[..., :6])
    assert torch.equal(got, got[:, :1].expand_as(got).where(torch.arange(9) > 5, got))
    known = got[:, 0, 8] > 0
    assert not known[:8].any()
    assert (got[~known][..., 6:] == 0).all()  # unknown stays unknown, whatever the noise
    assert 10 < known[8:].sum() < 46
    assert (got[known][:, 0, 6:8] - 1).std() == pytest.approx(0.3, rel=0.3)


def test_a_level_shift_is_what_shifted_decibels_would_have_become():
    raw, x = s1_input(8)
    augment = Augmentation.of("s1", CARD, drop=0.0, jitter=True)
    got = augment(x, x[..., 3] > 0, torch.Generator().manual_seed(3))
    u = 2 * torch.rand((8, 1, 1), generator=torch.Generator().manual_seed(3)) - 1
    moved = (raw + 1.5 * u.numpy()).astype(np.float32)
    want = model_input(moved, np.isfinite(raw[..., 0]), np.arange(12), ("vv", "vh"), CARD)
    np.testing.assert_allclose(got.numpy(), want, atol=1e-5)
    assert np.abs(got.numpy() - x.numpy()).max() > 0.1


def test_a_gain_is_what_brighter_reflectance_would_have_become():
    names = CROPLAND.features["l8"]
    card = SensorCard(names, (0.1, 0.12, 0.1, 0.3, 0.2, 0.15, 0.5, 0.1), (0.05,) * 8,
                      "landsat-c1-sr", ("landsat-c1-sr",), (12,), (0.0,))
    raw = np.random.default_rng(0).uniform(0.05, 0.5, (8, 12, 6)).astype(np.float32)
    raw[:, 3] = np.nan
    valid, bands = np.isfinite(raw[..., 0]), SENSORS["l8"].band_names
    x = torch.from_numpy(model_input(raw, valid, np.arange(12), bands, card))
    got = Augmentation.of("l8", card, drop=0.0, jitter=True)(
        x, torch.from_numpy(valid), torch.Generator().manual_seed(3))
    u = 2 * torch.rand((8, 1, 1), generator=torch.Generator().manual_seed(3)) - 1
    moved = (raw * (1 + 0.05 * u.numpy())).astype(np.float32)
    np.testing.assert_allclose(got.numpy(), model_input(moved, valid, np.arange(12), bands, card),
                               atol=1e-4)


def test_augmentation_may_be_off():
    _, x = s1_input()
    off = Augmentation.of("s1", CARD, drop=0.0, jitter=False)
    seen = x[..., 3] > 0
    assert torch.equal(off(x, seen, torch.Generator()), x)
    lossy = Augmentation.of("s1", CARD, drop=1.0, jitter=False)(x, seen, torch.Generator())
    steps = lossy[..., 3].sum(1)
    assert (steps >= 1).all()
    assert steps.mean() < x[..., 3].sum(1).mean() - 2


# ---- table


def test_the_normaliser_sees_training_rows_only(tmp_path):
    table = table_of(simulate(tmp_path))
    rows = table.groups % 2 == 0
    data = tensors(table, rows)
    raw = features(table.series["s1"][0], table.bands["s1"], CROPLAND.features["s1"])[rows]
    np.testing.assert_allclose(data.cards["s1"].mean, np.nanmean(raw, (0, 1)), rtol=1e-5)
    np.testing.assert_allclose(data.cards["s1"].std, np.nanstd(raw, (0, 1)), rtol=1e-4)
    share = np.bincount(table.target[rows]) / rows.sum()
    np.testing.assert_allclose(data.class_weights.numpy(), 1 / (2 * share), rtol=1e-5)


def test_sets_without_a_sensor_have_gaps_there(tmp_path):
    both = read_samples(simulate(tmp_path / "a", name="a"), CROPLAND)
    s1 = read_samples(simulate(tmp_path / "b", sensors=("s1",), name="b"), CROPLAND)
    table = stack([both, s1], CROPLAND, ("s1", "s2"))
    data = tensors(table, np.ones(240, bool))
    assert data.present.sum(0).tolist() == [240, 120]
    assert (data.inputs["s2"][120:, :, :11] == 0).all()
    with pytest.raises(BadRequest, match="no sample set has the sensor"):
        stack([s1], CROPLAND, ("l8",))


def test_landsat_derived_from_sentinel_is_trained_on_but_not_scored(tmp_path):
    real = read_samples(simulate(tmp_path / "a", sensors=("s2", "l8"), name="a"), CROPLAND)
    s2 = read_samples(simulate(tmp_path / "b", sensors=("s2",), name="b"), CROPLAND)
    table = stack([real, s2], CROPLAND, ("s2", "l8"), derive_l8=True)
    assert table.derived["l8"].tolist() == [False] * 120 + [True] * 120
    assert not table.scored("l8")[120:].any()
    assert table.scored("l8")[:120].all()
    x = table.series["l8"][0][120:]
    b4 = s2.series["s2"][0][..., s2.bands["s2"].index("B04")]
    band, slope, offset = S2_TO_OLI["red"]
    assert (band, slope, offset) == ("B04", 0.9765, 0.0009)
    np.testing.assert_allclose(x[..., table.bands["l8"].index("red")], slope * b4 + offset,
                               rtol=1e-6)
    np.testing.assert_array_equal(table.series["l8"][0][:120], real.series["l8"][0])
