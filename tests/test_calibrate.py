"""Temperatures, intervals and what they measure: on simulated data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.learn.calibrate import (
    Intervals,
    Logits,
    Residuals,
    fit_intervals,
    hierarchical_quantile,
    measure_coverage,
    scale_temperature,
    spread_line,
)
from pipeline.learn.confidence import with_confidence
from pipeline.learn.outcomes import Evaluation, Outcome
from pipeline.learn.reliability import reliability
from pipeline.spec.card import LEAST_SPREAD, SensorCard, spread
from pipeline.spec.errors import BadRequest
from pipeline.spec.reliability import Reliability
from pipeline.spec.tasks import CROPLAND, LFMC
from tests.support.toy import sensor_card, toy_card

# ---- reliability


def test_calibration_error_of_hand_worked_bins():
    confidence = np.array([0.51, 0.52, 0.99, 0.98])  # bins 7 (0.467-0.533) and 14 (from 0.933)
    right = np.array([True, False, True, True])
    found = Reliability.of(confidence, right)
    assert found.count.tolist() == [2, 2]
    assert found.accuracy.tolist() == [0.5, 1.0]
    assert found.confidence.tolist() == pytest.approx([0.515, 0.985])
    assert found.ece == pytest.approx(0.5 * 0.015 + 0.5 * 0.015)


def test_adaptive_bins_hold_equal_counts():
    rng = np.random.default_rng(0)
    confidence = np.concatenate([rng.uniform(0.97, 1, 2970), rng.uniform(0.5, 0.97, 30)])
    found = Reliability.of(confidence, rng.random(3000) < confidence, adaptive=True)
    assert found.count.tolist() == [200] * 15
    assert (np.diff(found.confidence) > 0).all()
    assert Reliability.of(np.array([0.9, 1.0]), np.array([True, True]), adaptive=True
                          ).count.sum() == 2
    assert Reliability.of(np.array([1.0]), np.array([True])).ece == 0  # 1 is in the last bin


# ---- temperature


def overconfident(n: int, factor: float, seed: int) -> Logits:
    """Calibrated logits of three classes, multiplied."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(0, 1.5, (n, 3))
    p = np.exp(raw) / np.exp(raw).sum(1, keepdims=True)
    target = (rng.random((n, 1)) > p.cumsum(1)).sum(1)
    return Logits(factor * raw, target)


def test_the_temperature_undoes_overconfidence_on_rows_it_did_not_see():
    aside = [overconfident(1500, 3.0, k) for k in range(4)]
    scored = [overconfident(1500, 3.0, 10 + k) for k in range(4)]
    found = scale_temperature(aside, scored)
    assert found.value == pytest.approx(3, rel=0.08)
    before, after = found.ece
    assert before > 0.15
    assert after < 0.025
    assert found.adaptive[0] > 0.15
    assert found.adaptive[1] < 0.025
    everything = np.concatenate([s.raw for s in scored])
    target = np.concatenate([s.target for s in scored])
    assert before == pytest.approx(reliability(everything, target).ece)


def test_each_fold_has_its_own_temperature():
    # one fold's network is thrice too sure, the other's is right: one temperature fits neither
    parts = [(overconfident(4000, f, k), overconfident(4000, f, 10 + k))
             for k, f in enumerate((3.0, 1.0))]
    aside, scored = ([p[i] for p in parts] for i in (0, 1))
    own = scale_temperature(aside, scored)
    assert own.ece[1] < 0.02
    mixed = [Logits(np.concatenate([a.raw for a in aside]),
                    np.concatenate([a.target for a in aside]))] * 2
    assert scale_temperature(mixed, scored).ece[1] > 0.05


def test_what_cannot_be_measured_is_not_measured():
    some = overconfident(4000, 2.0, 0)
    found = scale_temperature([some], ())
    assert found.value == pytest.approx(2, rel=0.08)
    assert found.ece is None
    few = Logits(some.raw[:3], some.target[:3])  # no temperature comes from three rows
    assert scale_temperature([few], [some], final=[some]).ece == pytest.approx(
        [reliability(some.raw, some.target).ece] * 2)


# ---- intervals


