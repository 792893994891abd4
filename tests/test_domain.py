"""The training domain: the index by hand, the threshold, and far inputs against near ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from models.domain import PREFIX, Domain
from models.methods.ablations import VARIANTS
from models.registry import METHODS, single_sensor
from pipeline.data.checkpoints import load_checkpoint, save_checkpoint
from pipeline.infer.feed import BATCH
from pipeline.infer.predict import Predictor
from pipeline.learn.domain import (
    domain_arrays,
    domain_of,
    domain_of_features,
    features_of,
    held_out_index,
    index_of,
    threshold,
)
from pipeline.learn.fit import Settings, arrays
from pipeline.learn.table import Tensors
from pipeline.prep.features import model_input
from pipeline.spec.errors import BadRequest
from pipeline.spec.layers import FEW, GOOD, LOW, UNLIKE
from pipeline.spec.quality import NOT_COMPUTED, QualityRules
from pipeline.spec.tasks import CROPLAND, LFMC
from tests.support.toy import sensor_card, toy_card

torch.set_num_threads(1)

# ---- the index


def test_the_index_of_points_in_the_plane() -> None:
    # training samples on the corners of a square of side 2: mean distance (4 * 2 + 2 * 2.828) / 6
    corners = np.array([[0, 0], [0, 2], [2, 0], [2, 2]], np.float32)
    domain = domain_of_features(corners, 0)
    mean = (8 + 4 * np.sqrt(2)) / 6
    assert float(domain.scale) == pytest.approx(mean)
    found = index_of(domain, np.array([[0, 0], [1, 1], [5, 6], [0, -1]], np.float32))
    want = np.array([0, np.sqrt(2), 5, 1]) / mean  # (5, 6) is 3 and 4 away from (2, 2)
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_the_index_does_not_depend_on_where_the_features_lie() -> None:
    # |z - p|^2 by the matrix product loses its digits far from the origin, were it not centred
    rng = np.random.default_rng(0)
    z, new = rng.normal(size=(200, 8)), rng.normal(size=(50, 8))
    near, far = (domain_of_features((z + at).astype(np.float32), 0) for at in (0, 1000))
    np.testing.assert_allclose(index_of(far, (new + 1000).astype(np.float32)),
                               index_of(near, new.astype(np.float32)), rtol=1e-3)


def test_many_samples_have_few_prototypes() -> None:
    z = np.random.default_rng(0).normal(size=(5000, 4)).astype(np.float32)
    domain = domain_of_features(z, 0)
    assert domain.prototypes.shape == (256, 4)
    again = domain_of_features(z, 0)
    assert torch.equal(domain.prototypes, again.prototypes)
    # every prototype lies among its samples
    assert (torch.cdist(domain.prototypes, torch.from_numpy(z)).min(1).values < 1).all()
    assert domain_of_features(np.ones((7, 4), np.float32), 0).prototypes.shape == (1, 4)


def test_the_threshold_is_the_upper_whisker() -> None:
    # quartiles of 1..9 and 100: 3.25 and 7.75, whisker up to 7.75 + 1.5 * 4.5 = 14.5
    index = np.array([*range(1, 10), 100], float)
    assert threshold(index) == 9
    assert threshold(np.array([*range(1, 10), 14.5])) == 14.5
    assert threshold(index[:5]) is None
    assert threshold(np.zeros(20)) is None


# ---- a network


def toy_data(n: int = 400, seed: int = 0) -> tuple[Tensors, np.ndarray]:
    """One sensor's series of two classes, as the networks see them, and their raw values."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    level = np.array([-11.0, -18.0]) + 4 * y[:, None, None] * np.sin(np.arange(12))[None, :, None]
    raw = (level + rng.normal(size=(n, 12, 2))).astype(np.float32)
    card = sensor_card(CROPLAND, "s1")
    x = torch.from_numpy(model_input(raw, np.ones((n, 12), bool), np.arange(12), ("vv", "vh"),
                                     card))
    seen = {"s1": torch.ones(n, 12, dtype=torch.bool)}
    data = Tensors({"s1": x}, seen, torch.ones(n, 1, dtype=torch.bool), torch.from_numpy(y),
                   {"s1": card}, 0.0, 1.0, None)
    return data, raw


