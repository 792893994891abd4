"""Long tables of observations -> dense monthly series -> windows of a task's length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.prep.radiometry import to_db

_OCTOBER = 9  # month number counted from 0: the month that a northern season's window ends in
_SEASON = 2  # months on either side of the label's date that a window must hold


@dataclass(frozen=True)
class Windows:
    """W windows over the samples.

    Attributes:
        sample: (W,) index of the sample.
        first: (W,) month index of the first step.
        primary: (W,) bool, the sample's own window (exactly one a sample).
    """

    sample: np.ndarray
    first: np.ndarray
    primary: np.ndarray


def month_index(times: pd.Series) -> np.ndarray:
    """Month index (``spec.timeline``) of a column of dates."""
    return (times.dt.year * 12 + times.dt.month - 1).to_numpy()


def choose_windows(
    first: np.ndarray, last: np.ndarray, label: np.ndarray, steps: int, *, every: bool
) -> Windows:
    """Windows of ``steps`` months for each sample.

    The primary window ends in October of the label's year, or as near to it as the months of the
    sample allow. Other windows must hold the label's month and two months around it, or they
    would miss the crop that the label is about.

    Args:
        first, last: (S,) first and last month of each sample.
        label: (S,) month that the label was taken in; NaN where the source does not say.
        steps: T.
        every: also return the windows that are not primary.
    """
    rows: list[tuple[int, int, bool]] = []
    for k, (low, high) in enumerate(zip(first, last, strict=True)):
        starts = range(int(low), max(int(high) - steps + 1, int(low)) + 1)
        if np.isnan(label[k]):
            rows.append((k, starts[-1], True))
            continue
        date = int(label[k])
        wanted = date // 12 * 12 + _OCTOBER - steps + 1
        best = min(starts, key=lambda s: abs(s - wanted))
        rows.append((k, best, True))
        if every:
            rows += [
                (k, s, False) for s in starts
                if s != best and s <= date - _SEASON and s + steps - 1 >= date + _SEASON
            ]
    sample, start, primary = (np.array(column) for column in zip(*rows, strict=True))
    return Windows(sample, start, primary.astype(bool))


def monthly(
    rows: pd.DataFrame, sample: np.ndarray, month: np.ndarray, bands: Sequence[str], kind: str
) -> pd.DataFrame:
    """Rows of one sensor -> one row per sample and month.

    Several rows of a month (dekads) are composited as maps are: median of reflectance, mean of
    linear radar power.

    Args:
        rows: observations with the columns ``bands``.
        sample, month: of each row.
        bands: columns to keep.
        kind: ``optical`` or ``sar``.

    Returns:
        Frame indexed by (sample, month), float32.
    """
    table = rows[list(bands)].set_index([pd.Index(sample), pd.Index(month)])
    if table.index.is_unique:
        return table
    if kind == "optical":
        return table.groupby(level=[0, 1]).median().astype(np.float32)
    power = (10 ** (table.astype(np.float64) / 10)).groupby(level=[0, 1]).mean()
    return pd.DataFrame(to_db(power.to_numpy()), power.index, power.columns)


def cut(table: pd.DataFrame, windows: Windows, samples: int, steps: int) -> np.ndarray:
    """(W, T, B) float32 series of a monthly table, NaN where it has no row."""
    sample, month = (table.index.get_level_values(level).to_numpy() for level in (0, 1))
    low = np.full(samples, np.iinfo(np.int64).max)
    np.minimum.at(low, windows.sample, windows.first)
    high = np.zeros(samples, np.int64)
    np.maximum.at(high, windows.sample, windows.first + steps)
    length = int((high - low).max(initial=steps))
    dense = np.full((samples, length, table.shape[1]), np.nan, np.float32)  # (S, L, B)
    step = month - low[sample]
    inside = (step >= 0) & (step < length)
    dense[sample[inside], step[inside]] = table.to_numpy(np.float32)[inside]
    at = (windows.first - low[windows.sample])[:, None] + np.arange(steps)  # (W, T)
    return dense[windows.sample[:, None], at]
