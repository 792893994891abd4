"""What an evaluation leaves behind: tidy scores, tables, figures, and how it was made."""

from __future__ import annotations

import math
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.data.files import atomic_write_json, atomic_write_text, replacing
from pipeline.learn.campaign import Campaign, Outcome
from pipeline.learn.cell_store import ENGINE, fingerprint
from pipeline.learn.fit import FUSED
from pipeline.learn.metrics import metric_name
from pipeline.learn.report.ceiling import label_noise, own_place
from pipeline.learn.report.figures import Picture, write_figures
from pipeline.learn.report.naming import sensor_title
from pipeline.learn.report.permutation import Places
from pipeline.learn.report.scoring import tidy
from pipeline.learn.report.standings import Standings
from pipeline.learn.report.tabulate import report
from pipeline.learn.report.temperatures import with_temperatures
from pipeline.spec.card import FEATURE_PATH

_PACKAGES = ("numpy", "pandas", "scikit-learn", "scipy", "torch")


@dataclass(frozen=True)
class Results:
    """An evaluation as written.

    Attributes:
        standings: scores.
        files: name -> path.
        table: the Markdown.
    """

    standings: Standings
    files: dict[str, Path]
    table: str


def write_results(
    out: Path, campaign: Campaign, outcome: Outcome, *, title: str, against: tuple[str, ...],
    figures: bool, request: Mapping[str, Any],
) -> Results:
    """Score the cells and write everything; ``run.json`` comes last.

    Args:
        out: folder.
        campaign: what was trained.
        outcome: what came of it.
        title: of the benchmark.
        against: references of the comparisons.
        figures: whether to draw.
        request: the command line's options, kept in ``run.json``.

    Raises:
        BadRequest: the folder cannot be written to.
        DataTrouble: the disk is full or failing.
    """
    table, plan = campaign.table, campaign.plan
    done = with_temperatures(outcome.done, table.task, table.target)
    frame = tidy(done, table.task, table.target, campaign.benchmark, plan.protocol)
    # with fewer training samples, each test sample weighs more (significance.corrected_t)
    standings = Standings(frame, campaign.rows, metric_name(table.task), table.sensors,
                          plan.test_share / max(campaign.shares), plan.given,
                          Places(done, table.task, table.target, table.groups))
    protocol = f"{plan.text}; {_samples(campaign)}"
    markdown = report(
        standings, title=title, protocol=protocol, against=against, empty=outcome.empty,
        place=own_place(table, plan.splits), noise=label_noise(table), unit=table.task.unit,
        regions=plan.names if plan.protocol == "transfer" else (),
    )
    files = {
        "scores": _frame(out / "scores.parquet", frame), "csv": _frame(out / "scores.csv", frame),
        "comparisons": _frame(out / "comparisons.csv", standings.comparisons(against)),
        "table": out / "table.md",
    }
    atomic_write_text(files["table"], markdown)
    if figures:
        picture = Picture(title, protocol, standings, done, table.task, table.target)
        files |= {f"figure {p.stem}": p for p in write_figures(out / "figures", picture)}
    files["run"] = out / "run.json"
    atomic_write_json(files["run"], {
        "request": dict(request), "benchmark": campaign.benchmark, "title": title,
        "protocol": protocol, "folds": list(plan.names), "data": fingerprint(table),
        "engine": ENGINE, "feature_path": FEATURE_PATH, "cells": len(outcome.done),
        "trained_now": outcome.trained,
        "cpu_seconds": round(sum(d.cell.seconds for d in outcome.done), 1),
        "rows": [{"row": r.text, "method": r.method, "encoder": r.encoder,
                  "recipe": asdict(r.recipe), "empty": outcome.empty.get((r.text, r.encoder))}
                 for r in campaign.rows],
        "packages": {p: version(p) for p in _PACKAGES},
        "machine": {"system": platform.system(), "processor": platform.machine(),
                    "python": platform.python_version()},
        "commit": commit(), "created": datetime.now(UTC).isoformat("T", "seconds"),
    })
    return Results(standings, files, markdown)


def scores_json(standings: Standings) -> dict[str, Any]:
    """Mean and standard deviation per row, encoder and sensor; null where there is no score."""
    result: dict[str, Any] = {}
    for row in standings.rows:
        for sensor in (*standings.sensors, FUSED):
            mean, std = standings.mean(row, sensor)
            if math.isfinite(mean):
                entry = result.setdefault(row.text, {}).setdefault(row.encoder, {})
                entry[sensor] = {"mean": mean, "std": std}
    return result


def commit() -> str:
    """Commit of the code, ``+`` where files differ from it; empty outside a repository."""
    try:
        done = [subprocess.run(["git", *what], cwd=Path(__file__).parent, text=True,
                               capture_output=True, check=False)
                for what in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])]
    except OSError:
        return ""
    head, changed = (d.stdout.strip() for d in done)
    return head + "+" * bool(changed) if done[0].returncode == 0 else ""


def _samples(campaign: Campaign) -> str:
    """How many samples each sensor is scored on."""
    table = campaign.table
    counts = ", ".join(f"{sensor_title(s)} {table.scored(s).sum()}" for s in table.sensors)
    return f"{int(table.primary.sum())} samples ({counts})"


def _frame(path: Path, frame: pd.DataFrame) -> Path:
    with replacing(path) as temporary:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)
    return path
