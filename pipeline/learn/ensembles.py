"""What stands beside the networks of a row, trees on the same inputs, and how much each weighs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

import models
from pipeline.learn.augment import augmentations
from pipeline.learn.fit import Fitted, pick_rows, predict
from pipeline.learn.forests import as_module, boosted_module, fit_trees, flat
from pipeline.learn.recipe import Row
from pipeline.learn.table import Table, Tensors

Trees = Mapping[str, Mapping[str, models.Forest]]  # by kind (models.ensemble.BESIDE) and sensor

_COPIES = 2  # augmented copies of each row that trees learn from, beside the row itself
_TENTHS = 10  # weights are tried in tenths
_LEAST = 1e-4  # probability


def trees_beside(
    table: Table, data: Tensors, row: Row, train: np.ndarray, seed: int
) -> Trees:
    """The trees of a row, on rows augmented as the networks' are; empty where it has none.

    Args:
        table, data: all samples.
        row: of a network.
        train: (N,) bool, rows with a label to learn from.
        seed: of trees and augmentations.
    """
    return {kind: _grown(table, data, row, train, seed, kind) for kind in row.recipe.trees}


def _grown(
    table: Table, data: Tensors, row: Row, train: np.ndarray, seed: int, kind: str
) -> dict[str, models.Forest]:
    """Trees of one kind, by sensor."""
    fitted_as = {"forests": "extra-trees", "boosted": "gradient-boosting", "prior": "no-satellite"}
    alone = kind == "prior"
    settings = row.recipe.settings
    augment = augmentations(data.cards, drop=settings.drop, jitter=settings.jitter,
                            hide=settings.hide, blur=settings.blur, haze=settings.haze)
    generator = torch.Generator().manual_seed(seed)
    copies = _COPIES if settings.drop or settings.jitter or settings.hide or settings.haze else 0
    found = {}
    for k, sensor in enumerate(data.inputs):
        rows = np.flatnonzero(train & table.primary & data.present[:, k].cpu().numpy())
        x, seen = data.inputs[sensor][rows], data.seen[sensor][rows]
        many = [x, *(augment[sensor](x, seen, generator) for _ in range(copies))]
        seen_by = np.concatenate([flat(m, data.cards[sensor], alone=alone) for m in many])
        model = fit_trees(fitted_as[kind], table.task, seen_by,
                          np.tile(table.target[rows], len(many)), seed,
                          count=100, leaf=2 * len(many))
        found[sensor] = (boosted_module(model, table.task, data, sensor) if kind == "boosted" else
                         as_module(model, table.task, data, sensor, alone=alone))
    return found


def shares_of(
    table: Table, data: Tensors, row: Row, train: np.ndarray, seed: int,
    fitted: Sequence[Fitted], held: Sequence[np.ndarray],
) -> dict[str, Tensor]:
    """How much networks and trees weigh for each sensor: what serves rows best that none of them
    learned from (stacked generalisation: Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1, with
    weights that are not negative: Breiman 1996, doi:10.1007/BF00117832).

    For each inner part that is the network that it stopped, and trees that are grown without it.

    Args:
        table, data, row, train, seed: as of ``trees_beside``.
        fitted: the row's networks.
        held: (N,) bool each, the inner part of each network.

    Returns:
        Per sensor (M,): of the networks together, then of the row's trees; their sum is 1.
    """
    said: dict[str, list[Tensor]] = {s: [] for s in data.inputs}  # (M, n, K) each
    target: dict[str, list[Tensor]] = {s: [] for s in data.inputs}
    for network, part in zip(fitted, held, strict=True):
        beside = trees_beside(table, data, row, train & ~part, seed)
        for sensor in data.inputs:
            rows = pick_rows(data, part & table.primary, sensor)
            out = predict(network.module, data, sensor, rows).float()
            both = models.Ensemble([network.module], beside, len(table.task.classes) or 1)
            said[sensor].append(both.means(sensor, data.inputs[sensor][rows], [out]))
            target[sensor].append(data.target[rows])
    return {s: best(torch.cat(said[s], 1), torch.cat(target[s])) for s in said}


def best(said: Tensor, target: Tensor) -> Tensor:
    """(M,) weights in tenths of M models' (M, n, K) probabilities or values, by likelihood of the
    (n,) classes or squared error."""
    def loss(weights: Tensor) -> float:
        mixed = (weights[:, None, None] * said).sum(0)
        if mixed.shape[1] == 1:
            return float((mixed[:, 0] - target).square().mean())
        own = mixed.gather(1, target[:, None].long())
        return float(-own.clamp_min(_LEAST).log().mean())

    tried = [torch.tensor(t, dtype=said.dtype) / _TENTHS
             for t in product(range(_TENTHS + 1), repeat=len(said)) if sum(t) == _TENTHS]
    return min(tried, key=loss)
