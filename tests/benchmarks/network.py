"""The predict stage on one core: networks, engines and precisions side by side, in one run.

    python -m tests.benchmarks.network [--authors DIR [--python FILE]] [--rounds N] [--json FILE]

Pixels a second of the CPU, one thread. The variants take turns, and ratios are medians over the
rounds: on a shared machine trust them, not the single figures. Two peaks stand beside: of
``torch.mm``, and of the best float32 product that PyTorch has here (oneDNN's; on processors that
MKL does not favour it is twice as fast). Percent of a peak are by nominal operations of the plain
network: above 100 the engine does less than they say. The plain network in batches of 16 384 is
the naive way that ratios refer to.

Real label points are predicted, too, where there are any: what a lower precision changes in classes
and scores. The network has seen them, so the scores themselves say nothing; their difference does.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from odc.geo.geobox import GeoBox
from torch import Tensor, nn

import models
from models.engine import branch_of
from models.flops import flops
from models.kernels import Precision, cpu_flags, fastest, product
from pipeline.data.checkpoints import CARD, STUDENT, find_checkpoint, load_checkpoint
from pipeline.data.points import read_samples
from pipeline.infer.feed import BATCH, Feed
from pipeline.infer.predict import Predictor
from pipeline.learn.metrics import decide, score
from pipeline.prep.features import bands_needed, model_input
from pipeline.spec.cube import Cube
from pipeline.spec.sensors import SENSORS
from pipeline.spec.tasks import task
from pipeline.spec.timeline import Timeline

POINTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "points"
NAIVE, EAGER = "plain, batch 16384", "plain, batch 1024"
PIXELS = 16_384  # a round, of each variant
CPU = torch.device("cpu")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep."""
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--authors", type=Path, metavar="DIR", help="a clone of github.com/fmenat/MDiCo")
    p.add_argument("--python", default=sys.executable, metavar="FILE",
                   help="interpreter with the packages of the authors' code")
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--json", type=Path, metavar="FILE")
    args = p.parse_args(argv)
    torch.set_num_threads(1)
    found: dict[str, Any] = {"machine": machine(), "peaks": peaks()}
    print(json.dumps(found["machine"]))
    print("peak GFLOP/s: " + ", ".join(f"{k} {v:.0f}" for k, v in found["peaks"].items()))
    found["networks"] = {
        "paper": network("paper: 128 filters, dense 512, s2", paper(), "s2", 14, found["peaks"],
                         args.rounds, authors(args)),
        "cropland": shipped("cropland", "s2", found["peaks"], args.rounds),
    }
    found["stage"] = stages("cropland", "s2", args.rounds)
    found["students"] = {name: operations(name) for name in ("cropland", "lfmc") if _fast(name)}
    found["points"] = {name: points(name) for name in ("cropland", "lfmc") if POINTS.is_dir()}
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return 0


def machine() -> dict[str, Any]:
    """What was measured on."""
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")
    return {"processor": platform.processor() or platform.machine(), "torch": torch.__version__,
            "python": platform.python_version(), "flags": [f for f in wanted if f in cpu_flags()],
            "default precision": fastest(CPU), "threads": 1, "batch": BATCH}


def peaks() -> dict[str, float]:
    """GFLOP/s of square products that stay in cache, the best of three sizes."""
    def best(make: Callable[[Tensor], Callable[[Tensor], Tensor]], dtype: torch.dtype) -> float:
        rates = []
        for n in (512, 1024, 2048):
            x, w = (torch.randn(n, n).to(dtype) for _ in range(2))
            run = make(w)
            rates.append(2e-9 * n**3 / min(seconds(lambda run=run, x=x: run(x)) for _ in range(9)))
        return max(rates)

    with torch.inference_mode():
        return {
            "float32, torch.mm": best(lambda w: lambda x: x @ w, torch.float32),
            "float32": best(lambda w: product(w, w[0], False, torch.float32), torch.float32),
            "bfloat16": best(lambda w: product(w, w[0], False, torch.bfloat16), torch.bfloat16),
        }


def seconds(run: Callable[[], object]) -> float:
    """Of this thread's CPU: a neighbour's work does not count."""
    start = time.thread_time()
    run()
    return time.thread_time() - start


def paper() -> nn.Module:
    """The network of the paper's size, its normalisation as if trained."""
    torch.manual_seed(0)
    options = {"sensors": {"s1": 6, "s2": 14}, "steps": 12, "outputs": 2, "features": 128}
    module = models.build("mdico", "tempcnn", options)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            nn.init.normal_(part.running_mean, std=0.3)
            nn.init.uniform_(part.running_var, 0.3, 2)
    return module.eval()


