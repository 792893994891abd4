"""Haze in training: what is added to reflectance, and what becomes of indices."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.learn.augment import Augmentation
from pipeline.learn.haze import HAZE, OFFSET, S1_DB
from pipeline.learn.recipe import parse_row
from pipeline.prep.features import features
from pipeline.spec.card import SensorCard
from pipeline.spec.sensors import SENSORS

CARD = SensorCard(("vv", "vh", "vh_vv"), (-10.0, -16.0, -6.0), (2.0, 3.0, 1.0), "sigma0",
                  ("sigma0",), (12,), (0.0,), context=())


OLI = ("blue", "green", "red", "nir", "swir16", "swir22", "ndvi", "ndwi", "nirv")


def test_haze_is_added_to_reflectance_and_indices_are_computed_from_it():
    rng = np.random.default_rng(0)
    raw = rng.uniform(0.02, 0.5, (300, 5, 6)).astype(np.float32)
    names = OLI[:6]
    card = replace(CARD, features=OLI, mean=tuple(np.linspace(0.1, 0.4, 9)),
                   std=tuple(np.linspace(0.05, 0.2, 9)))
    mean, std = (np.array(v, np.float32) for v in (card.mean, card.std))
    seen = torch.ones(300, 5, dtype=torch.bool)
    seen[:, 3] = False
    z = torch.from_numpy((features(raw, names, OLI) - mean) / std)
    got = Augmentation.of("l8", card, drop=0.0, jitter=False, haze=True)(
        z, seen, torch.Generator().manual_seed(1))
    torch.testing.assert_close(got[:, 3], z[:, 3])  # a gap stays what it is
    at = [0, 1, 2, 4]
    hazy = got.numpy()[:, at] * std + mean
    added = hazy[..., :6] - raw[:, at]
    um = np.array([b.wavelength_um for b in SENSORS["l8"].bands])
    haze = (added[..., 0] - added[..., 5]) / ((0.49 / um[0]) ** 2 - (0.49 / um[5]) ** 2)
    assert haze.min() > -1e-5
    assert 0.02 < haze.max() <= HAZE + 1e-5
    assert haze.mean() == pytest.approx(HAZE / 3, rel=0.1)  # of a square of uniform numbers
    offset = added - haze[..., None] * (0.49 / um) ** 2
    assert np.ptp(offset, (1, 2)).max() < 1e-5  # one a sample
    assert np.abs(offset).max() <= OFFSET + 1e-5
    assert -OFFSET / 2 < offset.mean() < OFFSET / 2
    np.testing.assert_allclose(hazy[..., 6:], features(hazy[..., :6], names, OLI[6:]), atol=1e-4)


def test_haze_of_radar_is_a_level_and_rows_without_it_are_those_of_old():
    x, seen = torch.zeros(400, 3, CARD.channels), torch.ones(400, 3, dtype=torch.bool)
    got = Augmentation.of("s1", CARD, drop=0.0, jitter=True, haze=True)(
        x, seen, torch.Generator().manual_seed(1))
    level = got[:, :, 0] * CARD.std[0]
    assert 1.9 < level.abs().max() <= S1_DB
    assert (level == level[:, :1]).all()
    off = Augmentation.of("l8", replace(CARD, features=("ndvi",)), drop=0.0, jitter=False,
                          haze=True)
    assert off.haze is None  # an index without its bands
    for name, there in (("B01", True), ("blah", False)):
        more = replace(CARD, features=("B02", "B04", name))
        made = Augmentation.of("s2", more, drop=0.0, jitter=False, haze=True)
        assert (made.haze is not None) == there
    assert "haze" not in parse_row("mdico").config()
    assert parse_row("mdico+haze").config() != parse_row("mdico").config()
