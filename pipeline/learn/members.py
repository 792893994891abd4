"""A row trained on some rows of a table: its networks, and the forests beside them, as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import models
from pipeline.learn.ensembles import Trees, shares_of, trees_beside
from pipeline.learn.fit import Fitted, Settings, fit, outputs_of, pick_rows, predict
from pipeline.learn.forests import teacher
from pipeline.learn.metrics import fit_temperature
from pipeline.learn.recipe import SEASON, Row
from pipeline.learn.splits import folds
from pipeline.learn.table import Table, Tensors, tensors
from pipeline.prep.features import CONTEXT

_STOP = 7  # a single network is stopped on one of so many parts of the training rows
_LOCATION = ("lon", "lat")


@dataclass(frozen=True)
class Trained:
    """A trained row.

    Attributes:
        table, data: that it was trained on, and as it sees them.
        fitted: its networks.
        held: (N,) bool per network: the rows that stopped it and that it did not learn from.
        module: all of it as one network.
        options: of ``models.build`` for ``module``.
    """

    table: Table
    data: Tensors
    fitted: tuple[Fitted, ...]
    held: tuple[np.ndarray, ...]
    module: nn.Module
    options: Mapping[str, Any]

    @property
    def sensors(self) -> tuple[str, ...]:
        """What it predicts from: each sensor, or all together."""
        return outputs_of(self.fitted[0].module, self.data)

    @property
    def epochs(self) -> float:
        """Mean over the networks."""
        return float(np.mean([f.epochs for f in self.fitted]))

    def raw(self, sensor: str, rows: np.ndarray) -> np.ndarray:
        """(n, K) logits or values in the task's unit."""
        out = predict(self.module, self.data, sensor, torch.from_numpy(rows))
        return out.float().cpu().numpy() * self.data.std + self.data.mean

    def out_of_fold(self, sensor: str) -> tuple[np.ndarray, np.ndarray]:
        """Rows that stopped a network and their raw outputs: not learnt from, and not scored."""
        rows, raw = [], []
        for fitted, held in zip(self.fitted, self.held, strict=True):
            pick = pick_rows(self.data, held & self.table.primary, sensor)
            rows.append(pick.cpu().numpy())
            out = predict(fitted.module, self.data, sensor, pick).float().cpu().numpy()
            raw.append(out * self.data.std + self.data.mean)
        return np.concatenate(rows), np.concatenate(raw)

    def temperatures(self) -> dict[str, float]:
        """Per sensor, fitted on rows that stopped the training.

        Empty for values, and for an average of several models: no row was kept from all of them.
        """
        if self.table.task.kind != "classification" or self.module is not self.fitted[0].module:
            return {}
        found = {}
        for sensor in self.sensors:
            rows, raw = self.out_of_fold(sensor)
            found[sensor] = fit_temperature(raw, self.table.target[rows])
        return found


def train_row(
    table: Table, row: Row, train: np.ndarray, kind: str, seed: int, *, device: str = "cpu",
    whole: int | None = None,
) -> Trained:
    """Train a row.

    Args:
        table: all samples.
        row: a network's (not trees).
        train: (N,) bool, rows to learn from, those that stop the training included.
        kind: ``paper`` or ``random`` cut the inner parts by sample, others by group.
        seed: of parts, initial weights and order.
        device: where to train.
        whole: learn from all of ``train`` for exactly so many epochs, nothing stops the training
            (of a row with one network).
    """
    recipe, more = row.recipe, train & ~table.labelled
    train = train & table.labelled
    data = tensors(table, train, context=channels(row), static=place_names(table, row),
                   device=device)
    if not recipe.weighted:
        data = replace(data, class_weights=None)
    parts = inner_parts(table, train, kind, seed, recipe.members)
    if not recipe.unlabelled:
        more = np.zeros(len(train), bool)
    soft, mixed = _target(table, data, train, more, seed, recipe.teach)
    train_one = _Trainer(table, row, train | more, seed)
    if whole is not None:
        settings = replace(recipe.settings, epochs=whole, patience=0)
        fitted = [train_one(0, mixed, soft, None, settings)]
        held = [np.zeros(len(train), bool)]
    else:
        held = parts[: recipe.members]
        fitted = [train_one(k, mixed, soft, part, recipe.settings)
                  for k, part in enumerate(held)]
    if recipe.distil:
        several = Trained(table, data, tuple(fitted), tuple(held), fitted[0].module, {})
        soft, mixed = _mixed(table, data, recipe.distil, _said(several))
        fitted, held = [train_one(0, mixed, soft, held[0], recipe.settings)], held[:1]
    options = network_options(table, data, row)
    module = fitted[0].module
    trees = trees_beside(table, data, row, train, seed)
    if len(fitted) > 1 or trees:
        shares = shares_of(table, data, row, train, seed, fitted, held) if recipe.weigh else {}
        module = models.Ensemble([f.module for f in fitted], trees, int(options["outputs"]), shares)
        options |= ensemble_options(len(fitted), trees)
        options |= {"shares": {s: len(w) for s, w in shares.items()}} if shares else {}
    return Trained(table, data, tuple(fitted), tuple(held), module.to(device).eval(), options)


