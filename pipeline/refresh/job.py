"""One region and task of a schedule: where its versions lie, the request of its map, trouble."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.data.aoi import read_aoi
from pipeline.data.hrefs import is_remote
from pipeline.data.sources import CATALOGS
from pipeline.refresh.result import RefreshResult
from pipeline.refresh.versions import Shelf
from pipeline.spec.errors import BadRequest, PipelineError
from pipeline.spec.request import MapRequest
from pipeline.spec.schedule import RegionPlan, Schedule, TaskPlan, parse_schedule
from pipeline.spec.tasks import Task
from pipeline.spec.tasks import task as task_of
from pipeline.spec.timeline import Timeline

_FILES = (".json", ".geojson", ".gpkg", ".parquet", ".geoparquet")


@dataclass(frozen=True)
class Job:
    """One region and task.

    Attributes:
        schedule: whose bounds and retention hold.
        base: folder of the schedule file, which its paths are relative to.
        region: name.
        task: what is mapped.
    """

    schedule: Schedule
    base: Path
    region: str
    task: Task

    @property
    def plan(self) -> TaskPlan:
        return self.schedule.tasks[self.task.key]

    @property
    def area(self) -> RegionPlan:
        return self.schedule.regions[self.region]

    @property
    def name(self) -> str:
        return f"{self.region}/{self.task.key}"

    @property
    def shelf(self) -> Shelf:
        """Where its versions lie."""
        return Shelf(root_of(self.schedule, self.base) / self.region / self.task.key)

    def latitude(self) -> float:
        """Of the region's middle, degrees.

        Raises:
            BadRequest: the area cannot be read.
        """
        return float(read_aoi(_place(self.base, self.area.aoi)).geometry.centroid.y)

    def request(self, timeline: Timeline, out: Path) -> MapRequest:
        """The request of its map of a period, with results in ``out``."""
        plan = self.plan
        return MapRequest(
            aoi=_place(self.base, self.area.aoi), sensor=plan.sensor, task=self.task,
            timeline=timeline,
            catalog=_place(self.base, self.area.catalog or self.schedule.catalog),
            checkpoint=_place(self.base, plan.checkpoint or self.task.key), out=out,
            tile_px=plan.tile_px, device=plan.device, adapt=plan.adapt,
            speed=plan.speed,
        )


def read_schedule(path: Path) -> Schedule:
    """The schedule of a file.

    Raises:
        BadRequest: no such file, or it does not hold a schedule.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest("the schedule cannot be read", got=str(path),
                         then=f"{getattr(error, 'strerror', None) or error}: "
                         "see aoi/schedule.toml for an example") from None
    return parse_schedule(text, str(path))


def jobs_of(schedule: Schedule, base: Path, region: str = "", task: str = "") -> list[Job]:
    """The jobs of a schedule, in its order.

    Args:
        schedule, base: as in ``Job``.
        region, task: only these, if given.

    Raises:
        BadRequest: the schedule has none of that name.
    """
    found = [Job(schedule, base, name, task_of(key)) for name, area in schedule.regions.items()
             for key in area.tasks if region in ("", name) and task in ("", key)]
    if not found:
        names = [f"{name} ({', '.join(area.tasks)})" for name, area in schedule.regions.items()]
        raise BadRequest("the schedule has no such region and task",
                         got=f"{region or 'any'}, {task or 'any'}", allowed="; ".join(names))
    return found


def root_of(schedule: Schedule, base: Path) -> Path:
    """Folder on this machine that holds the versions: ``root``, or ``work`` where root is remote.

    Raises:
        BadRequest: root is remote, and there is no work folder.
    """
    if not is_remote(schedule.root):
        return base / schedule.root
    if not schedule.work:
        raise BadRequest("a remote root needs a folder on this machine to work in",
                         got=schedule.root, then='add: work = "/var/lib/wallmap"')
    return base / schedule.work


def failed(job: Job, now: datetime, error: Exception) -> RefreshResult:
    """The result of a refresh that came to nothing; what was published stays."""
    known = isinstance(error, PipelineError)
    return RefreshResult(
        region=job.region, task=job.task.key, sensor=job.plan.sensor, status="failed",
        now=utc_text(now), previous=job.shelf.current(),
        reason=str(error) if known else f"{type(error).__name__}: {error}",
        exit_code=error.exit_code if isinstance(error, PipelineError) else 1)


def utc_text(now: datetime) -> str:
    """A time as results tell it."""
    return now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _place(base: Path, text: str) -> str:
    """A path of the schedule, seen from here; other texts (names, URLs, bounds) as they are."""
    is_path = "/" in text or text.endswith(_FILES)
    return str(base / text) if is_path and not is_remote(text) and text not in CATALOGS else text
