"""Held-out evaluation: every method in the same folds, each stopped on rows that are not scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor

import models
from pipeline.learn.augment import thin
from pipeline.learn.fit import Fitted, Settings, fit, predict
from pipeline.learn.metrics import decide
from pipeline.learn.outcomes import Evaluation, Outcome
from pipeline.learn.splits import folds, hold_out, inner_split
from pipeline.learn.table import Table, Tensors, tensors

Log = Callable[[str], None]

INNER = "mdico, inner split"  # on the rows that stopped it: what settings are chosen by
TREES = "extra-trees"
SEASON = "extra-trees, season only"  # month of the samples, no satellite
_INNER_SHARE = 0.15
_DRAWS = 3  # random choices of the steps that are kept, per coverage
FIRST_OF = 5  # a single fold is the first of so many


@dataclass(frozen=True)
class Protocol:
    """How samples are split.

    Attributes:
        kind: ``site`` = whole groups, ``random`` = single samples.
        count: folds; 1 = only the first of ``FIRST_OF``.
        seeds: repetitions with other folds and other initial weights.
        seed: of the first.
        hold_out: sets that make the only test fold; empty = folds.
    """

    kind: str = "site"
    count: int = 5
    seeds: int = 1
    seed: int = 0
    hold_out: tuple[str, ...] = ()

    def splits(self, table: Table) -> Iterator[tuple[int, np.ndarray]]:
        """Seed and (N,) bool test rows of each fold."""
        groups = split_groups(table, self.kind)
        for seed in range(self.seed, self.seed + self.seeds):
            rng = np.random.default_rng(seed)
            if self.hold_out:
                masks = hold_out(table.names, groups, self.hold_out)
            else:
                parts = self.count if self.count > 1 else FIRST_OF
                masks = folds(groups, table.names, parts, rng)[: self.count]
            yield from ((seed, test) for test in masks)


def split_groups(table: Table, kind: str) -> np.ndarray:
    """(N,) what a split must not cut: groups, or samples for a random one."""
    return table.groups if kind == "site" else table.sample


def coverage_steps(steps: int) -> tuple[int, ...]:
    """Numbers of valid steps at which the coverage curve is measured."""
    return (*(k for k in (1, 2, 3, 4, 6, 8, 10, 12) if k < steps), steps)


@dataclass(frozen=True)
class Contest:
    """Who is trained in each fold, all with the same budget.

    Attributes:
        methods: registry keys; the first is the one whose coverage curve is taken.
        encoder: registry key.
        options: of ``models.build``.
        settings: of the training.
        trees: also score extra-trees.
    """

    methods: tuple[str, ...]
    encoder: str
    options: Mapping[str, Any]
    settings: Settings
    trees: bool


def evaluate(table: Table, protocol: Protocol, contest: Contest, log: Log) -> Evaluation:
    """Train and score every method in every fold; ``log`` is told once a fold."""
    result = Evaluation(table.task, table.target, table.names)
    for number, (seed, test) in enumerate(protocol.splits(table)):
        train, validate = inner_rows(table, ~test, protocol.kind, seed)
        _round(result, table, contest, train, validate, test, number, seed)
        means = (f"{s} {result.mean_of_last(contest.methods[0], s):.3f}" for s in table.sensors)
        log(f"fold {number + 1}: {', '.join(means)}; best epochs "
            f"{', '.join(f'{m} {e[-1]}' for m, e in result.epochs.items())}")
    return result


def evaluate_inner(table: Table, protocol: Protocol, contest: Contest) -> Evaluation:
    """Scores on the rows that stop the training: quick, and optimistic."""
    result = Evaluation(table.task, table.target, table.names)
    train, validate = inner_rows(table, np.ones(len(table.sample), bool), protocol.kind,
                                 protocol.seed)
    _round(result, table, contest, train, validate, validate, 0, protocol.seed)
    return result


def _round(
    result: Evaluation, table: Table, contest: Contest, train: np.ndarray, validate: np.ndarray,
    test: np.ndarray, number: int, seed: int,
) -> None:
    """Train every method on ``train``, stop it by ``validate``, score it on ``test``."""
    data = tensors(table, train)
    for method in contest.methods:
        fitted = fit_network(method, contest, data, table, train, validate, seed)
        result.epochs.setdefault(method, []).append(fitted.epochs)
        for sensor in table.sensors:
            at = np.flatnonzero(test & table.scored(sensor))
            add = _Adder(result, table, data, fitted, sensor, number)
            add(method, at)
            if method == contest.methods[0]:
                add(INNER, np.flatnonzero(validate & table.scored(sensor)))
                add.thinned(method, at, seed)
    if contest.trees:
        _trees(result, table, data, ~test & table.primary, test, number, seed)


def inner_rows(
    table: Table, train: np.ndarray, kind: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Training rows without, and primary rows of, the part that stops the training."""
    at = np.flatnonzero(train)
    inner = np.zeros(len(train), bool)
    inner[at] = inner_split(split_groups(table, kind)[at], table.names[at], _INNER_SHARE,
                            np.random.default_rng(seed + 1000))
    return train & ~inner, inner & table.primary


