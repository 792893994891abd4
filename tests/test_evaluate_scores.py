"""Scores of an evaluation: all sensors together, calibration, and what they are of."""

import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, r2_score, root_mean_squared_error

from pipeline.learn.cell import Cell, Found, Split
from pipeline.learn.fit import FUSED
from pipeline.learn.metrics import fit_temperature
from pipeline.learn.recipe import parse_row
from pipeline.learn.reliability import reliability
from pipeline.learn.report.scoring import COLUMNS, Done, tidy, together
from pipeline.learn.report.temperatures import with_temperatures
from pipeline.spec.tasks import task

LFMC, CROPLAND = task("lfmc"), task("cropland")


def test_values_of_two_sensors_are_averaged_where_both_have_one():
    one = Found(np.array([3, 5, 9]), np.array([80.0, 90, 100]), np.array([[80.0], [90], [100]]))
    two = Found(np.array([5, 9, 11]), np.array([110.0, 90, 70]), np.array([[110.0], [90], [70]]))
    found = together(Cell({"s1": one, "l8": two}, {}, 1, 1), LFMC)["all"]
    assert found.rows.tolist() == [5, 9]
    np.testing.assert_allclose(found.value, [100, 95])


def test_probabilities_of_two_sensors_meet_in_the_middle_of_their_logarithms():
    # 0.9 and, at temperature 2, 0.8 of the other class: odds sqrt(9 / 4) = 1.5
    one = Found(np.array([0]), np.array([1]), np.log([[0.1, 0.9]]))
    two = Found(np.array([0]), np.array([0]), 2 * np.log([[0.8, 0.2]]))
    found = together(Cell({"s1": one, "s2": two}, {}, 1, 1, {"s1": 1.0, "s2": 2.0}),
                     CROPLAND)["all"]
    assert found.value.tolist() == [1]
    p = np.exp(found.raw[0]) / np.exp(found.raw[0]).sum()
    np.testing.assert_allclose(p, [0.4, 0.6])


def test_one_sensor_or_a_fusion_reference_is_left_as_it_is():
    one = Found(np.array([0]), np.array([1]), np.log([[0.1, 0.9]]))
    assert together(Cell({"s1": one}, {}, 1, 1), CROPLAND) == {}
    assert together(Cell({"s1": one, "s2": one, "all": one}, {}, 1, 1), CROPLAND) == {}


def test_the_expected_calibration_error_of_a_worked_example():
    # two bins: three predictions of confidence 0.9 of which two are right, one of 0.6, wrong
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    r = reliability(np.log(p), np.array([0, 1, 1, 1]))
    np.testing.assert_allclose(r.confidence, [0.6, 0.9])
    np.testing.assert_allclose(r.accuracy, [0, 2 / 3])
    assert r.count.tolist() == [1, 3]
    assert r.ece == pytest.approx((1 * 0.6 + 3 * (0.9 - 2 / 3)) / 4)


def test_temperature_changes_confidence_only_and_certainty_falls_into_the_last_bin():
    logits = np.array([[800.0, 0], [0, 4]])
    y = np.array([0, 0])
    sharp, soft = reliability(logits, y), reliability(logits, y, 4.0)
    assert sharp.count.tolist() == [2]  # 1.0 and 0.982 lie in the last of 15 bins
    assert sharp.confidence[0] == pytest.approx((1 + 1 / (1 + math.exp(-4))) / 2)
    assert soft.count.tolist() == [1, 1]
    assert soft.confidence[0] == pytest.approx(1 / (1 + math.exp(-1)))
    assert soft.accuracy.tolist() == [0, 1]
    each = reliability(logits, y, np.array([1.0, 4.0]))
    assert each.confidence.tolist() == soft.confidence.tolist()


def test_calibrated_predictions_have_no_calibration_error():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 40_000)
    right = rng.random(40_000) < p
    logits = np.log(np.stack([p, 1 - p], 1))
    assert reliability(logits, np.where(right, 0, 1)).ece < 0.01
    assert reliability(2 * logits, np.where(right, 0, 1)).ece > 0.05
    assert reliability(2 * logits, np.where(right, 0, 1), 2.0).ece < 0.01


def done(row, seed, fold, found, share=1.0, temperature=None, train=None):
    nothing = np.zeros(0, bool)
    train = nothing if train is None else train
    return Done(parse_row(row), Split(seed, fold, 2, train, nothing, "site"), share,
                Cell(found, {}, 7.0, 1.5, temperature or {}))


def test_regression_scores_are_those_of_scikit_learn_per_fold_and_pooled():
    rng = np.random.default_rng(0)
    y = rng.normal(100, 30, 60)
    said = y + rng.normal(0, 20, 60)
    parts = [np.arange(20), np.arange(20, 60)]
    cells = [done("mdico+season", 0, k, {"s1": Found(p, said[p], said[p, None])})
             for k, p in enumerate(parts)]
    frame = tidy(cells, LFMC, y, "toy", "site")
    assert tuple(frame.columns) == COLUMNS
    at = frame.set_index(["metric", "fold"]).value
    for k, p in enumerate(parts):
        assert at["R2", k] == pytest.approx(r2_score(y[p], said[p]))
        assert at["RMSE", k] == pytest.approx(root_mean_squared_error(y[p], said[p]))
    pooled = frame[frame.metric == "pooled R2"]
    assert pooled.value.item() == pytest.approx(r2_score(y, said))
    assert pooled.fold.isna().all()
    first = frame.iloc[0]
    assert (first.method, first.switches, first.encoder, first.sensor) == (
        "mdico", "season", "tempcnn", "s1")
    assert (first.n, first.epochs, first.cpu_seconds) == (20, 7.0, 1.5)