def test_the_quantile_weighs_places_not_rows():
    # eleven places of one row each and an error of 1 to 11, and one place of a thousand rows
    score = np.concatenate([np.arange(1.0, 12), np.full(1000, 0.5)])
    group = np.concatenate([np.arange(11), np.full(1000, 11)])
    # masses of 1/13: 0.5 at 1/13, then k at (1 + k)/13; 12/13 is the first from 0.9
    assert hierarchical_quantile(score, group) == 11
    assert hierarchical_quantile(score, group, 0.5) == 6  # 7/13
    # one row a place: the (1 + K) level-th smallest of split conformal prediction
    assert hierarchical_quantile(np.arange(1.0, 20), np.arange(19)) == 18
    # nothing finite bounds the tenth place's error with 90 %, if eight are known
    assert hierarchical_quantile(np.arange(8.0), np.arange(8)) == np.inf
    assert hierarchical_quantile(np.arange(9.0), np.arange(9)) == 8


def simulate(seed: int, places: int, *, slope: float = 0.0, folds: int = 5) -> Residuals:
    """Places with an offset of their own, from 1 to 60 rows; errors may grow with the value."""
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 60, places)
    group = np.repeat(np.arange(places), count)
    value = rng.uniform(50, 200, len(group))
    scale = 20 * (1 + slope * (value - 125) / 75)
    error = scale * (rng.normal(size=places)[group] + 0.5 * rng.normal(size=len(group)))
    return Residuals(value + error, value, group, group % folds)


def test_intervals_hold_their_level_at_new_places():
    hits = []
    for seed in range(60):
        intervals = fit_intervals({4: simulate(seed, 40)})
        new = simulate(1000 + seed, 200)
        shares = [intervals.covers(4, new)[new.group == g].mean() for g in range(200)]
        hits.append(np.mean(shares))
    assert np.mean(hits) == pytest.approx(0.91, abs=0.02)  # 0.9 to 0.9 + 2 / (K + 1)
    # as many rows without their places would promise too much: few places, each seen often
    naive = [np.quantile(simulate(seed, 6).error, 0.9) for seed in range(60)]
    truth = np.concatenate([simulate(2000 + seed, 200).error for seed in range(5)])
    assert np.mean([(truth <= bound).mean() for bound in naive]) < 0.88


def test_measured_coverage_is_that_of_the_other_folds():
    found = [measure_coverage({2: simulate(k, 150), 4: simulate(k, 150)}) for k in range(12)]
    assert {tuple(f) for f in found} == {(2, 4)}
    assert np.mean([f[4] for f in found]) == pytest.approx(0.9, abs=0.02)
    # a fold whose errors are ten times the others' is not covered by them
    r = simulate(0, 150)
    worse = np.where(r.fold == 0, r.value + 10 * (r.target - r.value), r.target)
    got = measure_coverage({4: Residuals(worse, r.value, r.group, r.fold)})[4]
    assert 0.7 < got < 0.85
    assert measure_coverage({4: simulate(0, 30, folds=1)}) == {}


def test_a_place_of_repeated_folds_is_not_its_own_judge():
    # the same rows in the folds of two seeds: the second seed's errors are no news about the first
    r = simulate(3, 10, folds=2)
    twice = Residuals(*(np.concatenate([getattr(r, k)] * 2) for k in ("target", "value", "group")),
                      np.concatenate([r.fold, r.fold + 2]))
    assert measure_coverage({1: twice}) == measure_coverage({1: r})


def test_normalised_residuals_are_narrower_where_errors_are_small():
    r = simulate(0, 300, slope=0.8)
    line = spread_line(r)
    assert np.average(spread(line, r.value)) == pytest.approx(1, abs=0.03)
    # 0.2 and 1.8 times the mean, never below the least
    assert spread(line, np.array([50, 200])) == pytest.approx([LEAST_SPREAD, 1.8], abs=0.15)
    intervals = fit_intervals({4: r})
    new = simulate(1, 400, slope=0.8)
    low, high = new.value < 100, new.value > 150
    hit, plain = intervals.covers(4, new), Intervals(
        {4: hierarchical_quantile(r.error, r.group)}, (1.0, 0.0)).covers(4, new)
    assert abs(hit[low].mean() - hit[high].mean()) < 0.06 < plain[low].mean() - plain[high].mean()


