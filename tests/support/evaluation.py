"""A made-up benchmark and rows that train in no time, for the tests of the evaluation."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

import numpy as np

from pipeline.learn.campaign import Campaign
from pipeline.learn.cell import Cell, Found, Split
from pipeline.learn.protocols import make_plan
from pipeline.learn.recipe import TREES, Row, parse_row
from pipeline.learn.table import Table
from pipeline.spec.errors import BadRequest
from pipeline.spec.sensors import SENSORS
from pipeline.spec.tasks import task

# row -> share of the target's variance that it explains (or of the labels that it gets right)
SKILL = {"individual": 0.5, "mdico": 0.6, "extra-trees": 0.4}


def toy_table(kind: str = "lfmc", n: int = 120, places: int = 24, seed: int = 0) -> Table:
    """Samples of several places with two sensors; every fifth lacks l8."""
    chosen, rng = task(kind), np.random.default_rng(seed)
    place = np.arange(n) % places
    if chosen.kind == "regression":
        target = 100 + 20 * rng.normal(size=places)[place] + 20 * rng.normal(size=n)
    else:
        target = (rng.random(n) < 0.5).astype(np.int64)
    series, bands = {}, {}
    for key in ("s1", "l8"):
        bands[key] = tuple(b for b in SENSORS[key].band_names)
        x = rng.normal(0.3, 0.1, (n, chosen.steps, len(bands[key]))).astype(np.float32)
        if key == "l8":
            x[::5] = np.nan
        series[key] = (x, np.isfinite(x).any(-1))
    return Table(
        task=chosen, names=np.full(n, "toy"), sample=np.arange(n), groups=place, target=target,
        months=np.arange(chosen.steps) + 24000 + np.arange(n)[:, None] // places,
        primary=np.ones(n, bool), series=series, bands=bands,
        radiometry={"s1": ("sigma0",), "l8": ("landsat-c2-sr",)},
        derived={k: np.zeros(n, bool) for k in series},
        static={"lon": np.zeros(n, np.float32), "lat": np.zeros(n, np.float32)},
    )


def fake_cell(table: Table, split: Split, row: Row, *, features: bool = False) -> Cell:
    """Predictions that are as good as ``SKILL`` says, without any training."""
    rng = np.random.default_rng([split.seed, split.fold, len(row.text)])
    skill = SKILL.get(row.method, 0.3)
    sensors = ("all",) if row.method in ("mmgf", "inputfu") else table.sensors
    found = {}
    for sensor in sensors:
        rows = np.flatnonzero(split.test & (table.known if sensor == "all"
                                            else table.scored(sensor)))
        y = table.target[rows]
        if table.task.kind == "regression":
            raw = (y + np.sqrt(1 - skill) * y.std() * rng.normal(size=len(y)))[:, None]
            found[sensor] = Found(rows, raw[:, 0], raw)
        else:
            value = np.where(rng.random(len(y)) < 0.5 + skill / 2, y, 1 - y)
            raw = 4 * (np.eye(2)[value] - 0.5) * rng.random((len(y), 1))
            found[sensor] = Found(rows, value, raw)
    epochs = 4 + split.fold % 3
    falling = np.exp(-np.arange(epochs + 2) / 3)
    size = {s: rng.normal(size=(len(f.rows), 6)) for s, f in found.items()}
    return Cell(
        found, {"main": falling, "contrastive": 3 * falling, "validation": 1 + falling},
        float(epochs), 0.5,
        {} if table.task.kind == "regression" or row.method in TREES
        else dict.fromkeys(found, 1.5),
        size if features else {},
    )


def refusing_cell(table: Table, split: Split, row: Row, *, features: bool = False) -> Cell:
    """As ``fake_cell``, but ESensI refuses."""
    if row.method == "esensi":
        raise BadRequest("made-up trouble")
    return fake_cell(table, split, row, features=features)


def dying_cell(table: Table, split: Split, row: Row, *, features: bool = False) -> Cell:
    """As ``fake_cell``, but the process is killed in the third fold."""
    if split.fold == 2:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    return fake_cell(table, split, row, features=features)


def slow_cell(table: Table, split: Split, row: Row, *, features: bool = False) -> Cell:
    """As ``fake_cell``, but from the third fold on it takes for ever, and says who it is."""
    if split.fold >= 2:
        Path(f"worker-{os.getpid()}").touch()
        time.sleep(600)
    return fake_cell(table, split, row, features=features)


def toy_campaign(
    folder: Path, rows: str = "individual,mdico,extra-trees", *, table: Table | None = None,
    protocol: str = "site", folds: int = 4, seeds: int = 2, shares: tuple[float, ...] = (1.0,),
) -> Campaign:
    """A campaign over the toy table."""
    table = table or toy_table()
    plan = make_plan(table, protocol, folds=folds, seeds=seeds)
    return Campaign("toy", table, plan, tuple(parse_row(r) for r in rows.split(",")), shares,
                    folder)


def changed(campaign: Campaign, **values: object) -> Campaign:
    """The campaign with other values."""
    return dataclasses.replace(campaign, **values)
