"""Predicting a cube and smoothing what came of it, on small hand-made input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from pipeline.infer.feed import BATCH
from pipeline.infer.predict import Predictor, softmax
from pipeline.infer.smooth import pool, reach, smooth
from pipeline.prep.features import model_input
from pipeline.spec.cube import Cube
from pipeline.spec.errors import BadRequest
from pipeline.spec.grid import sheets
from pipeline.spec.layers import FEW, GOOD, LOW
from pipeline.spec.tasks import CROPLAND, LFMC
from pipeline.spec.timeline import Timeline
from tests.support.tiles import AREA, YEAR, predictor_of
from tests.support.toy import sensor_card, toy_card

UNKNOWN = np.full(4, np.nan, np.float32)  # dissimilarity index that is not known


def cube_of(task, bands: tuple[str, ...], shape: tuple[int, int], seed: int = 0) -> Cube:
    (sheet,) = sheets(AREA, task.pixel_m)
    rng = np.random.default_rng(seed)
    t = task.steps
    x = rng.normal(size=(t, len(bands), *shape)).astype(np.float32)
    count = rng.integers(0, 4, (t, *shape)).astype(np.uint8)
    x = np.where(count[:, None] > 0, x, np.float32(np.nan))
    grid = sheet.geobox[: shape[0], : shape[1]]
    assert grid.shape == shape
    return Cube("s1", bands, Timeline(YEAR.first, t), grid, x, count)


# ---------------------------------------------------------------- predict


def test_predictions_are_those_of_the_plain_model() -> None:
    predictor = predictor_of()
    cube = cube_of(CROPLAND, ("vv", "vh"), (20, 30))
    result = predictor("s1", cube, np.ones((20, 30), bool))
    x = cube.x.transpose(2, 3, 0, 1).reshape(600, 12, 2)
    valid = cube.valid.transpose(1, 2, 0).reshape(600, 12)
    inputs = model_input(x, valid, np.array(YEAR.months), cube.bands, predictor.card.sensors["s1"])
    with torch.inference_mode():
        logits = predictor.module.predict("s1", torch.from_numpy(inputs)).numpy()
    expected = softmax(logits / 2.0).T.reshape(2, 20, 30)
    np.testing.assert_allclose(result.score, expected, atol=1e-5)
    np.testing.assert_array_equal(result.steps, cube.valid.sum(0))
    with torch.inference_mode():
        z = predictor.module.embed("s1", torch.from_numpy(inputs)).numpy()
    domain = predictor.domains["s1"]
    nearest = np.linalg.norm(z[:, None] - domain.prototypes.numpy(), axis=2).min(1)
    np.testing.assert_allclose(result.index.ravel(), nearest / float(domain.scale), rtol=1e-4)


def test_a_pixel_is_the_same_in_any_company() -> None:
    predictor = predictor_of()
    shape = (37, 61)
    cube = cube_of(CROPLAND, ("vv", "vh"), shape)
    whole = predictor("s1", cube, np.ones(shape, bool))
    assert whole.steps.size > 2 * BATCH  # several batches, the last one padded
    for rows, cols in ((slice(0, 5), slice(0, 61)), (slice(30, 37), slice(50, 61))):
        mask = np.zeros(shape, bool)
        mask[rows, cols] = True
        part = predictor("s1", cube, mask)
        np.testing.assert_array_equal(part.score[:, mask], whole.score[:, mask])
        np.testing.assert_array_equal(part.index[mask], whole.index[mask])
        assert np.isnan(part.score[:, ~mask]).all()
    inputs = np.random.default_rng(1).normal(size=(BATCH + 7, 12, 6)).astype(np.float32)
    together, _ = predictor.run("s1", inputs)
    np.testing.assert_array_equal(together[-7:], predictor.run("s1", inputs[-7:])[0])
    np.testing.assert_array_equal(together[::-1], predictor.run("s1", inputs[::-1].copy())[0])


def test_too_few_observations_are_nodata_not_a_guess() -> None:
    predictor = predictor_of()
    cube = cube_of(CROPLAND, ("vv", "vh"), (1, 3))
    count = np.zeros((12, 1, 3), np.uint8)
    count[:2, 0, 1] = 1  # one step short of CROPLAND.min_steps
    count[:3, 0, 2] = 1
    x = np.where(count[:, None] > 0, np.float32(1), np.float32(np.nan)).repeat(2, 1)
    result = predictor("s1", dataclasses.replace(cube, x=x, count=count), np.ones((1, 3), bool))
    assert np.isfinite(result.score).tolist() == [[[False, False, True]]] * 2


def test_classes_are_encoded_with_the_probability_of_the_class() -> None:
    score = np.array([[0.2, 0.5, 0.994], [0.8, 0.5, 0.006]], np.float32)
    value, percent, quality = predictor_of().encode("s1", score, np.full(3, 12), UNKNOWN[:3])
    assert value.tolist() == [1, 0, 0]
    assert percent.tolist() == [80, 50, 99]
    assert quality.tolist() == [GOOD, LOW, GOOD]  # below 70 % is low
    assert value.dtype == percent.dtype == quality.dtype == np.uint8


def test_regression_is_encoded_in_steps_of_its_scale() -> None:
    predictor = predictor_of(LFMC)
    outputs = np.array([[0.0], [1.5], [-9.0], [99.0]], np.float32)
    physical = predictor._physical("s1", outputs)  # mean 100, standard deviation 30
    value, width, quality = predictor.encode("s1", physical.T, np.array([4, 2, 4, 1]), UNKNOWN)
    assert value.tolist() == [1000, 1450, 0, 4000]  # 100 %, 145 %, clipped to 0 and 400 %
    assert width.tolist() == [200, 350, 200, 425]  # 20, 35, 20, 42.5 %
    assert quality.tolist() == [GOOD, GOOD, GOOD, FEW]
    assert value.dtype == np.uint16
    # where errors grow with the value, so do the intervals: 0.5 + value / 200, at least 0.3
    entry = dataclasses.replace(sensor_card(LFMC, "s1"), interval_spread=(0.5, 0.005))
    grown = predictor_of(LFMC, toy_card(LFMC, {"s1": entry}))
    _, width, quality = grown.encode("s1", physical.T, np.full(4, 4), UNKNOWN)
    assert width.tolist() == [200, 245, 100, 500]
    assert quality.tolist() == [GOOD, GOOD, GOOD, LOW]  # a guess is 1.645 * 30 = 49.35 % wide


# ---------------------------------------------------------------- smooth


def test_smoothing_is_the_mean_of_the_neighbours_with_data() -> None:
    p = np.array([[[1.0, 0.0, np.nan], [0.5, 0.25, 0.75]]], np.float32)
    out = smooth(p, 3)[0]
    # corner: 1, 0, 0.5, 0.25; middle of the lower row: all five
    assert out[0, 0] == pytest.approx(0.4375)
    assert out[1, 1] == pytest.approx(0.5)
    assert np.isnan(out[0, 2])  # nothing is filled in
    assert smooth(p, 1) is p


def test_smoothing_is_the_same_in_any_tile() -> None:
    rng = np.random.default_rng(0)
    p = rng.random((2, 40, 50), np.float32)
    p[:, rng.random((40, 50)) < 0.2] = np.nan
    whole = smooth(p, 5)
    part = smooth(p[:, 8:32, 18:42], 5)[:, 2:-2, 2:-2]
    np.testing.assert_array_equal(part, whole[:, 10:30, 20:40])
    p[1] = 1 - p[0]
    sure = pool(p, 5)
    np.testing.assert_array_equal(pool(p[:, 8:32, 18:42], 5)[:, 2:-2, 2:-2], sure[:, 10:30, 20:40])


def test_neighbours_that_agree_make_sure_of_the_class() -> None:
    p = np.array([[[0.9, 0.6, np.nan, 0.2, 0.9]]], np.float32)
    p = np.concatenate([p, 1 - p])
    mean, got = smooth(p, 3), pool(p, 3)
    # 0.9 and 0.6: mean 0.75; by logarithms sqrt(0.54) / (sqrt(0.54) + sqrt(0.04)) = 0.786
    assert got[:, 0, 0] == pytest.approx([0.786, 0.214], abs=1e-3)
    # 0.2 and 0.9: mean 0.55; by logarithms sqrt(0.18) / (sqrt(0.18) + sqrt(0.08)) = 0.6
    assert got[:, 0, 3] == pytest.approx([0.6, 0.4], abs=1e-3)
    assert np.isnan(got[:, 0, 2]).all()
    np.testing.assert_allclose(got[:, 0, [0, 1, 3, 4]].sum(0), 1, rtol=1e-6)
    many = np.random.default_rng(0).dirichlet(np.ones(5), (30, 40)).astype(np.float32)
    many = many.transpose(2, 0, 1)
    mean, got = smooth(many, 3), pool(many, 3)
    np.testing.assert_array_equal(got.argmax(0), mean.argmax(0))  # the class is the mean's
    assert (got.max(0) >= mean.max(0)).all()
    np.testing.assert_allclose(got.sum(0), 1, rtol=1e-5)
    assert pool(p, 1) is p


def test_reach_is_the_window_of_the_wanted() -> None:
    wanted = np.zeros((6, 7), bool)
    wanted[2, 3] = wanted[5, 0] = True
    near = reach(wanted, 3)
    expected = np.zeros((6, 7), bool)
    expected[1:4, 2:5] = expected[4:6, 0:2] = True
    np.testing.assert_array_equal(near, expected)


def test_weights_of_another_shape_are_refused() -> None:
    predictor = predictor_of()
    arrays = {k: v.numpy() for k, v in predictor.module.state_dict().items()}
    arrays.pop(next(iter(arrays)))
    with pytest.raises(BadRequest, match="do not fit"):
        Predictor(CROPLAND, predictor.card, arrays, "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(BadRequest, match="CUDA"):
            Predictor(CROPLAND, predictor.card, {}, "cuda")