def ensemble_options(members: int, trees: Trees) -> dict[str, Any]:
    """What ``models.build`` has to know of an ensemble: its networks, and the size of its trees."""
    return {"members": members} | {
        kind: {s: [*map(int, f.feature.shape), f.depth] for s, f in found.items()}
        for kind, found in trees.items()}


def channels(row: Row) -> tuple[str, ...]:
    """Context channels of a row, in the order that they always have."""
    return tuple(c for c in CONTEXT if c in row.recipe.context)


def place_names(table: Table, row: Row) -> tuple[str, ...]:
    """Place features that are inputs of a row: of those that a map of the task can have, too."""
    place = table.task.static if row.recipe.place else ()
    location = _LOCATION if row.recipe.location else ()
    return tuple(n for n in table.static_names if n in (*place, *location))


def known_without_satellite(table: Table, row: Row) -> tuple[str, ...]:
    """Season and place features of a row."""
    return (*(c for c in channels(row) if c in SEASON), *place_names(table, row))


def network_options(table: Table, data: Tensors, row: Row) -> dict[str, Any]:
    """Options of ``models.build`` for one network of a row on this input."""
    steps = {k: x.shape[1] for k, x in data.inputs.items()}
    one = set(steps.values())
    overrides = models.image_encoders({k: tuple(x.shape[1:]) for k, x in data.inputs.items()})
    weights = str(row.recipe.network.get("weights") or "")
    return models.complete(row.encoder, {
        "sensors": {k: x.shape[2] for k, x in data.inputs.items()},
        "steps": one.pop() if len(one) == 1 else steps,
        "outputs": len(table.task.classes) or 1, **row.recipe.network,
        **({"encoders": overrides} if overrides else {}),
        **({"embedding": models.width_of(weights, row.method, data.inputs)} if weights else {}),
    }, row.method)


def inner_parts(
    table: Table, train: np.ndarray, kind: str, seed: int, members: int
) -> list[np.ndarray]:
    """(N,) bool masks that cut the training rows, whole groups unless samples are split."""
    at = np.flatnonzero(train)
    groups = (table.sample if kind in ("paper", "random") else table.groups)[at]
    count = min(members if members > 1 else _STOP, len(np.unique(groups)))
    masks = []
    for part in folds(groups, table.names[at], count, np.random.default_rng(seed + 1000)):
        mask = np.zeros(len(train), bool)
        mask[at] = part
        masks.append(mask)
    return masks


class _Trainer:
    """Trains one network of a row; called once a member."""

    def __init__(self, table: Table, row: Row, train: np.ndarray, seed: int) -> None:
        self.table, self.row, self.train, self.seed = table, row, train, seed

    def __call__(self, member: int, data: Tensors, soft: Tensor | None, held: np.ndarray | None,
                 settings: Settings) -> Fitted:
        seed = self.seed * 10 + member
        torch.manual_seed(seed)  # initial weights and dropout
        options = network_options(self.table, data, self.row)
        module = models.build(self.row.method, self.row.encoder, options)
        train = self.train if held is None else self.train & ~held
        validate = None if held is None else held & self.table.primary
        return fit(module, data, self.table.sample, train, validate, settings, seed, soft)


def _target(
    table: Table, data: Tensors, train: np.ndarray, more: np.ndarray, seed: int, share: float
) -> tuple[Tensor | None, Tensors]:
    """Targets mixed with what extra-trees on all sensors say; rows without a label take it all."""
    if not share and not more.any():
        return None, data
    said = teacher(data, table.task, train & table.primary, table.target, seed)
    return _mixed(table, data, np.where(more, 1.0, share)[:, None], said)


def _mixed(
    table: Table, data: Tensors, share: float | np.ndarray, said: np.ndarray
) -> tuple[Tensor | None, Tensors]:
    """Probabilities to draw classes from, or moved values."""
    if table.task.kind == "classification":
        own = np.eye(len(table.task.classes))[table.target]  # a missing label gets no weight
        return torch.from_numpy((1 - share) * own + share * said), data
    part = share[:, 0] if isinstance(share, np.ndarray) else share
    mixed = (1 - part) * table.target + part * said[:, 0]
    z = torch.from_numpy(((mixed - data.mean) / data.std).astype(np.float32))
    return None, replace(data, target=z.to(data.target.device))


def _said(trained: Trained) -> np.ndarray:
    """(N, K) what networks say of the training rows that they did not learn from, mean over the
    sensors of a row: probabilities, or values in the task's unit."""
    task = trained.table.task
    total = np.zeros((len(trained.table.sample), len(task.classes) or 1))
    count = np.zeros(len(total))
    for fitted, held in zip(trained.fitted, trained.held, strict=True):
        for sensor in trained.sensors:
            rows = pick_rows(trained.data, held, sensor)
            out = predict(fitted.module, trained.data, sensor, rows).float()
            value = (out.softmax(1) if task.kind == "classification"
                     else out * trained.data.std + trained.data.mean)
            total[rows.cpu()] += value.cpu().numpy()
            count[rows.cpu()] += 1
    return total / np.maximum(count, 1)[:, None]