def toy_network() -> torch.nn.Module:
    torch.manual_seed(0)
    options = {"sensors": {"s1": 6}, "steps": 12, "outputs": 2, "width": 16, "dense": 16,
               "features": 16}
    return models.build("mdico", "tempcnn", options).eval()


def test_far_inputs_are_flagged_and_training_like_ones_are_not() -> None:
    data, raw = toy_data()
    module, settings = toy_network(), Settings(drop=0.5, jitter=True)
    train, held, new = np.arange(200), np.arange(200, 300), np.arange(300, 400)
    domain = domain_of(module, data, "s1", train, settings, 0)
    limit = threshold(held_out_index(domain, module, data, "s1", held, settings, 0))
    again = held_out_index(domain, module, data, "s1", new, settings, 0)
    assert (again > limit).mean() < 0.08
    card = data.cards["s1"]
    for wrong in (raw[new] + 25, raw[new] * 0.1, raw[new][:, :, ::-1]):  # level, unit, bands
        x = model_input(np.ascontiguousarray(wrong), np.ones((100, 12), bool), np.arange(12),
                        ("vv", "vh"), card)
        with torch.inference_mode():
            z = module.embed("s1", torch.from_numpy(x)).numpy()
        assert (index_of(domain, z) > limit).mean() > 0.9


def test_few_observations_are_inside_only_if_training_had_them() -> None:
    data, raw = toy_data()
    module = toy_network()
    train, held = np.arange(200), np.arange(200, 400)
    valid = np.zeros((200, 12), bool)
    valid[:, [2, 7]] = True
    few = model_input(raw[held], valid, np.arange(12), ("vv", "vh"), data.cards["s1"])
    with torch.inference_mode():
        z = module.embed("s1", torch.from_numpy(few)).numpy()
    share = {}
    for drop in (0.0, 1.0):
        settings = Settings(drop=drop, jitter=False)
        domain = domain_of(module, data, "s1", train, settings, 0)
        limit = threshold(held_out_index(domain, module, data, "s1", held, settings, 0))
        share[drop] = (index_of(domain, z) > limit).mean()
    assert share[0.0] > 0.8
    assert share[1.0] < 0.1


def test_features_are_of_rows_as_they_are_and_augmented() -> None:
    data, _ = toy_data(20)
    z = features_of(toy_network(), data, "s1", np.arange(5), Settings(drop=0, jitter=False), 0)
    assert z.shape == (10, 32)
    np.testing.assert_array_equal(z[:5], z[5:])  # augmentation is off
    other = features_of(toy_network(), data, "s1", np.arange(5), Settings(drop=1.0), 0)
    np.testing.assert_array_equal(z[:5], other[:5])
    assert np.abs(z[5:] - other[5:]).max() > 0.01


@pytest.mark.parametrize("method", [m for m in METHODS if single_sensor(m)
                                    and "weights" not in models.complete("tempcnn", {}, m)])
def test_outputs_and_features_come_from_one_pass(method: str) -> None:
    torch.manual_seed(0)
    options = {"sensors": {"s1": 6, "s2": 14}, "steps": 12, "outputs": 2, "width": 8, "dense": 8,
               "features": 8}
    module = models.build(method, "tempcnn", options).eval()
    x = torch.randn(5, 12, 6)
    with torch.inference_mode():
        outputs, z = module.predict_and_embed("s1", x)
        assert torch.equal(outputs, module.predict("s1", x))
        assert torch.equal(z, module.embed("s1", x))
    assert method not in VARIANTS or z.shape[1] in (8, 16)


def test_an_ensembles_features_are_those_of_its_first_member() -> None:
    torch.manual_seed(0)
    options = {"sensors": {"s1": 6}, "steps": 12, "outputs": 2, "width": 8, "dense": 8,
               "features": 8, "members": 2}
    module = models.build("mdico", "tempcnn", options).eval()
    x = torch.randn(5, 12, 6)
    with torch.inference_mode():
        outputs, z = module.predict_and_embed("s1", x)
        assert torch.equal(outputs, module.predict("s1", x))
        assert torch.equal(z, module.members[0].embed("s1", x))


