"""Acquisitions -> monthly composites, pixel by pixel; then read pixels -> map pixels."""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np


def merge_passes(values: np.ndarray, passes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Acquisitions of the same pass (overlapping tiles, neighbouring frames) become one.

    Args:
        values: [N, Y, X] physical values, NaN = none; items of one pass in order of preference.
        passes: [N] pass number of each acquisition.

    Returns:
        [P, Y, X] values, the first valid one of each pass, and the [P] pass numbers, ascending.
    """
    unique = np.unique(passes)
    if unique.size == passes.size:
        order = np.argsort(passes, kind="stable")
        return values[order], unique
    merged = np.empty((unique.size, *values.shape[1:]), values.dtype)
    for row, number in enumerate(unique):
        first, *rest = np.flatnonzero(passes == number)
        out = values[first].copy()
        for other in rest:
            np.copyto(out, values[other], where=np.isnan(out))
        merged[row] = out
    return merged, unique


def composite(
    values: np.ndarray,
    steps: np.ndarray,
    passes: np.ndarray,
    n_steps: int,
    kind: Literal["optical", "sar"],
) -> tuple[np.ndarray, np.ndarray]:
    """Composite of each step: median (optical reflectance) or mean (linear radar power).

    Args:
        values: [N, Y, X] float32 physical values, NaN = no valid observation.
        steps: [N] step of each acquisition, 0 to ``n_steps - 1``.
        passes: [N] pass number; acquisitions of one pass count once.
        n_steps: T.
        kind: of the sensor.

    Returns:
        [T, Y, X] float32 composite, NaN for gaps (still linear for radar), and [T, Y, X] uint8
        number of passes that went in.
    """
    out = np.full((n_steps, *values.shape[1:]), np.nan, np.float32)
    count = np.zeros(out.shape, np.uint8)
    for step in np.unique(steps):
        member = np.flatnonzero(steps == step)
        stack, _ = merge_passes(values[member], passes[member])
        count[step] = np.minimum(np.isfinite(stack).sum(0), 255)
        out[step] = nan_median(stack) if kind == "optical" else nan_mean(stack)
    return out, count


def nan_median(stack: np.ndarray) -> np.ndarray:
    """Median over axis 0 without NaNs; NaN where all are. Even counts: mean of the middle two."""
    ordered = np.sort(stack, axis=0)  # NaN sorts last
    n = np.isfinite(stack).sum(0)
    low = np.take_along_axis(ordered, np.maximum((n - 1) // 2, 0)[None], 0)[0]
    high = np.take_along_axis(ordered, np.minimum(n // 2, len(stack) - 1)[None], 0)[0]
    return np.where(n > 0, (low + high) * np.float32(0.5), np.float32(np.nan))


def nan_mean(stack: np.ndarray) -> np.ndarray:
    """Mean over axis 0 without NaNs, summed in float64; NaN where all are."""
    n = np.isfinite(stack).sum(0)
    total = np.nansum(stack, axis=0, dtype=np.float64)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan).astype(np.float32)


def aggregate(values: np.ndarray, factor: int) -> np.ndarray:
    """Mean of the valid pixels of each ``factor`` x ``factor`` block of the last two axes.

    Reflectance and linear power may be averaged; call it before decibels.
    """
    if factor == 1:
        return values
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")  # a block of gaps is a gap
        mean = np.nanmean(_blocks(values, factor), axis=(-3, -1), dtype=np.float64)
    return np.asarray(mean, np.float32)


def aggregate_count(count: np.ndarray, factor: int) -> np.ndarray:
    """Observations of a block: the most that any of its pixels has."""
    return count if factor == 1 else _blocks(count, factor).max(axis=(-3, -1))


def _blocks(values: np.ndarray, factor: int) -> np.ndarray:
    *lead, h, w = values.shape
    return values.reshape(*lead, h // factor, factor, w // factor, factor)