def test_the_line_of_the_spread_by_hand():
    # errors 1 at value 10 and 3 at value 20: mean 2, slope 0.2, hence 0.5 and 1.5 of the mean
    r = Residuals(np.array([11.0, 23.0]), np.array([10.0, 20.0]), np.arange(2), np.zeros(2))
    assert spread_line(r) == pytest.approx((-0.5, 0.1))
    assert spread((-0.5, 0.1), np.array([10.0, 20.0, 0.0])) == pytest.approx([0.5, 1.5, 0.3])
    perfect = Residuals(r.value, r.value, r.group, r.fold)
    assert spread_line(perfect) == (1, 0)


def test_fewer_steps_never_have_a_narrower_interval():
    wide, narrow = simulate(0, 50), simulate(1, 50)
    halved = Residuals(narrow.value + (narrow.target - narrow.value) / 2, narrow.value,
                       narrow.group, narrow.fold)
    found = fit_intervals({1: halved, 2: wide, 4: halved}).half_width
    assert list(found) == [1, 2, 4]
    assert found[1] == found[2] > 1.5 * found[4]


def test_with_too_few_places_the_widest_error_is_taken():
    r = simulate(0, 5)
    intervals = fit_intervals({4: r})
    assert intervals.covers(4, r).all()
    assert np.isfinite(intervals.half_width[4])


# ---- the card


def evaluation(task, outcomes: list[Outcome], target: np.ndarray) -> Evaluation:
    return Evaluation(task, target, np.full(len(target), "set"), outcomes)


def test_a_classes_card_has_temperature_and_errors_of_scored_rows_only():
    folds = [overconfident(600, 2.0, k) for k in range(3)]
    stopped = [overconfident(600, 2.0, 10 + k) for k in range(3)]
    every = [*folds, *stopped]
    target = np.concatenate([f.target for f in every])
    at = np.split(np.arange(len(target)), 6)
    made = [Outcome(name, "s1", k % 3, at[k], every[k].raw.argmax(1), every[k].raw)
            for k, name in enumerate(["mdico"] * 3 + ["mdico, inner split"] * 3)]
    result = evaluation(CROPLAND, made, target)
    groups = np.arange(len(target))
    card, words = with_confidence(sensor_card(CROPLAND, "s1"), result, "mdico",
                                  "mdico, inner split", "s1", groups)
    assert card.temperature == pytest.approx(2, rel=0.1)
    assert card.ece[0] > 0.1 > 0.05 > card.ece[1]
    assert "calibration error of s1" in words[0]
    # an average of networks: the other folds' scored rows, never its own
    other, _ = with_confidence(card, result, "mdico", "mdico", "s1", groups)
    assert other.temperature == pytest.approx(2, rel=0.1)
    assert other.ece[1] < 0.05
    alone, said = with_confidence(sensor_card(CROPLAND, "s1"), evaluation(CROPLAND, made[:1],
                                  target), "mdico", "mdico", "s1", groups)
    assert (alone.ece, said) == (None, ())


def test_a_values_card_has_intervals_and_their_coverage():
    r = simulate(0, 120, slope=0.5)
    rows = np.arange(len(r.value))
    made = [Outcome("mdico", "s1", f, rows[r.fold == f], r.value[r.fold == f],
                    r.value[r.fold == f][:, None], kept)
            for kept in (2, 4) for f in range(5)]
    entry = SensorCard(("vv",), (0.0,), (1.0,), "sigma0", ("sigma0",), (2, 4), (0.5, 0.6))
    card, words = with_confidence(entry, evaluation(LFMC, made, r.target), "mdico", "mdico", "s1",
                                  r.group)
    assert card.interval_coverage == pytest.approx(0.9, abs=0.04)
    assert "2: 9" in words[0]
    assert card.domain_threshold is None
    width = card.half_width(np.array([4, 4, 2]), np.array([60.0, 190.0, 190.0]))
    assert width[1] > 1.5 * width[0]
    assert width[2] >= width[1]
    hit = np.abs(r.target - r.value) <= card.half_width(np.full(len(rows), 4), r.value)
    assert hit.mean() > 0.85


def test_a_card_whose_confidence_makes_no_sense_is_refused():
    raw = toy_card(LFMC).to_json()
    for change in ({"interval_spread": [1.0]}, {"domain_threshold": 0.0},
                   {"interval_spread": [float("nan"), 0.0]}):
        sensors = {**raw["sensors"], "s1": {**raw["sensors"]["s1"], **change}}
        with pytest.raises(BadRequest, match=r"interval or the domain of s1|s1\.interval_spread"):
            type(toy_card(LFMC)).from_json({**raw, "sensors": sensors})
