"""``python -m pipeline.refresh``: keep the maps of a schedule current."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pipeline import cli
from pipeline.refresh.hold import glimpsed
from pipeline.refresh.job import Job, jobs_of, read_schedule
from pipeline.refresh.result import RefreshResult
from pipeline.refresh.rounds import run_round, wind_up, worst
from pipeline.refresh.run import plan_refresh, rollback
from pipeline.spec.errors import BadRequest
from pipeline.spec.schedule import check_scheduler


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Options of the command line."""
    p = cli.parser("python -m pipeline.refresh", "Keep the maps of a schedule current: only what "
                   "changed is made again, and only what is sound is published.")
    p.add_argument("--config", required=True, type=Path, metavar="FILE",
                   help="the schedule, TOML; aoi/schedule.toml is an example")
    p.add_argument("--region", default="", metavar="NAME", help="only this region")
    p.add_argument("--task", default="", metavar="NAME", help="only this task")
    p.add_argument("--now", metavar="ISO", help="the time to reckon periods and tiers from, as "
                   "2026-11-14T03:00:00Z; default: the present")
    p.add_argument("--all", action="store_true", help="also maps that are not due yet")
    p.add_argument("--wait", type=float, default=0.0, metavar="SECONDS",
                   help="how long to wait for another refresh of the same map (default 0)")
    p.add_argument("--scheduler", metavar="tcp://HOST:PORT|local|none",
                   help="what makes the tiles, instead of the schedule's own")
    p.add_argument("--dry-run", action="store_true",
                   help="say what would be made again and why; read no pixel, write nothing")
    p.add_argument("--rollback", metavar="VERSION",
                   help="publish a kept version again; needs --region")
    return p.parse_args(argv)


def command(argv: Sequence[str]) -> int:
    """Carry out one command line; returns its exit code."""
    args = parse(argv)
    schedule, now = read_schedule(args.config), _time(args.now)
    if args.scheduler is not None:
        check_scheduler(args.scheduler)
        schedule = dataclasses.replace(schedule, scheduler=args.scheduler)
    jobs = jobs_of(schedule, args.config.parent, args.region, args.task)
    if args.dry_run:
        return _dry_run(jobs, now, args.json)

    def told(result: RefreshResult) -> None:
        if not args.json:
            print(line(result), flush=True)
        elif result.exit_code:  # JSON goes into a file; what cron mails is stderr
            print(line(result), file=sys.stderr, flush=True)

    if args.rollback:
        results = [_rollback(jobs, args, now)]
        results += wind_up(jobs[0], results, now)
        for result in results:
            told(result)
    else:
        results = run_round(jobs, now, wait_s=args.wait, progress=not args.quiet, every=args.all,
                            told=told)
    code = worst(results)
    if args.json:
        cli.emit({"exit_code": code, "results": [r.to_json() for r in results]})
    return code


def line(result: RefreshResult) -> str:
    """A result in one line."""
    tiles, name = result.tiles, f"{result.region}/{result.task}"
    head = f"{name:<28}{result.status:<11}"
    if result.status == "failed":
        return f"{head}{result.reason}"
    parts = [f"{result.version} {result.tier} {result.period}"]
    if tiles.total:
        parts.append(f"{tiles.recomputed} of {tiles.total} tiles made, {tiles.carried} carried")
        parts.append(f"{result.bytes.saved_share:.0%} of the bytes saved")
    return head + "; ".join([*parts, result.reason])


def _rollback(jobs: Sequence[Job], args: argparse.Namespace, now: datetime) -> RefreshResult:
    if len(jobs) > 1 or not args.region:
        raise BadRequest("--rollback is for one map", got=", ".join(j.name for j in jobs),
                         then="add --region NAME --task NAME")
    return rollback(jobs[0], args.rollback, now, wait_s=args.wait)


def _dry_run(jobs: Sequence[Job], now: datetime, as_json: bool) -> int:
    plans = []
    for job in jobs:
        with glimpsed(job) as seen:
            plans += [plan.result for plan in plan_refresh(seen, now)]
    if as_json:
        cli.emit({"exit_code": 0, "plans": [p.to_json() for p in plans]})
    for plan in [] if as_json else plans:
        why = ", ".join(f"{name} ({n} tiles)" for name, n in plan.tiles.why.items())
        print(f"{plan.region}/{plan.task}: {plan.period} {plan.tier}, {plan.tiles.recomputed} of "
              f"{plan.tiles.total} tiles would be made{f': {why}' if why else ''}; about "
              f"{plan.bytes.read / 1e6:.1f} MB to read, {plan.bytes.saved / 1e6:.1f} MB not")
    return 0


def _time(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise BadRequest("--now is not a time", got=text, allowed="ISO 8601",
                         then="try --now 2026-11-14T03:00:00Z") from None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


if __name__ == "__main__":
    # what a scheduler stops gives its lock back, and what it had finished is taken over next time
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(cli.run(command))