# ---- in a checkpoint


def checkpoint(domains: dict[str, Domain], limit: float | None):
    """Card and arrays of an untrained network with domains."""
    card = toy_card(CROPLAND)
    entry = dataclasses.replace(card.sensors["s1"], domain_threshold=limit)
    card = dataclasses.replace(card, sensors={**card.sensors, "s1": entry})
    torch.manual_seed(0)
    module = models.build(card.method, card.encoder, card.options)
    return card, {**arrays(module), **domain_arrays(domains)}


def test_a_checkpoint_carries_its_domain(tmp_path: Path) -> None:
    z = np.random.default_rng(0).normal(size=(100, 16)).astype(np.float32)
    domain = domain_of_features(z, 0)
    card, weights = checkpoint({"s1": domain}, 0.5)
    assert {k for k in weights if k.startswith(PREFIX)} == {
        "domain.s1.prototypes", "domain.s1.scale"}
    save_checkpoint(tmp_path, card, weights)
    predictor = Predictor(CROPLAND, *load_checkpoint(tmp_path), "cpu")
    inputs = np.random.default_rng(1).normal(size=(BATCH + 7, 12, 6)).astype(np.float32)
    outputs, index = predictor.run("s1", inputs)
    with torch.inference_mode():
        features = predictor.module.embed("s1", torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(index, index_of(domain, features), rtol=1e-4)
    np.testing.assert_array_equal(predictor.run("s1", inputs[::-1].copy())[1][::-1], index)
    np.testing.assert_array_equal(predictor.run("s1", inputs[-7:])[1], index[-7:])
    # a sensor without a domain is mapped all the same, and so is the whole card of an older one
    assert np.isnan(predictor.run("s2", np.zeros((3, 12, 14), np.float32))[1]).all()
    plain = Predictor(CROPLAND, *checkpoint({}, None), "cpu")
    np.testing.assert_array_equal(plain.run("s1", inputs)[0], outputs)
    assert np.isnan(plain.run("s1", inputs)[1]).all()


def test_a_domain_that_does_not_fit_is_refused() -> None:
    of_other = domain_of_features(np.random.default_rng(0).normal(size=(100, 9))
                                  .astype(np.float32), 0)
    for domains in ({"s1": of_other}, {"s2": of_other}, {}):
        with pytest.raises(BadRequest, match="do not fit"):
            Predictor(CROPLAND, *checkpoint(domains, 0.5), "cpu")


# ---- quality


def test_the_later_rule_wins() -> None:
    entry = dataclasses.replace(sensor_card(CROPLAND, "s1"), domain_threshold=0.4)
    rules = QualityRules.of(CROPLAND, toy_card(CROPLAND, {"s1": entry}))
    assert (rules.low, rules.few, rules.steps) == (70, 6, 12)
    confidence = np.array([70, 69, 99, 50, 99, 50])
    steps = np.array([6, 12, 5, 5, 12, 3])
    index = np.array([0.4, 0.1, 0.4, np.nan, 0.41, 0.9], np.float32)
    assert rules.codes("s1", confidence, steps, index).tolist() == [
        GOOD, LOW, FEW, FEW, UNLIKE, UNLIKE]
    assert rules.to_json(["s1"]) == {
        "low confidence": "probability of the mapped class below 70 %",
        "few observations": "fewer than 6 of 12 steps with data",
        "outside the training domain": "dissimilarity index above s1 0.4",
    }


def test_an_interval_wider_than_a_guess_is_low_confidence() -> None:
    rules = QualityRules.of(LFMC, toy_card(LFMC))  # targets spread by 30 %: 1.645 * 30 = 49.35
    assert (rules.low, rules.few) == (49.4, 2)
    index = np.full(3, 9.0, np.float32)  # the checkpoint has no threshold: nothing is flagged
    codes = rules.codes("s1", np.array([49.4, 49.5, 60.0]), np.array([2, 4, 1]), index)
    assert codes.tolist() == [GOOD, LOW, FEW]
    told = rules.to_json(["s1", "l8"])
    assert told["low confidence"] == "half-width of the 90 % interval above 49.4 %"
    assert f"{NOT_COMPUTED} for s1, l8" in told["outside the training domain"]
