"""Which period is mapped now, whether it is closed, and when its map is final."""

from __future__ import annotations

from datetime import datetime, timedelta

from pipeline.refresh.result import Tier
from pipeline.spec.schedule import ROLLING, SEASON, TaskPlan
from pipeline.spec.tasks import Task
from pipeline.spec.timeline import Timeline, month_of, parse_month

_SEASON_OPENS = 150  # days: the fewest months that a network needs, and some to be useful


def window_at(plan: TaskPlan, task: Task, latitude: float, now: datetime) -> Timeline:
    """The period that is mapped at a time.

    A rolling period moves on with every month, a season with every year; the next one is begun
    when the one before is final, so that the history of a map never goes back and forth.

    Args:
        plan: of the schedule.
        task: number of steps, and the end of its season.
        latitude: of the region: south of the equator seasons end half a year later.
        now: UTC.
    """
    if plan.period not in (ROLLING, SEASON):
        return _ending(task, parse_month(plan.period))
    last, every, opens = month_of(now), 1, 0
    if plan.period == SEASON and task.season_end is not None:
        end = task.season_end if latitude >= 0 else (task.season_end + 5) % 12 + 1
        last += (end - last % 12 - 1) % 12
        every, opens = 12, _SEASON_OPENS
    opens = opens if plan.opens_after_days is None else plan.opens_after_days
    wait = timedelta(days=max(opens, plan.late_days))
    while now < _ending(task, last - every).end + wait:
        last -= every
    return _ending(task, last)


def due(
    plan: TaskPlan, task: Task, latitude: float, now: datetime, published: Timeline | None,
    tier: Tier | None,
) -> list[Timeline]:
    """Periods to refresh now, in order: one that is published and can now be made final comes
    before the next is begun.

    Args:
        plan, task, latitude, now: as in ``window_at``.
        published: period of the current version; None before the first.
        tier: of the current version.
    """
    present = window_at(plan, task, latitude, now)
    if published and published.last < present.last and tier == "provisional":
        return [published, present]
    return [present]


def tier_of(timeline: Timeline, late_days: int, now: datetime) -> Tier:
    """``final`` once late scenes have had their time."""
    return "final" if now >= timeline.end + timedelta(days=late_days) else "provisional"


def _ending(task: Task, last: int) -> Timeline:
    return Timeline(last - task.steps + 1, task.steps)
