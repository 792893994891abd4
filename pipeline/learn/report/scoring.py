"""Cells -> a tidy frame of scores: one line per row, sensor, fold and measure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from pipeline.learn.cell import Cell, Found, Split
from pipeline.learn.fit import FUSED
from pipeline.learn.metrics import decide, scores
from pipeline.learn.outcomes import FEWEST
from pipeline.learn.recipe import TREES, Row
from pipeline.learn.reliability import reliability
from pipeline.spec.tasks import Task

# `cpu_seconds` and `epochs` are of the cell, which predicts all of its sensors; `fold` is missing
# where a measure is taken over all rows of a seed ("pooled").
COLUMNS = ("benchmark", "protocol", "method", "switches", "encoder", "sensor", "share", "seed",
           "fold", "metric", "value", "n", "epochs", "cpu_seconds")
ECE, ECE_SCALED, POOLED = "ECE", "ECE, temperature", "pooled "
LOWER_IS_BETTER = ("RMSE", POOLED + "RMSE", ECE, ECE_SCALED)


@dataclass(frozen=True)
class Done:
    """One finished cell and what it is of; ``share`` of the training samples was used."""

    row: Row
    split: Split
    share: float
    cell: Cell


def encoder_of(row: Row) -> str:
    """Encoder of a row; empty for trees, which have none."""
    return "" if row.method in TREES else row.encoder


def tidy(
    done: Sequence[Done], task: Task, target: np.ndarray, benchmark: str, protocol: str
) -> pd.DataFrame:
    """Scores of all cells.

    A sensor with fewer than ``FEWEST`` rows in a fold has no score there, but its rows count in
    the pooled measures of a regression.

    Args:
        done: finished cells.
        task: of the benchmark.
        target: (N,) class indices or values, (N, K) labels for multi-label.
        benchmark, protocol: written beside every score.

    Returns:
        Frame with ``COLUMNS``.
    """
    lines: list[dict[str, Any]] = []
    pools: dict[tuple[str, str, float, int, str], list[Found]] = {}
    rows: dict[tuple[str, str], Row] = {}
    for d in done:
        rows[d.row.text, d.row.encoder] = d.row
        for sensor, found in {**d.cell.found, **together(d.cell, task)}.items():
            head = _head(d.row, sensor, d.share, d.split.seed)
            tail = {"epochs": d.cell.epochs, "cpu_seconds": d.cell.seconds}
            measures = cell_scores(task, target, found, d.cell.temperature.get(sensor))
            calibrated = all(s in d.cell.temperature for s in d.cell.found)
            if sensor not in d.cell.found and calibrated and ECE in measures:
                measures[ECE_SCALED] = measures.pop(ECE)
            lines += [{**head, "fold": d.split.fold, "metric": m, "value": v,
                       "n": len(found.rows), **tail} for m, v in measures.items()]
            key = (d.row.text, d.row.encoder, d.share, d.split.seed, sensor)
            pools.setdefault(key, []).append(found)
    if task.kind == "regression":
        for (text, encoder, share, seed, sensor), parts in pools.items():
            head = _head(rows[text, encoder], sensor, share, seed)
            lines += [{**head, **line} for line in _pooled(task, target, parts)]
    frame = pd.DataFrame(lines, columns=[c for c in COLUMNS if c not in ("benchmark", "protocol")])
    frame.insert(0, "protocol", protocol)
    frame.insert(0, "benchmark", benchmark)
    return frame.astype({"fold": "Int64", "n": "int64", "seed": "int64"})


def together(cell: Cell, task: Task) -> dict[str, Found]:
    """The sensors' predictions as one, under the name of a fusion reference's; empty where the cell
    has that, or a single sensor.

    The mean of the values, or of the logarithms of the calibrated probabilities, of rows that every
    sensor is scored on. (``pipeline.map --sensor all`` also weighs sensors by the card's scores,
    and leaves out what lies outside the training domain.)
    """
    if FUSED in cell.found or len(cell.found) < 2:
        return {}
    every = list(cell.found.values())
    rows = reduce(np.intersect1d, [found.rows for found in every])
    parts = [found.raw[np.searchsorted(found.rows, rows)] / cell.temperature.get(sensor, 1.0)
             for sensor, found in cell.found.items()]
    if task.kind == "classification":
        parts = [log_softmax(part, axis=1) for part in parts]
    raw = np.mean(parts, axis=0)
    return {FUSED: Found(rows, decide(task, raw, 0.0, 1.0), raw)}


def cell_scores(
    task: Task, target: np.ndarray, found: Found, temperature: float | None
) -> dict[str, float]:
    """All measures of one sensor in one fold; none where its rows are too few or all alike.

    Args:
        task: of the benchmark.
        target: of all rows.
        found: held-out predictions.
        temperature: fitted on rows that are not scored; None where there is none.
    """
    mine = target[found.rows]
    if not scorable(task, mine):
        return {}
    measures = dict(scores(task, mine, found.value))
    if task.kind == "classification" and found.raw.shape[1:] == (len(task.classes),):
        measures[ECE] = reliability(found.raw, mine).ece
        if temperature is not None:
            measures[ECE_SCALED] = reliability(found.raw, mine, temperature).ece
    return measures


def scorable(task: Task, target: np.ndarray) -> bool:
    """Whether so many samples, not all alike, have a score."""
    return len(target) >= FEWEST and (task.kind != "regression" or np.ptp(target) > 0)


def _head(row: Row, sensor: str, share: float, seed: int) -> dict[str, Any]:
    return {"method": row.method, "switches": "+".join(row.switches), "encoder": encoder_of(row),
            "sensor": sensor, "share": share, "seed": seed}


def _pooled(task: Task, target: np.ndarray, parts: Sequence[Found]) -> Iterator[dict[str, Any]]:
    """Measures over all held-out rows of one seed: folds differ in spread, and R2 with them."""
    rows = np.concatenate([p.rows for p in parts])
    if not scorable(task, target[rows]):
        return
    value = np.concatenate([p.value for p in parts])
    for metric, v in scores(task, target[rows], value).items():
        yield {"fold": None, "metric": POOLED + metric, "value": v, "n": len(rows),
               "epochs": np.nan, "cpu_seconds": np.nan}
