"""A map that is held alone: on this machine, and, where its root is a bucket, among all."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.hrefs import is_remote
from pipeline.infer.store import RunStore
from pipeline.refresh.job import Job
from pipeline.refresh.lock import Lock, locked
from pipeline.refresh.result import RefreshResult
from pipeline.refresh.versions import HISTORY, Shelf, results_of
from pipeline.spec.grid import Tile

if TYPE_CHECKING:
    from pipeline.refresh.remote import Mirror  # an extra that a disk does not need


@dataclass(frozen=True)
class Hold:
    """A map that no other refresh works on.

    Attributes:
        lock: of its folder.
        mirror: of its place in a bucket; None where its root is a folder.
    """

    lock: Lock
    mirror: Mirror | None = None

    def away(self) -> bool:
        """Whether what is published is in the bucket only, and nothing there is unfinished."""
        return self.mirror is not None and self.mirror.away()

    def catch_up(self) -> None:
        """Have on this machine what is published, and what lost machines had finished."""
        if self.mirror:
            self.mirror.catch_up()

    def say(self, shelf: Shelf, name: str) -> None:
        """Have what is said of a kept version in another folder (``glimpsed``)."""
        if self.mirror:
            self.mirror.say(shelf, name)

    def published(self, shelf: Shelf) -> str:
        """Id of the version that readers see, wherever it is."""
        return self.mirror.pointed if self.mirror else shelf.current()

    def bring(self, name: str) -> None:
        """Have a kept version on this machine."""
        if self.mirror:
            self.mirror.bring(name)

    def begun(self, name: str, store: RunStore, tiles: Mapping[str, Tile]) -> None:
        """A run has begun to make these tiles, for the version of that name."""
        if self.mirror:
            self.mirror.begun(name, store, tiles)

    def finished(self) -> None:
        """A run has come to its end, published or refused."""
        if self.mirror:
            self.mirror.finished()


@contextmanager
def alone(job: Job, wait_s: float) -> Iterator[Hold]:
    """Hold a map; what a kill left undone is done, and what the block publishes is brought to the
    bucket. What is published there is here after ``Hold.catch_up``.

    The lock comes first: nothing is cleaned up that another refresh may be making.

    Raises:
        Busy: another refresh holds it, still after ``wait_s`` seconds.
    """
    keep, root, end = job.schedule.retention, job.schedule.root, time.monotonic() + wait_s
    with locked(job.shelf.path, wait_s) as lock, ExitStack() as stack:
        mirror = None
        if is_remote(root):
            from pipeline.refresh.remote import mirrored

            mirror = stack.enter_context(mirrored(
                root, job.region, job.task.key, job.shelf, keep.versions, keep.finals,
                max(end - time.monotonic(), 0.0)))
        job.shelf.tidy()
        yield Hold(lock, mirror)


def told_of(job: Job) -> tuple[list[RefreshResult], str]:
    """Every refresh of a map, wherever it ran, and the id of the version that readers see; holds
    nothing."""
    if not is_remote(job.schedule.root):
        return job.shelf.history(), job.shelf.current()
    from pipeline.refresh.bucket import Bucket
    from pipeline.refresh.remote import POINTER

    bucket = Bucket(_place(job))
    history = results_of((bucket.get(HISTORY) or b"").decode(errors="replace"))
    return history, str(bucket.get_json(POINTER).get("version", ""))


@contextmanager
def glimpsed(job: Job) -> Iterator[Job]:
    """The job as one that may be looked at: where its root is a bucket, with a working folder for
    the moment that has what is said of the published version, without its pixels."""
    if not is_remote(job.schedule.root):
        yield job
        return
    from pipeline.refresh.bucket import Bucket
    from pipeline.refresh.remote import glance

    with tempfile.TemporaryDirectory(prefix="wallmap-") as folder:
        seen = dataclasses.replace(job.schedule, work=str(Path(folder)))
        shown = dataclasses.replace(job, schedule=seen)
        glance(Bucket(_place(job)), shown.shelf)
        yield shown


def _place(job: Job) -> str:
    return f"{job.schedule.root.rstrip('/')}/{job.region}/{job.task.key}"
