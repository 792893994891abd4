"""What the default precision changes at places that a network has not learnt from.

    python -m tests.benchmarks.precision [--folds N] [--json FILE]

Networks of the shipped checkpoints' recipes are trained on the label points of all but a fold's
places, and predict that fold's by the engine that maps: in float32 and in what ``--speed default``
takes. Nothing is measured, with a word, where the points are not beside the checkout.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from models.engine import branch_of
from models.kernels import Precision, fastest
from pipeline.data.checkpoints import load_checkpoint
from pipeline.data.points import read_samples
from pipeline.infer.profile import machine
from pipeline.learn.evaluate import Protocol
from pipeline.learn.members import Trained, train_row
from pipeline.learn.metrics import decide, score
from pipeline.learn.recipe import Row, parse_row
from pipeline.learn.table import Table, stack
from pipeline.spec.card import CheckpointCard
from pipeline.spec.tasks import Task, task

POINTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "points"
FOLDS = {"cropland": 5, "lfmc": 10}  # of the shipped checkpoints
BATCH = 1024


def recipe_of(card: CheckpointCard) -> Row:
    """The row that a shipped checkpoint was trained as."""
    return parse_row(card.protocol.partition(":")[0] + "+small", card.encoder)


def table_of(card: CheckpointCard, per_set: int) -> Table:
    """At most so many samples of each of its sets."""
    kind, sensors, sets = task(card.task), tuple(card.sensors), []
    for entry in card.data:
        samples = read_samples(POINTS / entry["name"], kind, sensors, every_window=True)
        ids = np.random.default_rng(0).permutation(np.unique(samples.ids))[:per_set]
        sets.append(samples.take(np.isin(samples.ids, ids)))
    return stack(sets, kind, sensors)


def said(trained: Trained, sensor: str, rows: np.ndarray, precision: Precision) -> np.ndarray:
    """(n, K) logits, or values in the task's unit, of the engine."""
    branch = branch_of(trained.module, sensor, None, precision)
    with torch.inference_mode():
        parts = trained.data.inputs[sensor][torch.from_numpy(rows)].split(BATCH)
        out = torch.cat([branch(part)[0] for part in parts]).numpy()
    return out * trained.data.std + trained.data.mean


def compare(name: str, folds: int, per_set: int = 1000) -> dict[str, Any]:
    """Held-out scores in both precisions, per sensor, of the rows of the first folds together."""
    card, _ = load_checkpoint(name)
    table, row = table_of(card, per_set), recipe_of(card)
    kind, lower = table.task, fastest(torch.device("cpu"))
    found: dict[str, _Held] = {}
    for number, (seed, test) in enumerate(Protocol("site", FOLDS[name]).splits(table)):
        if number == folds:
            break
        trained = train_row(table, row, ~test, "site", seed * 100 + number)
        for sensor in trained.sensors:
            rows = np.flatnonzero(test & table.scored(sensor))
            if not len(rows):
                continue
            exact, default = (said(trained, sensor, rows, p) for p in ("float32", lower))
            found.setdefault(sensor, _Held([], [], [])).add(table.target[rows], exact, default)
    return {sensor: held.figures(kind) for sensor, held in found.items()}


class _Held(NamedTuple):
    """What was held out, a fold each: targets, and outputs in both precisions."""

    target: list[np.ndarray]
    exact: list[np.ndarray]
    default: list[np.ndarray]

    def add(self, *arrays: np.ndarray) -> None:
        """Those of a fold."""
        for kept, array in zip(self, arrays, strict=True):
            kept.append(array)

    def figures(self, kind: Task) -> dict[str, float]:
        """Scores over all folds' rows together: a mean of folds' changes would let a gain of one
        hide a loss of another. The largest change of a single fold stands beside."""
        target, *raw = (np.concatenate(kept) for kept in self)
        value = [decide(kind, r, 0.0, 1.0) for r in raw]
        exact, default = (score(kind, target, v) for v in value)
        ends = np.cumsum([len(t) for t in self.target])[:-1]
        folds = zip(*(np.split(a, ends) for a in (target, *value)), strict=True)
        changes = [abs(score(kind, t, b) - score(kind, t, a)) for t, a, b in folds]
        found = {"rows": len(target), "folds": len(changes), "exact": exact, "default": default,
                 "change": default - exact, "moved_by": abs(default - exact),
                 "largest_change_of_a_fold": max(changes),
                 "difference": float(np.abs(raw[0] - raw[1]).max())}
        return found | ({"agree": float((value[0] == value[1]).mean())} if kind.classes else {})


def lines(found: dict[str, Any]) -> Iterator[str]:
    """A line a checkpoint and sensor."""
    for name, sensors in found.items():
        for sensor, f in sensors.items():
            agree = f", classes agree {f['agree']:.4%}" if "agree" in f else ""
            yield (f"{name} {sensor}: {f['rows']} held-out points of {f['folds']} folds, score "
                   f"{f['exact']:.4f} exact, {f['change']:+.5f} default (a single fold: up to "
                   f"{f['largest_change_of_a_fold']:.5f}){agree}")


def main(argv: Sequence[str] | None = None) -> int:
    """Train, compare, print, keep."""
    p = argparse.ArgumentParser(prog="python -m tests.benchmarks.precision",
                                description=__doc__.partition("\n")[0])
    p.add_argument("--folds", type=int, default=10, metavar="N",
                   help="the first N (default 10: all there are, 5 of cropland and 10 of lfmc)")
    p.add_argument("--json", type=Path, metavar="FILE")
    args = p.parse_args(argv)
    torch.set_num_threads(1)
    found = {"machine": machine(), "lower": fastest(torch.device("cpu")), "points": {}}
    if POINTS.is_dir():
        found["points"] = {name: compare(name, args.folds) for name in FOLDS}
    else:
        print(f"no label points in {POINTS}: nothing to compare", file=sys.stderr)
    print("\n".join(lines(found["points"])))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