def test_class_scores_and_calibration_before_and_after():
    rng = np.random.default_rng(0)
    y = (rng.random(50) < 0.3).astype(int)
    logits = rng.normal(size=(50, 2))
    found = Found(np.arange(50), logits.argmax(1), logits)
    frame = tidy([done("mdico", 0, 0, {"s1": found}, temperature={"s1": 2.0})], CROPLAND, y,
                 "toy", "site")
    at = frame.set_index("metric").value
    assert at["weighted F1"] == pytest.approx(f1_score(y, found.value, average="weighted"))
    assert at["accuracy"] == pytest.approx(accuracy_score(y, found.value))
    assert at["ECE"] == pytest.approx(reliability(logits, y).ece)
    assert at["ECE, temperature"] == pytest.approx(reliability(logits, y, 2.0).ece)


def test_multi_label_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    y = (rng.random((40, 3)) < 0.4).astype(float)
    said = np.where(rng.random((40, 3)) < 0.8, y, 1 - y).astype(np.int64)
    trees = replace(CROPLAND, kind="multilabel", classes=CROPLAND.classes * 2)
    found = Found(np.arange(40), said, 4.0 * said - 2)
    frame = tidy([done("mdico", 0, 0, {"s2": found})], trees, y, "toy", "paper")
    at = frame.set_index("metric").value
    assert at["weighted F1"] == pytest.approx(f1_score(y, said, average="weighted"))


def test_sensors_together_are_calibrated_where_each_of_them_is():
    y = np.arange(20) % 2
    found = Found(np.arange(20), y, np.log(np.eye(2)[y] * 0.8 + 0.1))
    for temperature, name in (({}, "ECE"), ({"s1": 1.0}, "ECE"),
                              ({"s1": 1.0, "s2": 2.0}, "ECE, temperature")):
        one = done("mdico", 0, 0, {"s1": found, "s2": found}, temperature=temperature)
        frame = tidy([one], CROPLAND, y, "toy", "site")
        fused = set(frame.metric[frame.sensor == "all"])
        assert {m for m in fused if m.startswith("ECE")} == {name}


def test_what_no_inner_split_gives_a_temperature_has_one_from_the_other_folds():
    rng = np.random.default_rng(0)
    y = (rng.random(60) < 0.4).astype(int)
    said = 1.5 * rng.normal(size=(60, 2)) + 1.5 * np.eye(2)[y]
    first, second = np.arange(20), np.arange(20, 60)

    def cell(row, seed, rows, train, sharpness=1.0, sensors=("s1", FUSED), **more):
        found = Found(rows, said[rows].argmax(1), sharpness * said[rows])
        return done(row, seed, int(rows[0] > 0), dict.fromkeys(sensors, found),
                    train=np.isin(np.arange(60), train), **more)

    def fitted(rows, sharpness=1.0):
        return fit_temperature(sharpness * said[rows], y[rows])

    cells = [
        cell("extra-trees", 0, first, second), cell("extra-trees", 0, second, first),
        cell("extra-trees", 1, first, second, 2), cell("extra-trees", 1, second, first, 2),
        cell("mdico", 0, first, second, temperature={"s1": 7.0}), cell("mdico", 0, second, first),
        cell("individual", 0, first, second),  # there is no other fold
        # a share: of the other fold's rows those that it may learn from
        cell("extra-trees", 0, first, second[:15], share=0.4),
        cell("extra-trees", 0, second, first[:9], share=0.4),
        cell("mdico+cv5", 0, first, second[:10]), cell("mdico+cv5", 0, second, first),
        replace(cell("mdico+cv5", 0, first, second, 3), row=parse_row("mdico+cv5", "mlp")),
        replace(cell("mdico+cv5", 0, second, first, 3), row=parse_row("mdico+cv5", "mlp")),
    ]
    found = [d.cell.temperature for d in with_temperatures(cells, CROPLAND, y)]
    both = [{"s1": t, FUSED: t} for t in (
        fitted(second), fitted(first), fitted(second, 2), fitted(first, 2), fitted(second),
        fitted(first), 0, fitted(second[:15]), 0, fitted(second[:10]), fitted(first),
        fitted(second, 3), fitted(first, 3))]
    both[4]["s1"], both[6], both[8] = 7.0, {}, {}  # nine rows are too few
    assert found == both
    assert 0.2 < fitted(first) != fitted(second) != fitted(second[:15]) < 5
    assert with_temperatures(cells, LFMC, y.astype(float)) == tuple(cells)
    assert cells[0].cell.temperature == {}


def test_trees_have_no_encoder_and_no_temperature():
    y = np.arange(20) % 2
    found = Found(np.arange(20), y, np.log(np.eye(2)[y] * 0.8 + 0.1))
    frame = tidy([done("extra-trees", 0, 0, {"s1": found})], CROPLAND, y, "toy", "site")
    assert (frame.encoder == "").all()
    assert "ECE, temperature" not in set(frame.metric)


def test_a_fold_with_too_few_or_equal_rows_has_no_score_but_counts_in_the_pooled_one():
    y = np.r_[np.full(12, 5.0), np.arange(4.0), np.arange(20.0)]
    parts = [np.arange(12), np.arange(12, 16), np.arange(16, 36)]
    cells = [done("mdico", 0, k, {"s1": Found(p, y[p] + 1, y[p, None])})
             for k, p in enumerate(parts)]
    frame = tidy(cells, LFMC, y, "toy", "site")
    assert frame[frame.metric == "R2"].fold.tolist() == [2]
    assert frame[frame.metric == "pooled R2"].n.item() == 36
