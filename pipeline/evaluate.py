"""``python -m pipeline.evaluate``: methods in the same folds, as tables and figures."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pipeline import cli
from pipeline.data.benchmarks import BENCHMARKS, load_benchmark
from pipeline.data.files import writable_folder
from pipeline.infer.predict import pick_device
from pipeline.learn.campaign import Campaign, run
from pipeline.learn.contenders import GROUPS, ablations, choose_rows, rivals, with_weights
from pipeline.learn.protocols import FOLDS, PROTOCOLS, make_plan, with_unlabelled
from pipeline.learn.recipe import SWITCHES, TREES
from pipeline.learn.report.results import scores_json, write_results
from pipeline.learn.table import stack
from pipeline.spec.errors import BadRequest
from pipeline.spec.request import DEVICES, sensor_order

# the label points that lie beside a checkout of the project, where somebody put them there
BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data" / "points"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Options of the command line."""
    p = cli.parser("python -m pipeline.evaluate",
                   "Train and score methods in the same folds; write tables and figures.")
    p.add_argument("--benchmark", metavar="KEY", help="see --list")
    p.add_argument("--protocol", default="site", metavar="|".join(PROTOCOLS),
                   help="how samples are split (default site)")
    p.add_argument("--methods", default="all", metavar="LIST",
                   help=f"{', '.join(GROUPS)}, or rows such as mdico,individual,mdico+season,"
                        "extra-trees (default all)")
    p.add_argument("--with", dest="common", default="", metavar="LIST",
                   help="switches of every row, e.g. small,season")
    p.add_argument("--encoders", default="tempcnn", metavar="LIST",
                   help="all, or a list (default tempcnn)")
    p.add_argument("--sensors", default="auto", metavar="LIST",
                   help="s1,s2,l8 (default auto: all there)")
    p.add_argument("--folds", type=int, metavar="N",
                   help=f"1 = only the first of five (default {FOLDS})")
    p.add_argument("--seeds", type=int, default=1, metavar="N", help="repetitions (default 1)")
    p.add_argument("--share", default="1", metavar="LIST",
                   help="shares of the training samples, e.g. 0.25,0.5,1: a learning curve")
    p.add_argument("--against", metavar="LIST",
                   help="rows that the others are compared with (default individual; mdico, too, "
                        "for ablations and beyond)")
    p.add_argument("--data", metavar="DIR", help="folder of the benchmark's files")
    p.add_argument("--weights", metavar="DIR",
                   help="of pretrained networks (models/methods/pretrained.py says how)")
    p.add_argument("--out", metavar="DIR", help="folder of the results")
    p.add_argument("--cells", metavar="DIR",
                   help="folder of finished cells, which several runs may share (default "
                        "OUT/cells)")
    p.add_argument("--jobs", type=int, default=1, metavar="N",
                   help="processes, one thread each (default 1)")
    p.add_argument("--device", default="cpu", metavar="|".join(DEVICES),
                   help="where networks are trained (default cpu, as for the published tables)")
    p.add_argument("--no-figures", action="store_true", help="tables only")
    p.add_argument("--list", action="store_true",
                   help="benchmarks (and where their data is obtained), methods, switches")
    return p.parse_args(argv)


