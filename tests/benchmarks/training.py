"""What it costs to train MDiCo on one LFMC fold: ours beside the authors' code, in one run.

    python -m tests.benchmarks.training [--authors DIR [--python FILE]] [--folds N] [--rows A,B]

CPU-seconds of one thread, from tensors that are still to be made to held-out predictions; imports
do not count. Load inflates all rows: trust the ratio. Scores stand beside the time, for speed that
costs accuracy is none; those of one fold say little, 0.03 is the noise between two seeds.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.data.benchmarks import load_benchmark
from pipeline.learn.cell import Split, run_cell
from pipeline.learn.metrics import r2
from pipeline.learn.protocols import make_plan
from pipeline.learn.recipe import parse_row
from pipeline.learn.table import Table, stack
from pipeline.prep.features import features

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data" / "points"
SENSORS = ("s1", "l8")
ROWS = "mdico+stop5,mdico,mdico+bf16,mdico+small+stop5,mdico+small,mdico+small+cycle"
AUTHORS = "the authors' code"
_EPOCHS = 100  # at most: the paper, section 4.3
# Their modalities: sensor, and which of its features (``spec.tasks.LFMC``) in this order.
_MODALITIES = {"S1": ("s1", slice(0, 2)), "S1Ind": ("s1", slice(2, 3)),
               "S2": ("l8", slice(0, 5)), "S2Ind": ("l8", slice(5, 8))}


@dataclass(frozen=True)
class Measured:
    """One row in one fold.

    Attributes:
        seconds: of the CPU.
        epochs: that were run, with those after the best one.
        r2: held-out, per sensor.
        words: what else is to be said.
    """

    seconds: float
    epochs: float
    r2: dict[str, float]
    words: str = ""


def ours(table: Table, split: Split, text: str) -> Measured:
    """A row of our tables, as ``pipeline.evaluate`` trains it."""
    cell = run_cell(table, split, parse_row(text))
    found = {s: r2(table.target[f.rows], f.value) for s, f in cell.found.items()}
    return Measured(cell.seconds, len(next(iter(cell.history.values()))), found)


def authors(table: Table, split: Split, checkout: Path, python: str) -> Measured:
    """The authors' code on the same rows, in a process of its own."""
    raw = {s: features(table.series[s][0], table.bands[s], table.task.features[s])
           for s in SENSORS}
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "fold.npz", Path(folder) / "found.npz"
        arrays = {"target": table.target.astype(np.float32), "test": split.test,
                  "seed": np.array(split.seed), "epochs": np.array(_EPOCHS),
                  **{m: raw[s][:, :, k] for m, (s, k) in _MODALITIES.items()}}
        np.savez(given, allow_pickle=False, **arrays)
        script = Path(__file__).with_name("authors_fold.py")
        made = subprocess.run([python, str(script), str(checkout), str(given), str(found)],
                              capture_output=True, text=True, check=False)
        if made.returncode:
            raise SystemExit(f"the authors' code failed:\n{made.stderr[-2000:]}")
        with np.load(found) as file:
            got = dict(file)
    target = table.target[got["rows"]]
    own, workers = float(got["own"]), float(got["workers"])
    return Measured(own + workers, float(got["epochs"]),
                    {s: r2(target, got[s]) for s in SENSORS},
                    f"{workers:.0f} s of it in its data loader; stopped on the scored fold")


def machine() -> str:
    """Processor and versions."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines()
             if line.startswith("model name")] if info.exists() else []
    name = names[0] if names else platform.processor() or platform.machine()
    return (f"{name}, {torch.backends.cpu.get_cpu_capability()}, one thread; "
            f"Python {platform.python_version()}, torch {torch.__version__}, "
            f"numpy {np.__version__}; load {', '.join(f'{v:.1f}' for v in os.getloadavg())}")


def markdown(measured: dict[str, list[Measured]]) -> list[str]:
    """The table: means over the folds; the factor is against the authors' code where it ran."""
    base = np.mean([m.seconds for m in measured[AUTHORS]]) if AUTHORS in measured else np.nan
    lines = ["| row | folds | CPU-s a fold | of the authors' | epochs run | ms an epoch "
             "| R2 s1 | R2 l8 | |", "|---|---|---|---|---|---|---|---|---|"]
    for text, runs in measured.items():
        seconds, epochs = (np.mean([getattr(m, k) for m in runs]) for k in ("seconds", "epochs"))
        score = [f"{np.mean([m.r2[s] for m in runs]):.3f}" for s in SENSORS]
        factor = f"1/{base / seconds:.1f}" if np.isfinite(base) and text != AUTHORS else ""
        lines.append(f"| {text} | {len(runs)} | {seconds:.2f} | {factor} | {epochs:.0f} "
                     f"| {1e3 * seconds / epochs:.0f} | {score[0]} | {score[1]} "
                     f"| {runs[0].words} |")
    return lines


def main() -> None:
    """Measure, fold by fold, and print the table."""
    p = argparse.ArgumentParser(prog="python -m tests.benchmarks.training", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--authors", type=Path, metavar="DIR",
                   help="clone of github.com/fmenat/MDiCo; without it only our rows are measured")
    p.add_argument("--python", default=sys.executable, metavar="FILE",
                   help="interpreter with the packages that the authors' code needs")
    p.add_argument("--folds", type=int, default=1, help="of ten; ours run in each")
    p.add_argument("--authors-folds", type=int, default=1, help="of these, for the authors' code")
    p.add_argument("--rows", default=ROWS, help=f"of python -m pipeline.evaluate (default {ROWS})")
    p.add_argument("--data", type=Path, default=BESIDE, help="folder that holds lfmc/")
    args = p.parse_args()
    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # the first one imports torch._dynamo
    benchmark = load_benchmark("lfmc", args.data, SENSORS)
    table = stack(benchmark.sets, benchmark.task, SENSORS)
    plan = make_plan(table, "paper", folds=None, seeds=1)
    measured: dict[str, list[Measured]] = {}
    for k, split in enumerate(plan.splits[: args.folds]):
        for text in args.rows.split(","):
            measured.setdefault(text, []).append(ours(table, split, text))
        if args.authors and k < args.authors_folds:
            measured.setdefault(AUTHORS, []).append(
                authors(table, split, args.authors.resolve(), args.python))
    print(f"{machine()}\n{plan.text}\n")
    print("\n".join(markdown(measured)))


if __name__ == "__main__":
    main()
