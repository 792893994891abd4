"""One round over a schedule: every map that is due, the catalogue, the metrics, the webhook."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime

from pipeline.data.hrefs import is_remote
from pipeline.refresh import catalogue, hooks, metrics
from pipeline.refresh.job import Job, failed, root_of
from pipeline.refresh.lock import locked
from pipeline.refresh.result import RefreshResult
from pipeline.refresh.run import not_due, refresh
from pipeline.spec.errors import PipelineError

_CATALOGUE = ".catalogue"  # folder below the root that holds the catalogue's lock
_CATALOGUE_WAIT_S = 300.0
# exit codes by how much they need a person: data comes back, a refused map wants a look, a wrong
# schedule must be mended, and 1 is a mistake in this program
_SEVERITY = (0, 3, 4, 2, 1)


def run_round(
    jobs: Sequence[Job], now: datetime, *, wait_s: float = 0.0, progress: bool = True,
    every: bool = False, told: Callable[[RefreshResult], None] = lambda result: None,
) -> list[RefreshResult]:
    """Refresh the maps of a schedule that are due; the trouble of one stops no other.

    Args:
        jobs: of one schedule.
        now: UTC.
        wait_s: how long to wait for another refresh of the same map.
        progress: show progress bars.
        every: also maps that are not due yet.
        told: called with each result as it comes.
    """
    results: list[RefreshResult] = []
    for job in jobs:
        for result in attend(job, now, wait_s, progress, every):
            told(result)
            results.append(result)
    trouble = wind_up(jobs[0], results, now)
    for result in trouble:
        told(result)
    return results + trouble


def wind_up(job: Job, results: Sequence[RefreshResult], now: datetime) -> list[RefreshResult]:
    """Catalogue, metrics and webhook after a round. Trouble with these is a result, too: a map that
    nobody can find is not published, and who watches the metrics must not be left to believe the
    old ones. The next round puts it right.

    Args:
        job: any of the round.
        results: of the round.
        now: UTC.
    """
    schedule, root = job.schedule, root_of(job.schedule, job.base)
    trouble: list[RefreshResult] = []
    try:
        with locked(root / _CATALOGUE, _CATALOGUE_WAIT_S):
            if is_remote(schedule.root):
                from pipeline.refresh.remote_catalogue import publish_catalogue

                publish_catalogue(schedule.root, root)
            else:
                catalogue.update(root)
    except PipelineError as error:
        trouble.append(failed(job, now, error))
    try:
        if schedule.metrics:
            metrics.write(job.base / schedule.metrics, [*results, *trouble])
    except PipelineError as error:
        trouble.append(failed(job, now, error))
    for result in [*results, *trouble] if schedule.webhook else []:
        if result.exit_code:
            hooks.on_failure(schedule.webhook, result)
    return trouble


def worst(results: Sequence[RefreshResult]) -> int:
    """The exit code of a round."""
    return max((r.exit_code for r in results), key=_SEVERITY.index, default=0)


def attend(
    job: Job, now: datetime, wait_s: float = 0.0, progress: bool = True, every: bool = False
) -> list[RefreshResult]:
    """Refresh one map if it is due; whatever goes wrong is a result. See ``run_round``."""
    try:
        if not every and (waiting := not_due(job, now)):
            return [waiting]
        return refresh(job, now, wait_s=wait_s, progress=progress)
    except PipelineError as error:
        return [failed(job, now, error)]
    except Exception as error:  # a mistake in one map's run must not keep all others old
        traceback.print_exc(file=sys.stderr)
        return [failed(job, now, error)]