def network(
    title: str, module: nn.Module, sensor: str, channels: int, peak: dict[str, float],
    rounds: int, more: dict[str, list[float]] | None = None,
    student: tuple[nn.Module, int] | None = None,
) -> dict[str, Any]:
    """Rates of the variants of one network, printed and returned."""
    steps = 12
    x = torch.randn(PIXELS, steps, channels)
    variants: dict[str, Callable[[], Tensor]] = {
        NAIVE: lambda: module.predict(sensor, x),
        EAGER: lambda: torch.cat([module.predict(sensor, part) for part in x.split(1024)]),
        "exact": engine(module, sensor, x, "float32"),
        "default": engine(module, sensor, x, fastest(CPU)),
    }
    if student:
        variants["fast"] = engine(student[0], sensor, x[..., : student[1]], fastest(CPU))
    with torch.inference_mode():
        said = {name: run() for name, run in variants.items()}  # also warms up
        took: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(rounds):
            for name, run in variants.items():
                took[name].append(seconds(run))
    nominal = flops(module, sensor, x[:1])
    rates = {name: [PIXELS / s for s in times] for name, times in took.items()} | (more or {})
    print(f"\n{title}: {nominal / 1e6:.2f} MFLOP a pixel\n{'':<28}{'px/s':>10}{'x naive':>9}"
          f"{'x plain':>9}{'% mm':>7}{'% peak':>8}{'max diff':>10}{'agree':>11}")
    rows = {}
    for name, rate in rates.items():
        row = {"pixels_per_s": float(np.median(rate)),
               "of_naive": ratio(rate, rates[NAIVE]), "of_plain": ratio(rate, rates[EAGER])}
        if name in said and name != "fast":
            own = peak["bfloat16" if name == "default" and fastest(CPU) == "bfloat16"
                       else "float32"]
            row |= {"of_mm": row["pixels_per_s"] * nominal / 1e9 / peak["float32, torch.mm"],
                    "of_peak": row["pixels_per_s"] * nominal / 1e9 / own,
                    "difference": float((said[name] - said[NAIVE]).abs().max()),
                    "agree": float((said[name].argmax(1) == said[NAIVE].argmax(1))
                                   .double().mean())}
        rows[name] = row
        rest = (f"{100 * row['of_mm']:>6.0f}%{100 * row['of_peak']:>7.0f}%"
                f"{row['difference']:>10.1e}{row['agree']:>11.4%}" if "agree" in row else "")
        print(f"{name:<28}{row['pixels_per_s']:>10,.0f}{row['of_naive']:>9.2f}"
              f"{row['of_plain']:>9.2f}{rest}")
    print(f"default is {ratio(rates['default'], rates['exact']):.2f} x exact")
    return {"nominal": nominal, "variants": rows,
            "default_of_exact": ratio(rates["default"], rates["exact"])}


