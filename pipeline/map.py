"""``python -m pipeline.map``: an area and a sensor in, a verified map out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import cli
from pipeline.prep.adapt import Shift
from pipeline.spec.errors import BadRequest, PartialMap
from pipeline.spec.layers import quality_layer
from pipeline.spec.manifest import RunManifest
from pipeline.spec.quality import NOT_COMPUTED
from pipeline.spec.request import DEVICES, SPEEDS
from pipeline.spec.tasks import TASKS

if TYPE_CHECKING:
    from pipeline.mapping import MapPlan

MOST_WORKERS = 256


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Options of the command line."""
    p = cli.parser("python -m pipeline.map", "Map an area from the satellite sensors there are.")
    p.add_argument("--aoi", required=True, metavar="FILE|W,S,E,N",
                   help="GeoJSON or GeoPackage, or bounds in degrees; a file may carry catalog, "
                   "task, period and checkpoint in its properties")
    p.add_argument("--sensor", default="auto", metavar="KEY|auto|all|LIST",
                   help="s1, s2, l8; auto = the best in each cell; all = all of them fused; "
                   "s2,s1 = in that order (default auto)")
    p.add_argument("--task", metavar="|".join(TASKS), help="default cropland")
    p.add_argument("--period", metavar="YYYY-MM[:YYYY-MM]",
                   help="last month, or the whole period; default: the last complete season")
    p.add_argument("--catalog", metavar="C",
                   help="planetary-computer, earth-search, an API URL, a catalog.json or a "
                   ".parquet of items (default planetary-computer)")
    p.add_argument("--checkpoint", metavar="PATH|NAME", help="default: the task's own")
    p.add_argument("--out", metavar="DIR", help="default: maps/AOI-TASK-SENSOR-MONTH")
    p.add_argument("--tile-size", type=int, default=512, metavar="N",
                   help="pixels; changes memory, never a pixel (default 512)")
    p.add_argument("--workers", type=int, metavar="N", help="tiles predicted at once, each on one "
                   "thread; changes memory, never a pixel (default: one a core, one on a GPU)")
    p.add_argument("--scheduler", default="none", metavar="tcp://HOST:PORT|local|none",
                   help="a Dask cluster whose workers make the tiles (default none)")
    p.add_argument("--device", default="auto", metavar="|".join(DEVICES))
    p.add_argument("--speed", default="default", metavar="|".join(SPEEDS), help="exact = float32; "
                   "default = bfloat16 where the device has it; fast = the checkpoint's student")
    p.add_argument("--dry-run", action="store_true",
                   help="print the plan and write it as GeoJSON, read no pixel")
    p.add_argument("--price", type=float, metavar="P",
                   help="of an hour of this machine: --dry-run states what the map will cost")
    p.add_argument("--adapt", action="store_true", help="shift the levels of images whose "
                   "radiometry the checkpoint does not accept, within bounds")
    p.add_argument("--profile", action="store_true",
                   help="print what each stage took, and write it into the manifest")
    p.add_argument("--resume", action="store_true", help="go on with the run that is in --out")
    return p.parse_args(argv)


