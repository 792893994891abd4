"""``python -m pipeline.sandbox``: write the offline demo region, or score maps against it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline import cli
from pipeline.sandbox.build import write
from pipeline.sandbox.params import SandboxParams
from pipeline.sandbox.score import score
from pipeline.spec.errors import BadRequest


def parser() -> argparse.ArgumentParser:
    """The command line's options."""
    p = cli.parser("python -m pipeline.sandbox",
                   "Write the offline demo region, or score maps against it.")
    p.add_argument("--out", type=Path, metavar="DIR", help="folder to write the region to")
    p.add_argument("--preset", choices=("demo", "tiny"), default="demo",
                   help="starting point of the options below (default: demo)")
    p.add_argument("--seed", type=int, help="of everything random")
    p.add_argument("--size-km", metavar="W,H", help="width and height, kilometres")
    p.add_argument("--centre", metavar="LON,LAT", help="centre, degrees")
    p.add_argument("--first", metavar="YYYY-MM", help="first month")
    p.add_argument("--last", metavar="YYYY-MM", help="last month")
    p.add_argument("--cloudiness", type=float, help="mean cloud cover, 0 to 1")
    p.add_argument("--workers", type=int, help="threads (default: 2)")
    p.add_argument("--score", type=Path, metavar="MAPDIR",
                   help="print how well the maps below MAPDIR agree with the truth")
    p.add_argument("--truth", type=Path, metavar="DIR", help="the region to score against")
    return p


def params_of(args: argparse.Namespace) -> SandboxParams:
    """Parameters of the parsed options.

    Raises:
        BadRequest: a value is malformed or out of range.
    """
    base = SandboxParams.tiny() if args.preset == "tiny" else SandboxParams.demo()
    width, height = _pair(args.size_km, "--size-km", (base.width_km, base.height_km))
    lon, lat = _pair(args.centre, "--centre", (base.lon, base.lat))
    plain = ("seed", "first", "last", "cloudiness", "workers")
    given = {k: getattr(args, k) for k in plain if getattr(args, k) is not None}
    return dataclasses.replace(base, width_km=width, height_km=height, lon=lon, lat=lat, **given)


def _pair(text: str | None, option: str, default: tuple[float, float]) -> tuple[float, float]:
    if text is None:
        return default
    try:
        a, b = (float(part) for part in text.split(","))
    except ValueError:
        raise BadRequest(f"{option} takes two numbers", got=text, allowed="A,B") from None
    return a, b


def run(args: argparse.Namespace) -> str:
    """Do what the options say; returns what to print.

    Raises:
        PipelineError: in one line what is wrong.
    """
    if args.score:
        if args.truth is None:
            raise BadRequest("--score needs the region that the maps are of",
                             then="add --truth build/demo")
        found = score(args.score, args.truth)
        if args.json:
            return json.dumps([dataclasses.asdict(s) for s in found])
        return "\n".join(str(s) for s in found)
    if args.out is None:
        raise BadRequest("nothing to do", then="try --out build/demo")
    begin = time.perf_counter()
    params = params_of(args)
    catalog = write(args.out, params, progress=not args.quiet)
    seconds = round(time.perf_counter() - begin, 2)
    if args.json:
        return json.dumps({"catalog": str(catalog), "seconds": seconds,
                           "params": dataclasses.asdict(params)})
    return str(catalog)


def command(argv: Sequence[str]) -> int:
    """Carry out one command line; returns its exit code."""
    print(run(parser().parse_args(argv)))
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(command))