def fit_network(
    method: str, contest: Contest, data: Tensors, table: Table, train: np.ndarray,
    validate: np.ndarray | None, seed: int,
) -> Fitted:
    """A freshly initialised network, trained."""
    torch.manual_seed(seed)  # initial weights and dropout
    module = models.build(method, contest.encoder, contest.options)
    return fit(module, data, table.sample, train, validate, contest.settings, seed)


class _Adder:
    """Predicts rows of one sensor and adds the outcome."""

    def __init__(self, result: Evaluation, table: Table, data: Tensors, fitted: Fitted,
                 sensor: str, split: int) -> None:
        self.result, self.task, self.data = result, table.task, data
        self.module, self.sensor, self.split = fitted.module, sensor, split

    def __call__(self, method: str, rows: np.ndarray, x: torch.Tensor | None = None,
                 kept: int = 0) -> None:
        x = self.data.inputs[self.sensor][rows] if x is None else x
        if len(rows) == 0:
            return
        raw = predict(self.module, self.sensor, x).numpy()
        value = decide(self.task, raw, self.data.mean, self.data.std)
        self.result.outcomes.append(
            Outcome(method, self.sensor, self.split, rows, value, raw, kept)
        )

    def thinned(self, method: str, rows: np.ndarray, seed: int) -> None:
        """The same rows with only so many of their valid steps."""
        generator = torch.Generator().manual_seed(seed)
        repeated = np.tile(rows, _DRAWS)
        x = self.data.inputs[self.sensor][repeated]
        features = len(self.data.cards[self.sensor].features)
        for kept in coverage_steps(self.task.steps):
            count = torch.full((len(x),), kept)
            self(method, repeated, thin(x, features, count, generator), kept)


def _trees(result: Evaluation, table: Table, data: Tensors, train: np.ndarray, test: np.ndarray,
           split: int, seed: int) -> None:
    """Extra-trees on the same model input, and on its season alone; no stopping is needed."""
    for sensor in table.sensors:
        x = data.inputs[sensor].numpy()
        scored = table.scored(sensor)
        fit_rows = np.flatnonzero(train & data.present[:, table.sensors.index(sensor)].numpy())
        at = np.flatnonzero(test & scored)
        if len(at) == 0:
            continue
        for name, part in ((TREES, x), (SEASON, x[..., -2:])):
            flat = part.reshape(len(x), -1)  # (N, T, C) -> (N, T * C)
            kind = (ExtraTreesClassifier if table.task.kind == "classification"
                    else ExtraTreesRegressor)
            model = kind(n_estimators=300, min_samples_leaf=2, n_jobs=1, random_state=seed)
            model.fit(flat[fit_rows], table.target[fit_rows])
            value = model.predict(flat[at])
            result.outcomes.append(Outcome(name, sensor, split, at, value, np.empty((0, 0))))