def command(argv: Sequence[str]) -> int:
    """Carry out one command line; returns its exit code."""
    args = parse(argv)
    _check(args)
    # torch takes seconds to load: not for --help, and Ctrl-C meanwhile leaves in one line
    from pipeline.infer.profile import Profile, table
    from pipeline.making import Way, expected
    from pipeline.mapping import make_map, make_request, plan_map, write_plan

    request = make_request(
        args.aoi, args.sensor, task=args.task, period=args.period, catalog=args.catalog,
        checkpoint=args.checkpoint, out=args.out, tile_px=args.tile_size, device=args.device,
        adapt=args.adapt, speed=args.speed,
    )
    if args.dry_run:
        plan, way = plan_map(request), Way(workers=args.workers, scheduler=args.scheduler)
        path, takes = write_plan(plan, args.price, way), expected(plan, args.price, way)
        if args.json:
            cli.emit(plan.to_json() | {"plan": str(path), "estimate": takes.to_json()})
        else:
            print(f"{plan_table(plan)}\nestimate {takes}\nplan {path}")
        return 0
    manifest = make_map(request, resume=args.resume, progress=not args.quiet,
                        workers=args.workers, profile=Profile() if args.profile else None,
                        scheduler=args.scheduler)
    report = manifest.to_json()
    report["out"] = str(request.out)
    error = partial(manifest)
    if error:
        report |= {"error": str(error), "exit_code": error.exit_code}
        print(f"error: {error}", file=sys.stderr)
    cli.emit(report) if args.json else print(summary(manifest, request.out))
    if args.profile and not args.json:
        print(table(manifest.profile))
    return error.exit_code if error else 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what is out of range before anything is done.

    Raises:
        BadRequest: it is.
    """
    if args.workers is not None and not 1 <= args.workers <= MOST_WORKERS:
        raise BadRequest("the number of workers is out of range", got=args.workers,
                         allowed=f"1 to {MOST_WORKERS}", then="leave --workers out")
    if args.price is not None and not 0 <= args.price < float("inf"):
        raise BadRequest("the price is out of range", got=args.price,
                         allowed="0 or more", then="try --price 0.5")
    if args.scheduler not in ("local", "none") and "://" not in args.scheduler:
        raise BadRequest("unknown scheduler", got=args.scheduler,
                         allowed="tcp://HOST:PORT, local, none", then="try --scheduler local")


def partial(manifest: RunManifest) -> PartialMap | None:
    """The error of a map with failed tiles."""
    if not manifest.failed:
        return None
    first = manifest.failed[0]
    return PartialMap(
        f"{len(manifest.failed)} of {len(manifest.tiles)} tiles failed, the first: "
        f"{first.key}: {first.reason}",
        then="repeat the command with --resume to complete the map",
    )


def plan_table(plan: MapPlan) -> str:
    """The plan as text, a line a tile."""
    lines = [f"refused {key}: {why}" for key, why in plan.refused.items()]
    lines += [f"unknown {key}: {why}" for key, why in plan.unknown.items()]
    lines += [f"adapt {key}: from {given}, by a shift that is estimated when pixels are read"
              for key, given in plan.foreign.items()]
    lines += [f"{'tile':<22}reason"]
    lines += [f"{row.sheet.name + '/' + row.tile.name:<22}{row.reason}" for row in plan.rows]
    return "\n".join(lines)


def summary(manifest: RunManifest, out: Path) -> str:
    """What was made, in the few lines a user wants."""
    sensors: dict[str, int] = {}
    for tile in manifest.tiles:
        for key, pixels in tile.mapped_px.items():
            sensors[key] = sensors.get(key, 0) + pixels
    shares = ", ".join(f"{k} {v / max(manifest.mapped_px, 1):.1%}" for k, v in sensors.items() if v)
    lines = [f"map      {out / name}" for name in manifest.files if name.endswith("map.tif")]
    lines += [f"preview  {out / 'preview.png'}", f"manifest {out / 'manifest.json'}"]
    lines += [f"refused  {key}: {why}" for key, why in manifest.refused.items()]
    lines += [f"unknown  {key}: {why}; mapped without place features"
              for key, why in manifest.unknown.items()]
    lines += [f"adapted  {key}: {Shift(**shift)}" for key, shift in manifest.adapted.items()]
    lines += [f"mapped   {manifest.mapped_share:.1%} of the area ({shares})"]
    return "\n".join([*lines, f"quality  {_quality(manifest)}"])


def _quality(manifest: RunManifest) -> str:
    """Shares of the quality classes, and which of them could not be told."""
    found = manifest.quality
    parts = [f"{found[c.name]:.1%} {c.name}" for c in quality_layer().classes if c.name in found]
    parts += [f"{name} {rule}" for name, rule in manifest.rules.items() if NOT_COMPUTED in rule]
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(cli.run(command))
