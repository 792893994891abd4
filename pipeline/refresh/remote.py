"""Maps that are published into a bucket, from a working folder on this machine.

``s3://bucket/prefix/REGION/TASK`` looks like ``ROOT/REGION/TASK`` on a disk, but for the pointer:
a bucket has no links, so ``current.json`` names the published version. It is one object, written
last: who reads it, and then ``versions/ID/``, sees whole versions only. A version is complete when
it has its ``report.json``, which is uploaded after everything else of it; the run's store goes with
it, so that any machine can carry its tiles over. As on a disk the history decides: it is written
after the version and before the pointer, and what a kill leaves undone is done the next time.

Nothing of it needs the working folder to outlive the machine: the published version and what an
unfinished run had made (``saved``) are brought here where anything is to be made; that nothing is,
is told by a few small objects. History and pointer replace only what was read under the lease: a
machine that was taken for dead, and wakes up, publishes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pipeline.data.files import atomic_write_bytes, writing
from pipeline.infer.store import LOG, RunStore
from pipeline.mapping import STATE
from pipeline.publish.sheets import MANIFEST
from pipeline.refresh.bucket import Bucket, below
from pipeline.refresh.carry import MARKS
from pipeline.refresh.lease import Lease, leased, taken_over
from pipeline.refresh.saved import UNFINISHED, Saver, fetch, forget, restore
from pipeline.refresh.versions import HISTORY, REPORT, VERSIONS, Shelf
from pipeline.spec.grid import Tile

POINTER = "current.json"
_SAID = (REPORT, MANIFEST, f"{STATE}/{MARKS}", f"{STATE}/{LOG}")  # of a version, beside its pixels


class Mirror:
    """A map of a bucket and its working folder, while this machine alone works on them."""

    def __init__(self, bucket: Bucket, shelf: Shelf, lease: Lease, keep: int, keep_finals: int
                 ) -> None:
        self._bucket, self._shelf, self._lease = bucket, shelf, lease
        self._keep, self._keep_finals = keep, keep_finals
        self._history, self._tag = bucket.read(HISTORY)
        self._pointer = bucket.tagged(POINTER)
        self._saver: Saver | None = None

    def bring(self, name: str) -> None:
        """Have a version in the working folder, if the bucket has it."""
        place = f"{VERSIONS}/{name}"
        if name and name not in self._shelf.versions() and self._bucket.exists(f"{place}/{REPORT}"):
            fetch(self._bucket, place, self._shelf, name)

    def begin(self) -> None:
        """Bring the history into the working folder.

        What was made here and did not get into the bucket stays, unless another machine has
        published since; then the bucket is right.
        """
        shelf = self._shelf
        mine = (shelf.path / HISTORY).read_bytes() if (shelf.path / HISTORY).is_file() else b""
        if self._history and not mine.startswith(self._history):
            atomic_write_bytes(shelf.path / HISTORY, self._history)

    def away(self) -> bool:
        """Whether what is published is in the bucket only, and nothing there is unfinished."""
        name = self._published()
        return (bool(name) and name == self.pointed and name not in self._shelf.versions()
                and {*self._bucket.folders(UNFINISHED)} <= {name})  # its own is done with

    @property
    def pointed(self) -> str:
        """Id of the version that readers of the bucket see; empty before the first."""
        return str(self._pointer[0].get("version", ""))

    def say(self, shelf: Shelf, name: str) -> None:
        """Have what is said of a version in another folder, without its pixels."""
        _say(self._bucket, shelf, name)

    def catch_up(self) -> None:
        """Bring the published version and unfinished runs into the working folder."""
        self.bring(self._published())
        _point(self._shelf, self._published())
        restore(self._bucket, self._shelf)

    def begun(self, name: str, store: RunStore, tiles: Mapping[str, Tile]) -> None:
        """A run has begun to make these tiles: what it finishes is kept in the bucket, too."""
        self.rest()
        self._saver = Saver(self._bucket, name, store, tiles)

    def rest(self) -> None:
        """The run has ended, or is given up."""
        if self._saver:
            self._saver.stop()
            self._saver = None

    def settle(self) -> None:
        """Bring what is published in the working folder into the bucket, and prune there.

        Raises:
            Busy: another machine has taken over; the bucket is as it made it.
            DataTrouble: the bucket cannot be reached; the next refresh goes on from here.
        """
        self._lease.check()
        bucket, shelf, name = self._bucket, self._shelf, self._shelf.current()
        if name != self._published():  # an old one, on a disk that had no need to catch up
            name = ""
        place = f"{VERSIONS}/{name}"
        if name and not bucket.exists(f"{place}/{REPORT}"):
            bucket.delete(bucket.keys(place))  # of an upload that was cut short
            files = dict(below(shelf.version(name)))
            report = files.pop(REPORT)
            bucket.upload((f"{place}/{key}", path) for key, path in files.items())
            bucket.put(f"{place}/{REPORT}", report)
        mine = (shelf.path / HISTORY).read_bytes() if (shelf.path / HISTORY).is_file() else b""
        if mine != self._history:
            self._history, self._tag = mine, self._claim(HISTORY, mine, self._tag)
        if name and self.pointed != name:
            pointer = {"version": name, "href": f"./{VERSIONS}/{name}/"}
            text = (json.dumps(pointer) + "\n").encode()
            self._pointer = pointer, self._claim(POINTER, text, self._pointer[1])
        prune(bucket, self._keep, self._keep_finals)

    def finished(self) -> None:
        """A run has come to its end, published or refused: nothing of it need be kept apart."""
        self.rest()
        self.settle()
        forget(self._bucket)

    def _published(self) -> str:
        return _published(self._shelf, self._pointer[0])

    def _claim(self, key: str, content: bytes, tag: str) -> str:
        if not (made := self._bucket.claim(key, content, tag)):
            raise taken_over(self._bucket)
        return made


@contextmanager
def mirrored(root: str, region: str, task: str, shelf: Shelf, keep: int, keep_finals: int,
             wait_s: float = 0.0) -> Iterator[Mirror]:
    """Work on a map of a bucket: its history is brought here first, what is published on demand
    (``Mirror.catch_up``), and what is published here afterwards is brought there. No other machine
    works on it meanwhile.

    Args:
        root: ``s3://bucket/prefix``.
        region, task: names.
        shelf: of the working folder.
        keep, keep_finals: versions that stay in the bucket (``Shelf.prune``).
        wait_s: how long to wait for another machine.

    Raises:
        Busy: another machine works on the map.
        DataTrouble: the bucket cannot be reached; what is published there stays.
    """
    bucket = Bucket(f"{root.rstrip('/')}/{region}/{task}")
    with leased(bucket, wait_s) as lease:
        mirror = Mirror(bucket, shelf, lease, keep, keep_finals)
        mirror.begin()
        try:
            yield mirror
        finally:
            mirror.rest()
        mirror.settle()


def glance(bucket: Bucket, shelf: Shelf) -> None:
    """Bring what is said of the published version into an empty folder."""
    atomic_write_bytes(shelf.path / HISTORY, bucket.get(HISTORY) or b"")
    name = _published(shelf, bucket.get_json(POINTER))
    _say(bucket, shelf, name)
    _point(shelf, name)


def _say(bucket: Bucket, shelf: Shelf, name: str) -> None:
    """Bring what is said of a version; of its rasters only that they are there."""
    place = f"{VERSIONS}/{name}"
    for key in bucket.keys(place) if name and bucket.exists(f"{place}/{REPORT}") else ():
        path = shelf.path / key
        if key.removeprefix(f"{place}/") in _SAID:
            atomic_write_bytes(path, bucket.get(key) or b"")
        elif STATE not in key.split("/"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def _published(shelf: Shelf, pointer: Mapping[str, object]) -> str:
    """Id of the published version: the history decides."""
    published = [r.version for r in shelf.history() if r.status == "published"]
    return published[-1] if published else str(pointer.get("version", ""))


def _point(shelf: Shelf, name: str) -> None:
    if name in shelf.versions() and shelf.current() != name:
        with writing(shelf.path):
            shelf.point(name)


def complete(bucket: Bucket) -> dict[str, dict[str, object]]:
    """Reports of the bucket's complete versions by id, oldest first."""
    reports = {name: bucket.get_json(f"{VERSIONS}/{name}/{REPORT}")
               for name in bucket.folders(VERSIONS)}
    return {name: report for name, report in reports.items() if report}


def prune(bucket: Bucket, keep: int, keep_finals: int) -> tuple[str, ...]:
    """Delete old versions from the bucket, and what uploads that were cut short have left; the
    published version always stays. Returns the ids of what was deleted."""
    reports = complete(bucket)
    every = list(reports)
    finals = [name for name, report in reports.items() if report.get("tier") == "final"]
    kept = {bucket.get_json(POINTER).get("version"), *every[-keep:],
            *finals[max(len(finals) - keep_finals, 0):]}
    # one that is newer than all complete ones may be on its way, from a machine that took over
    gone = tuple(name for name in bucket.folders(VERSIONS) if name not in kept
                 and (name in reports or not every or name < every[-1]))
    for name in gone:
        bucket.delete([f"{VERSIONS}/{name}/{REPORT}"])  # from now on it is no version
        bucket.delete(bucket.keys(f"{VERSIONS}/{name}"))
    return gone
