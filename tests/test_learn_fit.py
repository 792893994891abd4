"""How it is learned and scored: metrics, batches, the training loop."""

import numpy as np
import pytest
import torch

import models
from pipeline.data.points import read_samples
from pipeline.learn.fit import Settings, _batches, _windows, arrays, fit, predict_from, rates
from pipeline.learn.metrics import decide, fit_temperature, r2, scores
from pipeline.learn.outcomes import Evaluation, Outcome
from pipeline.learn.table import stack, tensors
from tests.support.samples import CROPLAND, LFMC, simulate, table_of

torch.set_num_threads(1)  # tiny networks: more threads only wait for each other


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


# ---- batches


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