def command(argv: Sequence[str]) -> int:
    """Carry out one command line; returns its exit code."""
    args = parse(argv)
    if args.list:
        cli.emit(catalogue()) if args.json else print(listing())
        return 0
    common = tuple(part for part in args.common.split(",") if part)
    shares, rows = _check(args), choose_rows(args.methods, args.encoders, common)
    rows = with_weights(rows, Path(args.weights).resolve()) if args.weights else rows
    against, device = _against(args), pick_device(args.device).type
    out = writable_folder(Path(args.out))
    cells = writable_folder(Path(args.cells)) if args.cells else out / "cells"
    benchmark = load_benchmark(args.benchmark, _data(args), sensor_order(args.sensors) or None)
    sensors = sensor_order(args.sensors) or tuple(
        dict.fromkeys(k for s in benchmark.sets for k in s.sensors))
    table = stack(benchmark.sets, benchmark.task, sensors)
    plan = make_plan(table, args.protocol, folds=args.folds, seeds=args.seeds,
                     region=_joined(benchmark.region), official=_joined(benchmark.official))
    if benchmark.unlabelled and any(r.recipe.unlabelled for r in rows):
        table = stack((*benchmark.sets, *benchmark.unlabelled), benchmark.task, sensors)
        plan = with_unlabelled(plan, table)
    if common:
        plan = replace(plan, text=f"{plan.text}; every row: "
                                  f"{'; '.join(SWITCHES[c][0] for c in common)}")
    campaign = Campaign(args.benchmark, table, plan, rows, shares, cells, device)
    # one thread a process; those that are started now take it over, whatever library they use
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tqdm(total=len(rows) * len(plan.splits) * len(shares), desc="cells", unit="cell",
              disable=args.quiet) as bar:
        outcome = run(campaign, jobs=args.jobs, tick=bar.update)
    if not outcome.done:
        raise BadRequest("no row can run on this benchmark",
                         got="; ".join(f"{k[0]}: {v}" for k, v in outcome.empty.items()),
                         then="see python -m pipeline.evaluate --list")
    results = write_results(
        out, campaign, outcome, title=benchmark.title, against=against,
        figures=not args.no_figures, request=vars(args),
    )
    if args.json:
        cli.emit({
            "out": str(out), "benchmark": args.benchmark, "protocol": plan.text,
            "metric": results.standings.metric, "scores": scores_json(results.standings),
            "empty": {f"{text} {encoder}": why for (text, encoder), why in outcome.empty.items()},
            "files": {k: str(v) for k, v in results.files.items()},
            "cells": len(outcome.done), "trained": outcome.trained,
        })
    else:
        print(results.table)
        print("\n".join(f"{k:<24}{v}" for k, v in results.files.items()))
    return 0


def catalogue() -> dict[str, Any]:
    """What there is to choose from, as plain JSON."""
    return {
        "benchmarks": {k: {"title": b.title, "obtain": b.obtain} for k, b in BENCHMARKS.items()},
        "protocols": PROTOCOLS, "methods": [*rivals(), *TREES], "ablations": list(ablations()),
        "groups": GROUPS, "switches": {k: words for k, (words, _) in SWITCHES.items()},
    }


def listing() -> str:
    """The same for people."""
    c = catalogue()
    lines = ["benchmarks"]
    for key, b in c["benchmarks"].items():
        lines += [f"  {key:<24}{b['title']}", f"  {'':<24}data: {b['obtain']}"]
    for name in ("protocols", "groups", "switches"):
        title = {"groups": "methods, by the group", "switches": "switches (METHOD+SWITCH+...)"}
        lines += [title.get(name, name), *(f"  {k:<24}{v}" for k, v in c[name].items())]
    lines += ["methods", f"  {', '.join(c['methods'])}", "ablations",
              f"  {', '.join(c['ablations'])}"]
    return "\n".join(lines)


def _check(args: argparse.Namespace) -> tuple[float, ...]:
    """Refuse options that are missing or out of range; returns the shares."""
    for name in ("benchmark", "out"):
        if not getattr(args, name):
            raise BadRequest(f"--{name} is missing", then="see python -m pipeline.evaluate --list")
    if args.benchmark not in BENCHMARKS:
        raise BadRequest("unknown benchmark", got=args.benchmark, allowed=", ".join(BENCHMARKS),
                         then="see python -m pipeline.evaluate --list")
    if args.protocol not in PROTOCOLS:
        raise BadRequest("unknown protocol", got=args.protocol, allowed=", ".join(PROTOCOLS))
    for name in ("folds", "seeds", "jobs"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise BadRequest(f"--{name} is too small", got=value, allowed="from 1")
    try:
        shares = tuple(sorted({float(part) for part in args.share.split(",")}))
    except ValueError:
        shares = ()
    if not shares or not all(0 < s <= 1 for s in shares):
        raise BadRequest("--share is not a list of shares", got=args.share,
                         allowed="above 0, at most 1, e.g. 0.25,0.5,1")
    return shares


def _against(args: argparse.Namespace) -> tuple[str, ...]:
    if args.against:
        choose_rows(args.against, "tempcnn")  # refuses what is no row
        return tuple(args.against.split(","))
    parts = {part.strip() for part in args.methods.split(",")}
    return ("individual", "mdico") if parts & {"ablations", "beyond"} else ("individual",)


def _data(args: argparse.Namespace) -> Path | None:
    if args.data:
        return Path(args.data)
    return BESIDE if BESIDE.is_dir() else None


def _joined(parts: Sequence[np.ndarray | None] | None) -> np.ndarray | None:
    """One array over all sets; None where a set has none."""
    if parts is None or any(p is None for p in parts):
        return None
    return np.concatenate([p for p in parts if p is not None])


if __name__ == "__main__":
    sys.exit(cli.run(command))
