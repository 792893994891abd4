"""A schedule as a Prefect 3 flow: one run a round, one task a map, with retries, logs and a UI.

It needs the extra ``schedule``. ``python -m pipeline.refresh.serve`` runs it on a cron schedule;
what it does is what ``python -m pipeline.refresh`` does, which needs none of this.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.futures import wait
from prefect.task_runners import ThreadPoolTaskRunner

from pipeline.refresh.__main__ import line
from pipeline.refresh.job import Job, jobs_of, read_schedule
from pipeline.refresh.result import RefreshResult
from pipeline.refresh.rounds import attend, wind_up, worst
from pipeline.spec.errors import DataTrouble, PipelineError

RETRIES, WAIT_S = 2, 600.0


class NotRefreshed(PipelineError):
    """A map could not be refreshed; what was published stays."""

    def __init__(self, results: list[RefreshResult]) -> None:
        self.results = results
        super().__init__("; ".join(line(r) for r in results if r.exit_code))
        self.exit_code = worst(results)


@task(task_run_name="{name}", retry_condition_fn=lambda _task, _run, state: _again(state),
      persist_result=False)
def refresh_map(name: str, job: Job, now: datetime, every: bool) -> list[RefreshResult]:
    """Refresh one map if it is due.

    Raises:
        NotRefreshed: it came to nothing. Prefect tries again where the data was the trouble; a
            wrong schedule or a refused map gets no better by that.
    """
    results = attend(job, now, progress=False, every=every)
    logger = get_run_logger()
    for result in results:
        (logger.error if result.exit_code else logger.info)(line(result))
    if worst(results):
        raise NotRefreshed(results)
    return results


@flow(name="wallmap-refresh", task_runner=ThreadPoolTaskRunner(max_workers=1),
      validate_parameters=False)
def refresh_schedule(
    config: str, region: str = "", now: str | None = None, every: bool = False,
    retries: int = RETRIES, wait_s: float = WAIT_S,
) -> list[dict[str, Any]]:
    """One round over a schedule; maps one after the other, since each uses all cores.

    Args:
        config: the schedule file.
        region: only this one; empty means all.
        now: ISO 8601 time to reckon from; default: the present.
        every: also maps that are not due yet.
        retries: of a map whose data was the trouble.
        wait_s: before each of them.

    Returns:
        The results, as JSON.

    Raises:
        NotRefreshed: some map came to nothing; the others are published all the same.
    """
    path = Path(config)
    when = datetime.fromisoformat(now) if now else datetime.now(UTC)
    when = when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    jobs = jobs_of(read_schedule(path), path.parent, region, "")
    once = refresh_map.with_options(retries=retries, retry_delay_seconds=wait_s)
    futures = [once.submit(job.name, job, when, every) for job in jobs]
    wait(futures)
    results = [r for future in futures for r in _results(future.state)]
    results += wind_up(jobs[0], results, when)
    if worst(results):
        raise NotRefreshed(results)
    return [result.to_json() for result in results]


def _results(state: Any) -> list[RefreshResult]:
    """Results of a task, however it ended."""
    found = state.result(raise_on_failure=False)
    if isinstance(found, NotRefreshed):
        return found.results
    if isinstance(found, BaseException):
        raise found
    return list(found)


def _again(state: Any) -> bool:
    """Whether a task that failed may do better later."""
    trouble = state.result(raise_on_failure=False)
    return getattr(trouble, "exit_code", None) == DataTrouble.exit_code
