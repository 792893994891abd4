"""One cell of a table: one row (method, encoder, switches) trained and scored in one fold."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline.learn.fit import FUSED
from pipeline.learn.forests import fit_trees, flat, tree_outputs
from pipeline.learn.members import Trained, channels, place_names, train_row
from pipeline.learn.metrics import decide
from pipeline.learn.recipe import TREES, Row
from pipeline.learn.table import Table, Tensors, tensors


@dataclass(frozen=True)
class Split:
    """One fold of one seed.

    Attributes:
        seed, fold, folds: which one, of how many.
        train: (N,) bool, rows to learn from; an inner split of the same kind is cut from them.
        test: (N,) bool, rows that are scored and otherwise never looked at.
        kind: ``paper`` (single samples), ``site`` or ``transfer`` (whole groups).
    """

    seed: int
    fold: int
    folds: int
    train: np.ndarray
    test: np.ndarray
    kind: str


@dataclass(frozen=True)
class Found:
    """Held-out predictions of one sensor (``all`` for a fusion reference).

    Attributes:
        rows: (n,) rows of the table.
        value: (n,) class indices or values in the task's unit; (n, K) labels for multi-label.
        raw: (n, K) logits, or (n, 1) values in the task's unit.
    """

    rows: np.ndarray
    value: np.ndarray
    raw: np.ndarray


@dataclass(frozen=True)
class Cell:
    """What one row gave in one fold.

    Attributes:
        found: by sensor.
        history: named losses per epoch (of the first member).
        epochs: that the weights took (mean over the members); 0 for trees.
        seconds: of the CPU, training and prediction.
        temperature: by sensor, fitted on the inner split; empty where none was predicted.
        features: by sensor (n, D) embeddings of the scored rows, where asked for.
    """

    found: Mapping[str, Found]
    history: Mapping[str, np.ndarray]
    epochs: float
    seconds: float
    temperature: Mapping[str, float] = field(default_factory=dict)
    features: Mapping[str, np.ndarray] = field(default_factory=dict)


def run_cell(
    table: Table, split: Split, row: Row, *, features: bool = False, device: str = "cpu",
) -> Cell:
    """Train one row on ``split.train`` and predict ``split.test`` from each sensor alone.

    Args:
        table: all samples.
        split: the fold.
        row: what to train.
        features: also keep the features of the scored rows.
        device: where networks are trained.
    """
    started = time.process_time()
    if row.method in TREES:
        data = tensors(table, split.train & table.labelled, context=channels(row),
                       static=place_names(table, row))
        at = _scored_rows(table, split, table.sensors)
        raw = {s: _tree_row(row.method, table, data, split, s, at[s]) for s in table.sensors}
        return Cell(_found(table, at, raw), {}, 0.0, time.process_time() - started)
    trained = train_row(table, row, split.train, split.kind, split.seed * 100 + split.fold,
                        device=device)
    at = _scored_rows(table, split, trained.sensors)
    raw = {s: trained.raw(s, at[s]) for s in trained.sensors}
    embedded = {s: z for s in trained.sensors
                if features and (z := _embed(trained, s, at[s])) is not None}
    history = {k: np.array(v) for k, v in trained.fitted[0].history.items()}
    return Cell(_found(table, at, raw), history, trained.epochs, time.process_time() - started,
                trained.temperatures(), embedded)


def _embed(trained: Trained, sensor: str, rows: np.ndarray) -> np.ndarray | None:
    """(n, D) features that the head works on; None where a method does not tell them."""
    embed = getattr(trained.module, "embed_all" if sensor == FUSED else "embed", None)
    if embed is None:
        return None
    with torch.inference_mode():
        if sensor == FUSED:
            z = embed({k: x[rows] for k, x in trained.data.inputs.items()})
        else:
            z = embed(sensor, trained.data.inputs[sensor][rows])
    return z.float().cpu().numpy()


def _scored_rows(
    table: Table, split: Split, sensors: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Rows that each sensor is scored on; a fusion reference on those that have all sensors."""
    single = {s: split.test & table.scored(s) for s in table.sensors}
    every = np.logical_and.reduce(list(single.values()))
    return {s: np.flatnonzero(every if s == FUSED else single[s]) for s in sensors}


def _found(
    table: Table, at: Mapping[str, np.ndarray], raw: Mapping[str, np.ndarray]
) -> dict[str, Found]:
    return {s: Found(at[s], decide(table.task, raw[s], 0.0, 1.0), raw[s]) for s in raw}


def _tree_row(kind: str, table: Table, data: Tensors, split: Split, sensor: str,
              at: np.ndarray) -> np.ndarray:
    """(n, K) outputs of a tree baseline, fitted on all training rows of the sensor."""
    x = flat(data.inputs[sensor], data.cards[sensor], alone=kind == "no-satellite")
    if x.shape[1] == 0:
        x = np.zeros((len(x), 1), np.float32)  # nothing is known: the mean
    has = data.present[:, list(data.inputs).index(sensor)].cpu().numpy()
    rows = np.flatnonzero(split.train & table.primary & table.labelled & has)
    model = fit_trees(kind, table.task, x[rows], table.target[rows], split.seed)
    return tree_outputs(model, table.task, x[at])
