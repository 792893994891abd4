"""The paired permutation test over places, against worked cases and the scores' own library."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score, r2_score

from pipeline.learn.cell import Cell, Found, Split
from pipeline.learn.recipe import parse_row
from pipeline.learn.report.permutation import Places, parts_of_score, score_of_parts
from pipeline.learn.report.scoring import Done
from pipeline.spec.tasks import task

LFMC, CROPLAND = task("lfmc"), task("cropland")
A, B = parse_row("mdico"), parse_row("individual")


def done(row, rows, value, fold=0, seed=0, sensor="s1"):
    mask = np.zeros(1, bool)
    found = Found(np.asarray(rows), np.asarray(value), np.zeros((len(rows), 1)))
    return Done(row, Split(seed, fold, 2, mask, mask, "site"), 1.0,
                Cell({sensor: found}, {}, 0.0, 0.0))


def p(parts, target, groups, of=LFMC):
    return Places(parts, of, np.asarray(target), np.asarray(groups)).p(A, "s1", B, "s1", 1.0)


@pytest.mark.parametrize("kind", ["regression", "classes", "labels"])
def test_the_sums_give_the_scores_of_scikit_learn(kind):
    rng = np.random.default_rng(0)
    if kind == "regression":
        of, y, value = LFMC, rng.normal(100, 20, 50), rng.normal(100, 20, 50)
        expected = r2_score(y, value)
    elif kind == "classes":
        of = replace(CROPLAND, classes=("a", "b", "c", "d", "e", "f"))
        y, value = rng.integers(0, 4, 50), rng.integers(0, 6, 50)
        expected = f1_score(y, value, average="weighted", zero_division=0)
    else:
        of = replace(CROPLAND, kind="multilabel", classes=("a", "b", "c"))
        y, value = rng.integers(0, 2, (2, 50, 3))
        expected = f1_score(y, value, average="weighted", zero_division=0)
    sums = parts_of_score(of, y, value).sum(0)
    assert score_of_parts(of, y, sums) == pytest.approx(expected)


def test_p_is_that_of_all_exchanges():
    # 8 places of 4 samples: all 256 exchanges, by hand, give the exact p
    rng = np.random.default_rng(3)
    place = np.repeat(np.arange(8), 4)
    y = rng.normal(100, 30, 32)
    a, b = y + rng.normal(0, 14, 32), y + rng.normal(0, 20, 32)
    found = r2_score(y, a) - r2_score(y, b)
    far = 0
    for swap in itertools.product((False, True), repeat=8):
        s = np.array(swap)[place]
        far += abs(r2_score(y, np.where(s, b, a)) - r2_score(y, np.where(s, a, b))) \
            >= abs(found) - 1e-12
    exact = far / 256
    assert 0.01 < exact < 0.6
    assert p([done(A, range(32), a), done(B, range(32), b)], y, place) == pytest.approx(
        exact, abs=4 * (exact * (1 - exact) / 2000) ** 0.5)


def test_samples_of_one_place_are_no_independent_evidence():
    # the same 200 samples, A better in each: as 200 places certain, as two places one draw in two
    rng = np.random.default_rng(0)
    y = rng.normal(100, 20, 200)
    a, b = y + rng.normal(0, 5, 200), y + rng.normal(0, 20, 200)
    parts = [done(A, range(200), a), done(B, range(200), b)]
    assert p(parts, y, np.arange(200)) == pytest.approx(1 / 2000)
    assert p(parts, y, np.arange(200) // 100) == pytest.approx(0.5, abs=0.05)


def test_methods_alike_are_told_apart_as_often_as_p_says():
    rng = np.random.default_rng(1)
    place = np.repeat(np.arange(30), 3)
    false = 0
    for _ in range(200):
        y = rng.normal(100, 20, 90)
        bias = rng.normal(0, 20, (2, 30))[:, place]  # what a method gets wrong of a place
        a, b = y + bias + rng.normal(0, 5, (2, 90))
        false += p([done(A, range(90), a), done(B, range(90), b)], y, place) < 0.05
    assert 2 <= false <= 20  # 10 expected


def test_a_place_is_exchanged_in_all_folds_and_seeds_at_once():
    # three places, each in both seeds: with two seeds no more evidence than with one
    rng = np.random.default_rng(2)
    y, place = rng.normal(100, 20, 60), np.repeat(np.arange(3), 20)
    a, b = y + rng.normal(0, 2, 60), y + rng.normal(0, 30, 60)
    parts = [done(row, range(60), value, seed=seed) for seed in range(4)
             for row, value in ((A, a), (B, b))]
    assert p(parts, y, place) == pytest.approx(2 / 8, abs=0.04)


def test_only_what_both_have_is_compared():
    rng = np.random.default_rng(4)
    y = rng.normal(100, 20, 80)
    a, b = y + rng.normal(0, 5, 80), y + rng.normal(0, 30, 80)
    place = np.arange(80)
    wide, narrow = np.arange(80), np.arange(10, 60)
    common = p([done(A, narrow, a[narrow]), done(B, narrow, b[narrow])], y, place)
    assert p([done(A, wide, a), done(B, narrow, b[narrow])], y, place) == common
    assert np.isnan(p([done(A, wide, a, fold=0), done(B, wide, b, fold=1)], y, place))
    assert np.isnan(p([done(A, wide, a)], y, place))
    # a fold whose labels are all alike has no R2
    assert np.isnan(p([done(A, wide, a), done(B, wide, b)], np.full(80, 7.0), place))


def test_folds_that_speak_against_each_other_are_no_evidence():
    rng = np.random.default_rng(5)
    y = rng.normal(100, 20, 80)
    good, bad = y + rng.normal(0, 5, 80), y + rng.normal(0, 25, 80)
    first, second = np.arange(40), np.arange(40, 80)
    mixed = [done(A, first, good[first]), done(B, first, bad[first]),
             done(A, second, bad[second], fold=1), done(B, second, good[second], fold=1)]
    assert p(mixed, y, np.arange(80)) > 0.2
    assert p(mixed[:2], y, np.arange(80)) < 0.01


def test_all_sensors_together_are_swapped_as_one_prediction():
    rng = np.random.default_rng(6)
    y = rng.normal(100, 20, 60)
    both, mean = [], []
    for row, noise in ((A, 10), (B, 16)):
        said = {s: y + rng.normal(0, noise, 60) for s in ("s1", "l8")}
        found = {s: Found(np.arange(60), v, v[:, None]) for s, v in said.items()}
        one = done(row, range(60), y)
        both.append(replace(one, cell=replace(one.cell, found=found)))
        mean.append(done(row, range(60), (said["s1"] + said["l8"]) / 2))
    together = Places(both, LFMC, y, np.arange(60)).p(A, "all", B, "all", 1.0)
    assert together == p(mean, y, np.arange(60))
    assert together < 0.2


def test_p_is_of_its_share_and_always_the_same():
    rng = np.random.default_rng(7)
    y = rng.normal(100, 20, 40)
    values = {share: [y + rng.normal(0, noise, 40) for noise in noises]
              for share, noises in ((0.5, (15, 16)), (1.0, (3, 25)))}
    parts = [replace(done(row, range(40), value), share=share)
             for share, pair in values.items() for row, value in zip((A, B), pair, strict=True)]
    first, again = (Places(parts, LFMC, y, np.arange(40)) for _ in range(2))
    half, whole = (first.p(A, "s1", B, "s1", share) for share in (0.5, 1.0))
    assert whole < 0.01 < half < 1
    assert again.p(A, "s1", B, "s1", 0.5) == half


def test_rows_that_say_the_same_do_not_differ():
    classes = np.arange(40) % 2
    parts = [done(row, range(40), classes) for row in (A, B)]
    assert p(parts, classes, np.arange(40), CROPLAND) == 1.0
