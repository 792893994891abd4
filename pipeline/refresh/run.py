"""One refresh of one region and task: lock, plan, make what changed, verify, promote, prune."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from pipeline.data.files import atomic_write_json
from pipeline.infer.store import RunStore
from pipeline.making import NO_SCHEDULER
from pipeline.mapping import STATE, MapPlan, make_map, plan_map
from pipeline.refresh import change, report
from pipeline.refresh.carry import (
    UNFIT,
    Before,
    Carry,
    before,
    count_reasons,
    explaining,
    reasons,
)
from pipeline.refresh.fingerprint import Fingerprints, fingerprints
from pipeline.refresh.hold import Hold, alone, glimpsed, told_of
from pipeline.refresh.job import Job, failed, utc_text
from pipeline.refresh.period import due, tier_of
from pipeline.refresh.product import is_whole
from pipeline.refresh.result import ByteCounts, RefreshResult, Tier, TileCounts
from pipeline.refresh.verify import content_of, sheet_folders, verify
from pipeline.refresh.versions import REPORT, Shelf, report_of
from pipeline.spec.errors import BadRequest, PartialMap, PipelineError
from pipeline.spec.grid import Tile
from pipeline.spec.manifest import RunManifest, TileRecord
from pipeline.spec.timeline import Timeline, parse_period

_EARLY = 0.1  # of the cadence: a timer that rings a little early finds the map due all the same
ROLLED_BACK = "rolled back"


@dataclass(frozen=True)
class Plan:
    """What a refresh is about to do.

    Attributes:
        made: the plan of the map.
        marks: fingerprints of its tiles.
        old: what is published; None before the first version.
        shown: folder of it, if it is whole; None also when somebody has deleted files there.
        changed: tile -> why it is made again; the others are carried over.
        result: what is known of the outcome so far.
    """

    made: MapPlan
    marks: Fingerprints
    old: Before | None
    shown: Path | None
    changed: Mapping[str, Sequence[str]]
    result: RefreshResult


def refresh(
    job: Job, now: datetime, *, wait_s: float = 0.0, progress: bool = True
) -> list[RefreshResult]:
    """Refresh a region and task, whatever its cadence says.

    Args:
        job: of a schedule.
        now: UTC time that periods and tiers are reckoned from.
        wait_s: how long to wait for another refresh of the same map.
        progress: show a progress bar.

    Returns:
        One result a period: a period that can be made final comes before the next is begun. A
        trouble is a result, too; what was published stays.

    Raises:
        Busy: another refresh of the same map is at work.
    """
    shelf, results = job.shelf, []
    with alone(job, wait_s) as hold:
        try:
            if results := _quiet_day(job, now, hold):
                for result in results:
                    shelf.record(result)
                return results
            hold.catch_up()
            for timeline in periods(job, now):
                results.append(_refresh(job, timeline, now, hold, progress))
                if results[-1].exit_code:
                    break
        except PipelineError as error:
            results.append(dataclasses.replace(failed(job, now, error),
                                               previous=hold.published(shelf)))
            shelf.record(results[-1])
    return results


def plan_refresh(job: Job, now: datetime) -> list[Plan]:
    """What a refresh would do now: reads the catalogue, no pixel, and writes nothing."""
    return [_plan(job, timeline, now) for timeline in periods(job, now)]


def periods(job: Job, now: datetime) -> list[Timeline]:
    """Periods to refresh now.

    Raises:
        BadRequest: what is published was made later.
    """
    published = report_of(job.shelf.version(job.shelf.current())) if job.shelf.current() else {}
    if published and now < datetime.fromisoformat(published["now"]):
        raise BadRequest("the time is before that of the published version", got=utc_text(now),
                         allowed=f"from {published['now']}",
                         then="set the clock right, or --rollback to an older version first")
    timeline = parse_period(published["period"], None, datetime.max.replace(tzinfo=UTC)) \
        if published else None
    return due(job.plan, job.task, job.latitude(), now, timeline, published.get("tier"))


def not_due(job: Job, now: datetime) -> RefreshResult | None:
    """Why a map is left alone: it is younger than its cadence. None when it is due."""
    history, current = told_of(job)
    done = [r for r in history if r.status in ("published", "unchanged")]
    if not done or done[-1].version != current:  # a promotion that a kill cut short
        return None
    every = timedelta(days=job.plan.every_days)
    last = datetime.fromisoformat(done[-1].now)
    if not timedelta(0) <= now - last < every * (1 - _EARLY):  # a clock that went back: look at it
        return None
    return dataclasses.replace(
        done[-1], status="unchanged", now=utc_text(now), previous=done[-1].version, seconds=0.0,
        tiles=TileCounts(), bytes=ByteCounts(), checks=(),
        reason=f"not due before {utc_text(last + every)}")


def rollback(job: Job, name: str, now: datetime, *, wait_s: float = 0.0) -> RefreshResult:
    """Publish a kept version again. The same scenes will not bring back the one that is left.

    Raises:
        BadRequest: no such version.
        Busy: a refresh of the same map is at work.
    """
    shelf = job.shelf
    with alone(job, wait_s) as hold:
        hold.catch_up()
        hold.bring(name)
        shelf.find(name)
        result = dataclasses.replace(
            RefreshResult.from_json(report_of(shelf.version(name))), status="published",
            previous=shelf.current(), now=utc_text(now), seconds=0.0, exit_code=0,
            tiles=TileCounts(), bytes=ByteCounts(),  # none is made
            reason=f"{ROLLED_BACK} from {shelf.current() or 'nothing'}")
        shelf.publish_again(result)
    return result


def _plan(job: Job, timeline: Timeline, now: datetime) -> Plan:
    shelf = job.shelf
    current, name = shelf.current(), shelf.new_id(now)
    made = plan_map(job.request(timeline, shelf.stage(name)))
    marks = fingerprints(made)
    old = before(shelf.version(current) / STATE) if current else None
    changed = {row.key: why for row in made.rows if (why := reasons(marks, old, row.key))}
    expected = [max((c.expected_steps for c in row.choices), default=0.0) for row in made.rows]
    result = RefreshResult(
        region=job.region, task=job.task.key, sensor=job.plan.sensor, status="unchanged",
        now=utc_text(now), version=name, previous=current,
        tier=tier_of(timeline, job.plan.late_days, now), period=str(timeline),
        window_closed=now >= timeline.end,
        tiles=_tiles(made, changed, 0), bytes=_bytes(marks, changed, old.records if old else {}),
        steps_observed=round(sum(expected) / len(expected) / timeline.steps, 4),
        items={key: len(items.items) for key, items in made.items.items()},
        card={"name": made.card.name, "sha256": made.card.sha256},
    )
    shown = shelf.version(current) if current else None
    return Plan(made, marks, old, shown if shown and is_whole(shown) else None, changed, result)


def _refresh(
    job: Job, timeline: Timeline, now: datetime, hold: Hold, progress: bool
) -> RefreshResult:
    started, shelf = time.perf_counter(), job.shelf
    plan = _plan(job, timeline, now)
    if quiet := _nothing_to_do(plan, shelf, hold.bring):
        result = dataclasses.replace(quiet, seconds=round(time.perf_counter() - started, 3))
        shelf.record(result)
        return result
    unfinished = shelf.leftovers()
    stage = shelf.open_stage(plan.result.version)

    def begun(store: RunStore, tiles: Mapping[str, Tile]) -> None:
        for leftover in unfinished:  # their tiles are in the store now
            shelf.discard(leftover)
        hold.begun(plan.result.version, store, tiles)

    carry = Carry(plan.marks, plan.old, [b for p in unfinished if (b := before(p / STATE))], begun)
    try:
        # the tiles of a killed refresh are taken over, too: it never needs to be resumed
        manifest = make_map(
            plan.made.request, progress=progress, carry=carry, made=plan.made,
            notes=_notes(plan.result), workers=job.schedule.workers,
            # a cluster that is away stops no refresh that needs it not
            scheduler=job.schedule.scheduler if plan.changed else NO_SCHEDULER)
        result = _judged(job, plan, manifest, carry.carried)
        result = dataclasses.replace(result, seconds=round(time.perf_counter() - started, 3))
        atomic_write_json(stage / REPORT, result.to_json())
        if result.status == "published":
            change.write_change(stage, plan.shown)
        report.write_report(stage, result)
    except Exception:
        if not carry.done:  # else as after a kill: the next refresh takes the tiles over
            shelf.discard(stage)
        raise
    hold.lock.check()
    if result.status == "published":
        shelf.promote(stage, result)
        shelf.prune(job.schedule.retention.versions, job.schedule.retention.finals)
    else:
        shelf.refuse(stage, result.version, job.schedule.retention.refused)
        shelf.record(result)
    hold.finished()
    return result


def _quiet_day(job: Job, now: datetime, hold: Hold) -> list[RefreshResult]:
    """The results where nothing is to be done and what is published is in a bucket only: what is
    said of it there tells. Empty on other days: then it must be fetched."""
    if not hold.away():
        return []
    started = time.perf_counter()
    with glimpsed(job) as seen:
        say = partial(hold.say, seen.shelf)
        found = [_nothing_to_do(plan, seen.shelf, say) for plan in plan_refresh(seen, now)]
    seconds = round(time.perf_counter() - started, 3)
    quiet = [dataclasses.replace(result, seconds=seconds) for result in found if result]
    return quiet if len(quiet) == len(found) else []


def _nothing_to_do(
    plan: Plan, shelf: Shelf, bring: Callable[[str], None]
) -> RefreshResult | None:
    """The result where what is published is what would be made, or was rolled back from;
    ``bring`` has what was rolled back on the shelf."""
    same, published = plan.result, report_of(shelf.version(plan.result.previous))
    if not plan.shown or not published:
        return None
    told = {**published, "now": same.now, "previous": same.previous, "version": same.previous,
            "status": "unchanged", "checks": (), "window_closed": same.window_closed,
            "tiles": {"total": same.tiles.total, "carried": same.tiles.total},
            "bytes": {"saved": same.bytes.read + same.bytes.saved}}
    if not plan.changed and published.get("tier") == same.tier:
        return RefreshResult.from_json({**told, "reason": "no tile's scenes have changed"})
    last = next((r for r in reversed(shelf.history()) if r.status == "published"), None)
    if last and last.reason.startswith(ROLLED_BACK):
        left = last.reason.split()[-1]
        bring(left)
        bad = before(shelf.version(left) / STATE)
        if bad and not any(reasons(plan.marks, bad, row.key) for row in plan.made.rows):
            return RefreshResult.from_json({**told, "reason": f"the scenes are still those of "
                                            f"{left}, which was rolled back"})
    return None


def _judged(
    job: Job, plan: Plan, manifest: RunManifest, carried: frozenset[str]
) -> RefreshResult:
    """Verification, and what came out of it."""
    made, shelf, bounds = plan.made, job.shelf, job.schedule.bounds
    changed = {row.key: plan.changed.get(row.key) or (UNFIT,) for row in made.rows
               if row.key not in carried}
    out = made.request.out
    content = content_of(list(sheet_folders(out, made).values()), job.task)
    report = report_of(shelf.version(plan.result.previous)) if plan.result.previous else {}
    told = RefreshResult.from_json(report) if report else None
    checks = verify(out, made, manifest, content, told, plan.shown, bounds, explaining(changed))
    wrong = [f"{c.name}: {c.got} (allowed: {c.allowed})" for c in checks if not c.ok]
    why = count_reasons(changed)
    reason = ", ".join(f"{name} ({n} tiles)" for name, n in why.items()) or (
        f"the period is closed: {plan.result.tier}" if plan.shown else
        f"files of {plan.result.previous} are missing")
    records = {t.key: t for t in manifest.tiles}
    return dataclasses.replace(
        plan.result, status="refused" if wrong else "published",
        reason="; ".join(wrong) if wrong else reason,
        tiles=_tiles(made, changed, len(manifest.failed)),
        bytes=_bytes(plan.marks, changed, records), checks=checks,
        coverage=manifest.mapped_share, class_shares=content.class_shares, mean=content.mean,
        exit_code=PartialMap.exit_code if wrong else 0)


def _tiles(made: MapPlan, changed: Mapping[str, Sequence[str]], bad: int) -> TileCounts:
    return TileCounts(len(made.rows), len(changed), len(made.rows) - len(changed), bad,
                      count_reasons(changed))


def _bytes(
    marks: Fingerprints, changed: Mapping[str, Sequence[str]], records: Mapping[str, TileRecord]
) -> ByteCounts:
    """Bytes of the scenes of the sensors that each tile looked at; before the first time, of all
    sensors that it might."""
    counted = {True: 0, False: 0}
    for key, mark in marks.tiles.items():
        used = records[key].observations if key in records else mark.bytes
        counted[key in changed] += sum(mark.bytes.get(sensor, 0) for sensor in used)
    return ByteCounts(read=counted[True], saved=counted[False])


def _notes(result: RefreshResult) -> dict[str, str]:
    """What every file of the version says of itself."""
    tier: Tier = result.tier
    return {"tier": tier, "version": result.version, "region": result.region}
