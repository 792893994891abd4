"""Place features of labelled samples: columns of ``samples.parquet``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.data.sample_set import KnownSet
from pipeline.spec.context import GROUPS, PLACE
from pipeline.spec.errors import DataTrouble

PREFIX = "static_"  # of columns: a label column may be called "crop", too


def place_columns(samples: pd.DataFrame, known: KnownSet, path: Path) -> dict[str, np.ndarray]:
    """Place features that the samples come with.

    Args:
        samples: N rows of ``samples.parquet``. A column ``static_NAME`` holds the feature of that
            name; a user may add one that no map layer gives, such as ``static_canopy_height``.
        known: names the columns of a published set, and its land-cover legend.
        path: of the set, for messages.

    Returns:
        By name, (N,) float32, NaN where unknown.

    Raises:
        DataTrouble: a column does not hold numbers.
    """
    columns = {name: PREFIX + name for name in PLACE} | {v: k for k, v in known.place.items()}
    found = {name: _numbers(samples[c], path) for name, c in columns.items() if c in samples}
    if known.landcover is not None and known.landcover[0] in samples:
        column, legend = known.landcover
        shares: list[Mapping[str, float] | None] = [legend.get(c) for c in samples[column]]
        found |= {
            group: np.array([np.nan if s is None else s.get(group, 0.0) for s in shares],
                            np.float32)
            for group in GROUPS
        }
    return found


def _numbers(column: pd.Series, path: Path) -> np.ndarray:
    """(N,) float32; infinities and nulls are unknown."""
    try:
        values = pd.to_numeric(column).to_numpy(np.float32, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise DataTrouble(f"column {column.name} of {path} does not hold numbers",
                          got=str(error)[:200]) from None
    return np.where(np.isfinite(values), values, np.float32(np.nan))