def engine(module: nn.Module, sensor: str, x: Tensor, precision: Precision
           ) -> Callable[[], Tensor]:
    """The engine as maps use it, on all of ``x``, without a training domain."""
    feed = Feed(branch_of(module, sensor, None, precision), tuple(x.shape[1:]), CPU)
    inputs = np.ascontiguousarray(x.numpy())
    return lambda: torch.from_numpy(feed(inputs)[0])


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Median over the rounds (of another process: of the medians)."""
    if len(a) != len(b):
        return float(np.median(a) / np.median(b))
    return float(np.median([p / q for p, q in zip(a, b, strict=True)]))


def authors(args: argparse.Namespace) -> dict[str, list[float]]:
    """Rates of the authors' ``transform`` at the same size, where their code is."""
    if not args.authors:
        return {}
    script = Path(__file__).with_name("authors_transform.py")
    done = subprocess.run(
        [args.python, str(script), str(args.authors), "12", "14", "128", str(args.rounds)],
        check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {"authors, ready tensors": found["ready"], "authors, their data set": found["own"]}


def _fast(name: str) -> tuple[str, ...]:
    return ("fast",) if (find_checkpoint(name) / STUDENT / CARD).is_file() else ()


def loaded(name: str, speed: str) -> Predictor:
    """A shipped checkpoint, or its student."""
    card, arrays = load_checkpoint(name, student=speed == "fast")
    return Predictor(task(card.task), card, arrays, "cpu", speed)  # type: ignore[arg-type]


def shipped(name: str, sensor: str, peak: dict[str, float], rounds: int) -> dict[str, Any]:
    """Rates of a shipped checkpoint's network, on inputs of the normal distribution."""
    predictor = loaded(name, "exact")
    student = None
    if _fast(name):
        small = loaded(name, "fast")
        student = (small.module, small.card.sensors[sensor].channels)
    return network(f"{name} as shipped, {sensor}", predictor.module, sensor,
                   predictor.card.sensors[sensor].channels, peak, rounds, student=student)


def operations(name: str) -> dict[str, dict[str, int]]:
    """Operations a pixel of a shipped network and of its student, by sensor."""
    card, _ = load_checkpoint(name, student=True)
    found = {sensor: {"teacher": teacher, "student": student}
             for sensor, (teacher, student) in card.teacher["flops"].items()}
    for sensor, f in found.items():
        print(f"{name} {sensor}: {f['teacher'] / 1e6:.2f} MFLOP a pixel, its student "
              f"{f['student'] / 1e6:.3f}, {f['teacher'] / f['student']:.1f} times fewer")
    return found


def stages(name: str, sensor: str, rounds: int) -> dict[str, float]:
    """Rates of the whole predict stage: from a composite to codes, on random data."""
    runs = {speed: stage(loaded(name, speed), sensor) for speed in ("exact", "default")}
    if _fast(name):
        runs["fast"] = stage(loaded(name, "fast"), sensor)
    naive = loaded(name, "exact")
    naive.feed(sensor).batch = PIXELS
    naive.feed(sensor).branch = lambda x: (naive.module.predict(sensor, x), x[:, 0, 0])
    runs = {NAIVE: stage(naive, sensor), **runs}
    took: dict[str, list[float]] = {key: [] for key in runs}
    for k in range(rounds + 1):
        for key, run in runs.items():
            spent = seconds(run)
            if k:  # the first round warms up
                took[key].append(PIXELS / spent)
    print(f"\npredict stage of {name}, {sensor}: composite to codes")
    for key, rate in took.items():
        print(f"{key:<28}{np.median(rate):>10,.0f}{ratio(rate, took[NAIVE]):>9.2f}")
    return {key: float(np.median(rate)) for key, rate in took.items()}


def stage(predictor: Predictor, sensor: str, side: int = 128) -> Callable[[], None]:
    """Predicts and encodes a tile with gaps."""
    entry = predictor.card.sensors[sensor]
    bands = bands_needed(entry.features, SENSORS[sensor].band_names)
    rng = np.random.default_rng(0)
    count = (rng.random((predictor.card.steps, side, side)) > 0.2).astype(np.uint8)
    x = rng.normal(0.2, 0.1, (len(count), len(bands), side, side)).astype(np.float32)
    x[~np.broadcast_to(count[:, None] > 0, x.shape)] = np.nan
    grid = GeoBox.from_bbox((0, 0, side * 10, side * 10), "epsg:32631", resolution=10)
    cube = Cube(sensor, bands, Timeline(24_000, len(count)), grid, x, count)
    wanted = np.ones((side, side), bool)

    def run() -> None:
        made = predictor(sensor, cube, wanted)
        at = np.isfinite(made.score[0])
        predictor.encode(sensor, made.score[:, at], made.steps[at], made.index[at])

    return run


def points(name: str) -> dict[str, Any]:
    """What the default precision changes on the label points that a checkpoint was trained on."""
    exact, default = loaded(name, "exact"), loaded(name, "default")
    kind, found = exact.task, {}
    for sensor, entry in exact.card.sensors.items():
        rows = []
        for entry_set in exact.card.data:
            folder = POINTS / entry_set["name"]
            if sensor not in entry_set["radiometry"] or not folder.is_dir():
                continue
            samples = read_samples(folder, kind, [sensor])
            x, valid = samples.series[sensor]
            use = valid.sum(1) >= kind.min_steps
            inputs = model_input(x[use], valid[use], samples.months[use], samples.bands[sensor],
                                 entry)
            rows.append((samples.target[use], exact.run(sensor, inputs)[0],
                         default.run(sensor, inputs)[0]))
        if not rows:
            continue
        target, *raw = (np.concatenate(column) for column in zip(*rows, strict=True))
        said = [decide(kind, r, exact.card.target_mean, exact.card.target_std) for r in raw]
        scores = [score(kind, target, s) for s in said]
        agree = float((said[0] == said[1]).mean()) if kind.classes else None
        found[sensor] = {"rows": len(target), "exact": scores[0], "default": scores[1],
                         "agree": agree, "difference": float(np.abs(raw[0] - raw[1]).max())}
        print(f"{name} {sensor}: {len(target)} real points, {exact.card.metric} {scores[0]:.4f} "
              f"exact, {scores[1]:.4f} default; max output difference "
              f"{found[sensor]['difference']:.4f}"
              + (f", classes agree {agree:.4%}" if agree is not None else ""))
    return found


if __name__ == "__main__":
    sys.exit(main())
