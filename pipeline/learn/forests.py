"""Tree baselines on the networks' own input, and the teacher that sees every sensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.multioutput import MultiOutputClassifier
from torch import Tensor

from models import Forest
from pipeline.learn.augment import Layout
from pipeline.learn.table import Tensors
from pipeline.spec.card import SensorCard
from pipeline.spec.tasks import Task

_COUNT = 300
_NEVER = -30.0  # logit of a class that was not learnt


def columns(x: Tensor, card: SensorCard, *, alone: bool = False) -> np.ndarray:
    """(D,) columns of the flattened input (N, T * C) that trees look at.

    The features of every step; season and place once, as they are at the last step.

    Args:
        x: (N, T, C) input of the networks.
        card: what its channels are.
        alone: season and place only: what is known without any satellite.
    """
    layout = Layout.of(card)
    _, steps, channels = x.shape[:3]
    known = {*range(layout.features), layout.valid}
    return np.array([t * channels + c for t in range(steps) for c in range(channels)
                     if (not alone if c in known else t == steps - 1)], int)


def flat(x: Tensor, card: SensorCard, *, alone: bool = False) -> np.ndarray:
    """(N, D) input of trees, from the networks' input (N, T, C) (of images their mean pixel);
    ``alone`` as of ``columns``."""
    if x.dim() > 3:
        x = x.flatten(3).mean(3)
    return x.flatten(1)[:, torch.from_numpy(columns(x, card, alone=alone))].cpu().numpy()


def fit_trees(kind: str, task: Task, x: np.ndarray, y: np.ndarray, seed: int, *,
              bag: bool = False, count: int = _COUNT, leaf: int = 2) -> Any:
    """A fitted scikit-learn ensemble.

    Args:
        kind: ``extra-trees``, ``no-satellite`` (extra-trees, too) or ``gradient-boosting``.
        task: classification or regression.
        x, y: (N, D) and (N,).
        seed: of the trees.
        bag: draw each tree's samples, so that there are out-of-bag predictions.
        count: trees of a forest.
        leaf: fewest samples of a leaf of a forest.
    """
    classes = task.kind != "regression"
    if kind == "gradient-boosting":
        boosted = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
        model = boosted(learning_rate=0.04, max_iter=200, early_stopping=False, random_state=seed)
        return (MultiOutputClassifier(model) if y.ndim > 1 else model).fit(x, y)
    forest = ExtraTreesClassifier if classes else ExtraTreesRegressor
    return forest(n_estimators=count, min_samples_leaf=leaf, bootstrap=bag, oob_score=bag, n_jobs=1,
                  random_state=seed).fit(x, y)


def tree_outputs(model: Any, task: Task, x: np.ndarray) -> np.ndarray:
    """(n, K) log probabilities in the order of the task's classes (logits of labels that do not
    exclude each other), or (n, 1) values."""
    if task.kind == "regression":
        return model.predict(x)[:, None]
    if task.kind == "multilabel":
        yes = [1 - p[:, 0] if len(p[0]) > 1 else np.full(len(p), float(c[0]))
               for p, c in zip(model.predict_proba(x), model.classes_, strict=True)]
        return log_probability(np.stack(yes, 1)) - log_probability(1 - np.stack(yes, 1))
    return log_probability(_by_class(model, model.predict_proba(x), len(task.classes)))


def teacher(data: Tensors, task: Task, train: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """What extra-trees on all sensors say of the rows: honest for training rows, too.

    Args:
        data: all rows.
        task: classification or regression.
        train: (N,) bool rows with a label that may be learnt from; out-of-bag predictions there.
        y: (N,) class indices or values.
        seed: of the trees.

    Returns:
        (N, K) probabilities, or (N, 1) values.
    """
    x = np.concatenate([flat(data.inputs[s], data.cards[s]) for s in data.inputs], axis=1)
    model = fit_trees("extra-trees", task, x[train], y[train], seed, bag=True)
    if task.kind != "classification":
        out = model.predict(x)
        out[train] = model.oob_prediction_
        return out[:, None]
    out = model.predict_proba(x)
    out[train] = model.oob_decision_function_
    return _by_class(model, out, len(task.classes))


def as_module(model: Any, task: Task, data: Tensors, sensor: str, *, alone: bool = False) -> Forest:
    """A fitted scikit-learn forest as tensors that give the same predictions.

    Args:
        model: extra-trees, fitted on ``flat`` input.
        task: of the model.
        data: its normalisation of the target.
        sensor: whose input the model takes.
        alone: as of ``flat``.
    """
    trees = [e.tree_ for e in model.estimators_]
    outputs = len(task.classes) or 1
    module = Forest(len(trees), max(t.node_count for t in trees),
                    max(t.max_depth for t in trees), outputs)
    place = columns(data.inputs[sensor], data.cards[sensor], alone=alone)
    for k, tree in enumerate(trees):
        value = tree.value[:, 0]  # (nodes, classes seen) or (nodes, 1)
        if task.kind == "classification":
            value = _by_class(model, value / value.sum(1, keepdims=True), outputs)
        else:
            value = (value - data.mean) / data.std
        _plant(module, k, place, tree.feature, tree.threshold, tree.children_left,
               tree.children_right, value)
    return module


def boosted_module(model: Any, task: Task, data: Tensors, sensor: str) -> Forest:
    """Boosted trees of scikit-learn as tensors: their sum, as the mean of a ``Forest``.

    Args:
        model: gradient boosting, fitted on ``flat`` input.
        task, data, sensor: as for ``as_module``.

    Returns:
        Gives logits, or standardised values.
    """
    # scikit-learn keeps the trees of its histogram boosting to itself; a test holds this against
    # its predictions
    rounds, start = model._predictors, np.ravel(model._baseline_prediction)
    trees = [(column, p.nodes) for row in rounds for column, p in enumerate(row)]
    outputs = len(task.classes) or 1
    module = Forest(len(trees), max(len(n) for _, n in trees),
                    max(int(n["depth"].max()) for _, n in trees), outputs)
    place = columns(data.inputs[sensor], data.cards[sensor])
    if task.kind == "classification":
        seen = model.classes_.astype(int)
        offset = np.full(outputs, _NEVER)  # of a class that the training rows lack
        offset[seen] = start if len(seen) > 2 else (0, start[0])
        into = seen if len(seen) > 2 else seen[1:]  # of two classes one logit is kept
    else:
        offset, into = (start - data.mean) / data.std, np.zeros(1, int)
    for k, (column, nodes) in enumerate(trees):
        value = np.tile(offset, (len(nodes), 1))
        scale = 1 if task.kind == "classification" else data.std
        value[:, into[column]] += len(trees) * nodes["value"] / scale
        leaf = nodes["is_leaf"].astype(bool)
        _plant(module, k, place, nodes["feature_idx"], nodes["num_threshold"],
               np.where(leaf, -1, nodes["left"].astype(int)),
               np.where(leaf, -1, nodes["right"].astype(int)), value)
    return module


def _plant(
    module: Forest, k: int, place: np.ndarray, feature: np.ndarray, threshold: np.ndarray,
    left: np.ndarray, right: np.ndarray, value: np.ndarray,
) -> None:
    """Write tree ``k``; a node without children (-1) is a leaf, which leads to itself."""
    inner, stay = left >= 0, np.arange(len(left))
    for name, content in (
        ("feature", np.where(inner, place[np.where(inner, feature, 0)], 0)),
        ("left", np.where(inner, left, stay)),
        ("right", np.where(inner, right, stay)),
        ("threshold", _below(threshold)),
        ("value", value),
    ):
        buffer = getattr(module, name)
        buffer[k, : len(left)] = torch.from_numpy(content).to(buffer.dtype)


def _below(threshold: np.ndarray) -> np.ndarray:
    """The largest float32 that is not above: it parts float32 values as the float64 does."""
    near = threshold.astype(np.float32)
    return np.where(near > threshold, np.nextafter(near, np.float32(-np.inf)), near)


def log_probability(p: np.ndarray) -> np.ndarray:
    """Logits of probabilities; a forest's zeros stay finite."""
    return np.log(np.clip(p, 1e-4, 1))


def _by_class(model: Any, p: np.ndarray, count: int) -> np.ndarray:
    """Probabilities of all classes; one that the training rows lack gets zero."""
    out = np.zeros((len(p), count))
    out[:, model.classes_.astype(int)] = p
    return out
