"""``python -m pipeline.train``: labelled series in, an evaluated checkpoint out."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from models.registry import COMMON, ENCODERS, single_sensor
from pipeline import cli
from pipeline.data.checkpoints import STUDENT
from pipeline.infer.predict import pick_device
from pipeline.learn.evaluate import Protocol
from pipeline.learn.outcomes import Evaluation
from pipeline.learn.recipe import TREES, Row, parse_row
from pipeline.learn.train import TrainReport, TrainRequest, train
from pipeline.spec.errors import BadRequest
from pipeline.spec.request import DEVICES, sensor_order
from pipeline.spec.tasks import TASKS, task

# --fast: a demo's checkpoint within a minute, scored in folds all the same.
FAST = {"width": 32, "dense": 32, "features": 32, "epochs": 24, "patience": 6, "folds": 3}
ROW = "mdico+gaps+season+jitter"  # what a map needs: cloudy years, seasons, other archives
FULL = {"width": 64, "dense": 64, "features": 64, "epochs": 100, "patience": 20, "folds": 5}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Options of the command line."""
    p = cli.parser("python -m pipeline.train",
                   "Train on labelled series, score in folds, write a checkpoint.")
    p.add_argument("--task", required=True, metavar="|".join(TASKS))
    p.add_argument("--samples", required=True, action="append", metavar="DIR",
                   help="a sample set (python -m pipeline.sample makes one); repeatable")
    p.add_argument("--sensors", default="auto", metavar="LIST",
                   help="s1,s2,l8 (default auto: all there)")
    p.add_argument("--out", required=True, metavar="DIR", help="folder of the checkpoint")
    p.add_argument("--row", default=ROW, metavar="METHOD[+SWITCH...]",
                   help="what to train, as python -m pipeline.evaluate --list names it "
                        f"(default {ROW})")
    p.add_argument("--encoder", default="tempcnn", metavar="NAME", help="(default tempcnn)")
    p.add_argument("--protocol", default="site", metavar="site|random",
                   help="folds of whole places or of single samples (default site)")
    p.add_argument("--folds", type=int, metavar="N",
                   help=f"1 = only the first of five (default {FULL['folds']})")
    p.add_argument("--hold-out", action="append", default=[], metavar="SET",
                   help="test on this set instead of folds; repeatable")
    p.add_argument("--seeds", type=int, default=1, metavar="N", help="repetitions (default 1)")
    p.add_argument("--seed", type=int, default=0, metavar="N")
    p.add_argument("--epochs", type=int, metavar="N", help=f"at most (default {FULL['epochs']})")
    p.add_argument("--patience", type=int, metavar="N", help=f"(default {FULL['patience']})")
    p.add_argument("--batch", type=int, default=128, metavar="N")
    p.add_argument("--lr", type=float, default=1e-3, metavar="X")
    p.add_argument("--width", type=int, metavar="N", help="filters (default 64, the paper 128)")
    p.add_argument("--dense", type=int, metavar="N", help="dense units (default 64)")
    p.add_argument("--features", type=int, metavar="N",
                   help="size of each feature space (default 64, the paper 128)")
    p.add_argument("--dropout", type=float, default=0.3, metavar="X")
    p.add_argument("--derive-l8", action="store_true",
                   help="train l8 on band-pass adjusted s2 where there is no l8")
    p.add_argument("--per-set", type=int, default=0, metavar="N",
                   help="most samples of a set (default: all)")
    p.add_argument("--note", action="append", default=[], metavar="TEXT",
                   help="what a user must know, put on the card; repeatable")
    p.add_argument("--no-evaluate", action="store_true", help="train only")
    p.add_argument("--no-baselines", action="store_true",
                   help="leave Individual and extra-trees out of the folds")
    p.add_argument("--student", action="store_true",
                   help="also train a small network that learns from the trained one, scored in "
                        "the same folds: OUT/fast, what --speed fast maps with")
    p.add_argument("--fast", action="store_true",
                   help="small network, few epochs, three folds, no baselines")
    p.add_argument("--device", default="cpu", metavar="|".join(DEVICES),
                   help="where networks are trained (default cpu, as for the published tables)")
    p.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), metavar="N",
                   help="of the CPU (default 2)")
    return p.parse_args(argv)


