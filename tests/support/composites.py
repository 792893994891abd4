"""Composites of whole series by the rules of ``pipeline.prep.composite``, in one call."""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipeline.prep.composite import mean, median, strips


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
    rule = median if kind == "optical" else mean
    for step in np.unique(steps):
        member = np.flatnonzero(steps == step)
        for rows in strips(out.shape[1:]):
            images = [values[k, rows] for k in member]
            out[step, rows], count[step, rows] = rule(images, passes[member])
    return out, count
