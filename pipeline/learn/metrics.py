"""Scores of held-out predictions, and what a card keeps of them."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import f1_score

from pipeline.spec.tasks import Task


def metric_name(task: Task) -> str:
    """What ``score`` measures."""
    return "R2" if task.kind == "regression" else "weighted F1"


def score(task: Task, target: np.ndarray, output: np.ndarray) -> float:
    """Weighted F1 of class indices or (N, K) labels, or R2 of values (higher is better)."""
    if task.kind != "regression":
        return float(f1_score(target, output, average="weighted", zero_division=0))
    return r2(target, output)


def scores(task: Task, target: np.ndarray, output: np.ndarray) -> dict[str, float]:
    """All measures of a task, by name.

    Args:
        task: classification or regression.
        target: (N,) class indices, (N, K) labels, or values.
        output: the same, predicted.
    """
    named = {metric_name(task): score(task, target, output)}
    if task.kind == "classification":
        named["accuracy"] = float(np.mean(target == output))
    elif task.kind == "regression":
        named["RMSE"] = float(np.sqrt(np.mean((target - output) ** 2)))
    return named


def r2(target: np.ndarray, output: np.ndarray) -> float:
    """Coefficient of determination."""
    spread = np.sum((target - target.mean()) ** 2)
    return float(1 - np.sum((target - output) ** 2) / spread)


def decide(task: Task, raw: np.ndarray, mean: float, std: float) -> np.ndarray:
    """(N,) class indices or (N, K) labels of logits, or values in the task's unit of z-scores."""
    if task.kind == "classification":
        return raw.argmax(1)
    if task.kind == "multilabel":
        return (raw > 0).astype(int)
    return np.clip(raw[:, 0] * std + mean, *task.valid_range)


def fit_temperature(logits: np.ndarray, target: np.ndarray) -> float:
    """Softmax temperature with the least negative log-likelihood on held-out logits.

    Guo et al. 2017, arXiv:1706.04599. One bounded parameter: a grid is exact enough.

    Args:
        logits: (N, K).
        target: (N,) class indices.
    """
    grid = np.geomspace(0.1, 10, 201)
    losses = []
    for t in grid:
        scaled = logits.astype(np.float64) / t
        scaled -= scaled.max(1, keepdims=True)
        log_p = scaled - np.log(np.exp(scaled).sum(1, keepdims=True))
        losses.append(-log_p[np.arange(len(target)), target].mean())
    return float(grid[int(np.argmin(losses))])
