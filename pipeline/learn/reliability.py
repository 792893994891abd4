"""Reliability of held-out logits."""

from __future__ import annotations

import numpy as np

from pipeline.spec.reliability import Reliability


def reliability(
    logits: np.ndarray, target: np.ndarray, temperature: float | np.ndarray = 1.0,
    *, adaptive: bool = False,
) -> Reliability:
    """Bin held-out predictions by confidence.

    Args:
        logits: (n, K), n at least 1.
        target: (n,) class indices.
        temperature: that the logits are divided by, one or (n,).
        adaptive: bins of equal count instead of equal width.
    """
    p = softmax(logits / np.broadcast_to(temperature, len(logits))[:, None])
    return Reliability.of(p.max(1), p.argmax(1) == target, adaptive=adaptive)


def softmax(logits: np.ndarray) -> np.ndarray:
    """(n, K) probabilities."""
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)
