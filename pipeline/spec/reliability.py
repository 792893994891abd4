"""Does a stated probability hold? Predictions in bins of their confidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 15  # as in Guo et al. 2017


@dataclass(frozen=True)
class Reliability:
    """Predictions in bins of their confidence; empty bins are left out.

    Attributes:
        confidence: (B,) mean probability of the predicted class.
        accuracy: (B,) share of the predictions that are right.
        count: (B,) predictions.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray

    @classmethod
    def of(
        cls, confidence: np.ndarray, right: np.ndarray, *, adaptive: bool = False
    ) -> Reliability:
        """Bin predictions.

        Args:
            confidence: (n,) probability of the predicted class, 0 to 1.
            right: (n,) bool.
            adaptive: ``BINS`` bins of equal count (Nixon et al. 2019, arXiv:1904.01685) instead of
                equal width: no bin is almost empty where confidences crowd.
        """
        if adaptive:
            rank = np.argsort(np.argsort(confidence, kind="stable"), kind="stable")
            at = rank * BINS // max(len(rank), 1)
        else:
            at = np.minimum((confidence * BINS).astype(int), BINS - 1)
        count = np.bincount(at, minlength=BINS)
        used = count > 0
        return cls(
            np.bincount(at, confidence, BINS)[used] / count[used],
            np.bincount(at, right, BINS)[used] / count[used], count[used],
        )

    @property
    def ece(self) -> float:
        """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3)."""
        gap = np.abs(self.accuracy - self.confidence)
        return float((gap * self.count).sum() / self.count.sum())