def make_request(args: argparse.Namespace) -> TrainRequest:
    """The validated request of parsed options.

    Raises:
        BadRequest: an option's value is not allowed.
    """
    preset = FAST if args.fast else FULL
    chosen = {k: v if getattr(args, k) is None else getattr(args, k) for k, v in preset.items()}
    for name in ("folds", "epochs", "patience", "width", "dense", "features"):
        _at_least(name, chosen[name], 1)
    for name, least in (("seeds", 1), ("batch", 2), ("per_set", 0), ("threads", 1)):
        _at_least(name, getattr(args, name), least)
    for name, low, high in (("dropout", 0, 0.95), ("lr", 1e-7, 1)):
        if not low <= getattr(args, name) <= high:
            raise BadRequest(f"--{name} is out of range", got=getattr(args, name),
                             allowed=f"{low} to {high}")
    if args.protocol not in ("site", "random"):
        raise BadRequest("unknown protocol", got=args.protocol, allowed="site, random")
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise BadRequest("--out is a file", got=str(out), then="name a folder")
    return TrainRequest(
        task=task(args.task), samples=tuple(Path(s) for s in args.samples),
        sensors=sensor_order(args.sensors), out=out,
        row=_row(args, chosen),
        protocol=Protocol(args.protocol, chosen["folds"], args.seeds, args.seed,
                          tuple(args.hold_out)),
        rivals=not (args.no_baselines or args.fast), evaluate=not args.no_evaluate,
        per_set=args.per_set, derive_l8=args.derive_l8, notes=tuple(args.note),
        device=pick_device(args.device).type, student=args.student,
    )


def _row(args: argparse.Namespace, chosen: dict[str, int]) -> Row:
    """The row that is asked for, with the sizes and settings of the command line."""
    row = parse_row(args.row, args.encoder)
    if row.method in TREES or not single_sensor(row.method):
        raise BadRequest("a checkpoint is a network that predicts from one sensor",
                         got=row.method, then=f"try --row {ROW}")
    settings = replace(row.recipe.settings, batch=args.batch, lr=args.lr)
    if settings.patience:
        settings = replace(settings, epochs=chosen["epochs"], patience=chosen["patience"])
    elif args.epochs:  # a row of fixed length stays one
        settings = replace(settings, epochs=args.epochs)
    sizes = {**{k: chosen[k] for k in ("width", "dense", "features")}, "dropout": args.dropout}
    known = {*COMMON, *ENCODERS[args.encoder].OPTIONS}
    network = {**row.recipe.network, **{k: v for k, v in sizes.items() if k in known}}
    return replace(row, recipe=replace(row.recipe, network=network, settings=settings))


def command(argv: Sequence[str]) -> int:
    """Carry out one command line; returns its exit code."""
    args = parse(argv)
    request = make_request(args)
    torch.set_num_threads(args.threads)

    def log(line: str) -> None:
        if not args.quiet:
            print(line, file=sys.stderr, flush=True)

    report = train(request, log)
    cli.emit(as_json(report, request.out)) if args.json else print(summary(report, request.out))
    return 0


def as_json(report: TrainReport, out: Path) -> dict[str, Any]:
    """Scores by method, sensor, fold and set; of a student, too, and what both cost."""
    e = report.evaluation
    sensors = report.card.sensors
    student = {} if report.student is None else {"student": {
        **as_json(report.student, out / STUDENT), "flops": report.student.card.teacher["flops"]}}
    return {
        "checkpoint": str(out), "metric": e.metric, "epochs": e.epochs,
        "protocol": report.card.protocol,
        "scores": {m: {s: _scores(e, m, s) for s in sensors if e.of(m, s)} for m in e.methods},
        "coverage": {s: dict(zip(c.coverage_steps, c.coverage_score, strict=True))
                     for s, c in sensors.items()},
        **student,
    }


def _scores(e: Evaluation, method: str, sensor: str) -> dict[str, Any]:
    """Scores of a method from a sensor; null where there were too few rows for one."""
    mean, std = (v if math.isfinite(v) else None for v in e.mean(method, sensor))
    sets = {name: {k: v if math.isfinite(v) else None for k, v in measures.items()}
            for name, measures in e.by_set(method, sensor).items()}
    return {"mean": mean, "std": std, "splits": e.per_split(method, sensor).tolist(), "sets": sets}


def summary(report: TrainReport, out: Path) -> str:
    """Table of mean and standard deviation over the folds."""
    sensors = list(report.card.sensors)
    lines = [f"{report.evaluation.metric:<28}" + "".join(f"{s:>18}" for s in sensors)]
    lines += [_line(method, report, method) for method in report.evaluation.methods]
    tail = [f"checkpoint {out}"]
    if report.student is not None:
        lines.append(_line("its student", report.student, report.student.card.method))
        cost = report.student.card.teacher["flops"]
        lines.append(f"{'fewer operations, times':<28}"
                     + "".join(f"{cost[s][0] / cost[s][1]:>18.1f}" for s in sensors))
        tail.append(f"its student {out / STUDENT}")
    return "\n".join([*lines, report.card.protocol, *tail])


def _line(title: str, report: TrainReport, method: str) -> str:
    """Scores of a method, a column a sensor."""
    found = (report.evaluation.mean(method, s) for s in report.card.sensors)
    return f"{title:<28}" + "".join(f"{mean:.3f} +- {std:.3f}".rjust(18) for mean, std in found)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise BadRequest(f"--{name.replace('_', '-')} is too small", got=value,
                         allowed=f"from {least}")


if __name__ == "__main__":
    sys.exit(cli.run(command))
