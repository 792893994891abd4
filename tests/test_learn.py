"""Splits, augmentation, metrics, the training loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import models
from pipeline.data.points import read_samples
from pipeline.learn.augment import Augmentation, Layout, thin
from pipeline.learn.fit import Settings, _batches, _windows, arrays, fit, predict_from, rates
from pipeline.learn.metrics import decide, fit_temperature, r2, scores
from pipeline.learn.outcomes import Evaluation, Outcome
from pipeline.learn.splits import folds, hold_out, joined_groups
from pipeline.learn.table import S2_TO_OLI, stack, tensors
from pipeline.prep.features import features, model_input
from pipeline.spec.card import SensorCard
from pipeline.spec.errors import BadRequest
from pipeline.spec.sensors import SENSORS
from tests.support.samples import CROPLAND, LFMC, simulate, table_of

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


# ---- metrics


def test_scores_of_a_classification():
    got = scores(CROPLAND, np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
    # F1 of class 0: 2*1*(2/3)/(1+2/3) = 0.8; of class 1: 2/3; weighted 3:1
    assert got["weighted F1"] == pytest.approx(0.75 * 0.8 + 0.25 * 2 / 3)
    assert got["accuracy"] == 0.75


def test_scores_of_a_regression():
    target, output = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.0])
    assert r2(target, output) == pytest.approx(1 - 1 / 2)
    assert scores(LFMC, target, output)["RMSE"] == pytest.approx(np.sqrt(1 / 3))


def test_values_are_given_in_their_unit_and_range():
    got = decide(LFMC, np.array([[0.0], [1.0], [99.0]]), 100.0, 20.0)
    assert got.tolist() == [100.0, 120.0, 400.0]


def test_temperature_recovers_how_overconfident_logits_are():
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1.5, 20000)
    target = (rng.random(20000) < 1 / (1 + np.exp(-true))).astype(int)
    logits = np.stack([np.zeros_like(true), 3 * true], 1)
    assert fit_temperature(logits, target) == pytest.approx(3, rel=0.1)


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


def test_equal_ids_of_two_sets_are_two_samples(tmp_path):
    sets = [read_samples(simulate(tmp_path / k, name="same", seed=n), CROPLAND)
            for n, k in enumerate("ab")]
    table = stack(sets, CROPLAND, ("s1",))
    assert len(np.unique(table.sample)) == 240
    first, count = _windows(table.sample, np.ones(240, bool))
    assert sorted(first.tolist()) == list(range(240))
    assert count.tolist() == [1] * 240


def test_the_rows_of_a_sample_must_be_neighbours():
    first, count = _windows(np.array([7, 7, 3, 3, 3]), np.array([True, True, False, True, True]))
    assert (first.tolist(), count.tolist()) == ([3, 0], [2, 2])
    with pytest.raises(ValueError, match="not neighbours"):
        _windows(np.array([0, 1, 0, 1]), np.ones(4, bool))


@pytest.mark.parametrize(("rows", "size"), [(5, 2), (7, 3), (129, 128), (190, 128), (2, 8)])
def test_no_batch_is_of_a_single_row(rows, size):
    sizes = [len(b) for b in _batches(torch.arange(rows), size)]
    assert min(sizes) >= 2
    assert sum(sizes) > rows - max(size // 2, 2)


# ---- training


def train(table, data, rows, validate, seed, **settings):
    """A tiny MDiCo, trained on ``rows``."""
    torch.manual_seed(seed)
    module = models.build("mdico", "tempcnn", {
        "sensors": {k: x.shape[2] for k, x in data.inputs.items()}, "steps": 12, "outputs": 2,
        "width": 8, "dense": 8, "features": 8})
    settings = {"batch": 32, "lr": 0.01, **settings}
    return fit(module, data, table.sample, rows, validate, Settings(**settings), seed)


def test_training_is_deterministic_and_learns(tmp_path):
    table = table_of(simulate(tmp_path))
    everything = np.ones(len(table.sample), bool)
    data = tensors(table, everything)
    made = [train(table, data, everything, None, 3, epochs=8) for _ in range(2)]
    first, second = (arrays(f.module) for f in made)
    assert all(np.array_equal(first[k], second[k]) for k in first)
    for sensor in table.sensors:
        raw = predict_from(made[0].module, sensor, data.inputs[sensor]).numpy()
        assert (raw.argmax(1) == table.target).mean() > 0.9
    assert len(made[0].history["total"]) == 8
    assert made[0].history["total"][-1] < made[0].history["total"][0]


def test_stopping_ends_with_the_best_epochs_weights(tmp_path):
    table = table_of(simulate(tmp_path))
    validate = table.groups % 4 == 0
    data = tensors(table, ~validate)
    plain = {"drop": 0.0, "jitter": False}
    stopped = train(table, data, ~validate, validate, 0, epochs=12, patience=3, **plain)
    again = train(table, data, ~validate, None, 0, epochs=stopped.epochs, **plain)
    for key, value in arrays(stopped.module).items():
        np.testing.assert_array_equal(value, arrays(again.module)[key])
    assert stopped.loss == min(stopped.history["validation"])


def test_without_patience_the_last_weights_are_kept(tmp_path):
    table = table_of(simulate(tmp_path))
    validate = table.groups % 4 == 0
    data = tensors(table, ~validate)
    plain = {"drop": 0.0, "jitter": False, "epochs": 4, "patience": 0}
    watched = train(table, data, ~validate, validate, 0, **plain)
    blind = train(table, data, ~validate, None, 0, **plain)
    assert len(watched.history["validation"]) == 4
    for key, value in arrays(watched.module).items():
        np.testing.assert_array_equal(value, arrays(blind.module)[key])


def test_averaged_weights_are_the_moving_mean_of_the_steps(tmp_path):
    table = table_of(simulate(tmp_path))
    everything = np.ones(len(table.sample), bool)
    data = tensors(table, everything)
    steps = 3  # of 120 rows in batches of 40
    plain = {"drop": 0.0, "jitter": False, "epochs": 1, "batch": 40}
    mean = train(table, data, everything, None, 0, ema=0.9, **plain)
    last = train(table, data, everything, None, 0, **plain)
    a, b = arrays(mean.module), arrays(last.module)
    name = next(k for k in a if k.endswith("weight"))
    assert steps * 40 == len(table.sample)
    assert not np.array_equal(a[name], b[name])
    assert np.abs(a[name] - b[name]).max() < 0.1


def test_the_cycle_rises_and_falls_to_nothing():
    rate = rates("cycle", 100)
    assert rate(0) == pytest.approx(0.1)
    assert rate(9) == pytest.approx(1)
    assert rate(55) == pytest.approx(0.5)
    assert rate(100) == pytest.approx(0)


def test_soft_targets_are_drawn_as_often_as_they_are_likely(tmp_path):
    table = table_of(simulate(tmp_path))
    everything = np.ones(len(table.sample), bool)
    data = tensors(table, everything)
    torch.manual_seed(0)
    module = models.build("individual", "mlp", {
        "sensors": {"s1": 6, "s2": data.inputs["s2"].shape[2]}, "steps": 12, "outputs": 2})
    wrong = torch.eye(2)[1 - torch.from_numpy(table.target)]  # certain, and the other class
    fit(module, data, table.sample, everything, None,
        Settings(epochs=6, batch=32, lr=0.01, drop=0.0, jitter=False), 0, wrong)
    raw = predict_from(module, "s2", data.inputs["s2"]).numpy()
    assert (raw.argmax(1) == 1 - table.target).mean() > 0.9


def test_rows_that_share_no_sensor_are_no_batch(tmp_path):
    s1 = read_samples(simulate(tmp_path / "a", 20, sensors=("s1",), name="a"), CROPLAND)
    s2 = read_samples(simulate(tmp_path / "b", 21, sensors=("s2",), name="b"), CROPLAND)
    table = stack([s1, s2], CROPLAND, ("s1", "s2"))
    everything = np.ones(41, bool)
    fitted = train(table, tensors(table, everything), everything, None, 0, epochs=2, batch=2)
    assert all(np.isfinite(a).all() for a in arrays(fitted.module).values())


def outcome(sensor, rows, right):
    """A held-out outcome with so many of its rows right (targets are all 1)."""
    value = (np.arange(len(rows)) < right).astype(int)
    return Outcome("mdico", sensor, 0, np.asarray(rows), value, np.empty((0, 0)))


def test_a_sensor_scored_on_easy_samples_only_is_told_apart():
    result = Evaluation(CROPLAND, np.ones(100, int), np.full(100, "set"))
    # s2 is right on the first 60 samples, hence on all of the 40 that l8 has
    result.outcomes = [outcome("s2", np.arange(100), 60), outcome("l8", np.arange(40), 36)]
    f1_all, f1_easy = 2 * 0.6 / 1.6, 1.0
    assert result.advantage("mdico", "l8") == pytest.approx(f1_easy - f1_all)
    assert result.advantage("mdico", "s2") == 0
