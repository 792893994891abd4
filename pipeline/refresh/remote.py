"""Maps that are published into a bucket, from a working folder on this machine.

``s3://bucket/prefix/REGION/TASK`` looks like ``ROOT/REGION/TASK`` on a disk, but for the pointer:
a bucket has no links, so ``current.json`` names the published version. It is one object, written
last: who reads it, and then ``versions/ID/``, sees whole versions only. A version is complete when
it has its ``report.json``, which is uploaded after everything else of it; the run's store goes with
it, so that any machine can carry its tiles over. As on a disk the history decides: it is written
after the version and before the pointer, and what a kill leaves undone is done the next time.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.data.files import atomic_write_bytes, sync, writing
from pipeline.refresh.bucket import Bucket, below
from pipeline.refresh.lock import Busy
from pipeline.refresh.versions import HISTORY, REPORT, STAGING, VERSIONS, Shelf
from pipeline.spec.errors import DataTrouble

POINTER, LEASE = "current.json", "lease.json"
LEASE_S = 600.0  # others take over so long after the last sign of life
_BEAT_S = 60.0


@contextmanager
def mirrored(root: str, region: str, task: str, shelf: Shelf, keep: int, keep_finals: int
             ) -> Iterator[None]:
    """Work on a map of a bucket: what is published is brought here first, and what is published
    here afterwards is brought there. No other machine works on it meanwhile.

    Args:
        root: ``s3://bucket/prefix``.
        region, task: names.
        shelf: of the working folder.
        keep, keep_finals: versions that stay in the bucket (``Shelf.prune``).

    Raises:
        Busy: another machine works on the map.
        DataTrouble: the bucket cannot be reached; what is published there stays.
    """
    bucket = Bucket(f"{root.rstrip('/')}/{region}/{task}")
    with _leased(bucket) as check:
        fetch_current(bucket, shelf)
        yield
        check()
        publish_version(bucket, shelf)
        prune(bucket, keep, keep_finals)


def fetch_current(bucket: Bucket, shelf: Shelf) -> str:
    """Bring the published version of the bucket into a working folder, unless it is there.

    What was made here and did not get into the bucket stays, unless another machine has published
    since; then the bucket is right.

    Returns:
        Id of the version that is current here now; empty before the first.
    """
    history = bucket.get(HISTORY) or b""
    mine = (shelf.path / HISTORY).read_bytes() if (shelf.path / HISTORY).is_file() else b""
    if history and not mine.startswith(history):
        atomic_write_bytes(shelf.path / HISTORY, history)
    published = [r.version for r in shelf.history() if r.status == "published"]
    name = published[-1] if published else str(bucket.get_json(POINTER).get("version", ""))
    if name and name not in shelf.versions() and bucket.exists(f"{VERSIONS}/{name}/{REPORT}"):
        _fetch(bucket, shelf, name)
    if name in shelf.versions() and shelf.current() != name:
        with writing(shelf.path):
            shelf.point(name)
    return shelf.current()


def publish_version(bucket: Bucket, shelf: Shelf) -> None:
    """Bring what is published in a working folder into the bucket: version, history, pointer."""
    name = shelf.current()
    if name and not bucket.exists(f"{VERSIONS}/{name}/{REPORT}"):
        files = dict(below(shelf.version(name)))
        report = files.pop(REPORT)
        bucket.upload((f"{VERSIONS}/{name}/{key}", path) for key, path in files.items())
        bucket.put(f"{VERSIONS}/{name}/{REPORT}", report)
    if (shelf.path / HISTORY).is_file():
        bucket.put(HISTORY, (shelf.path / HISTORY).read_bytes())
    if name and bucket.get_json(POINTER).get("version") != name:
        pointer = {"version": name, "href": f"./{VERSIONS}/{name}/"}
        bucket.put(POINTER, (json.dumps(pointer) + "\n").encode())


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
    gone = tuple(name for name in bucket.folders(VERSIONS) if name not in kept)
    for name in gone:
        bucket.delete([f"{VERSIONS}/{name}/{REPORT}"])  # from now on it is no version
        bucket.delete(bucket.keys(f"{VERSIONS}/{name}"))
    return gone


def _fetch(bucket: Bucket, shelf: Shelf, name: str) -> None:
    """Download a version aside, then rename it into place."""
    prefix = f"{VERSIONS}/{name}/"
    stage = shelf.folder / f"{STAGING}fetch-{uuid.uuid4().hex}"
    try:
        with writing(stage):
            stage.mkdir(parents=True)
            bucket.download((key, stage / key.removeprefix(prefix))
                            for key in bucket.keys(prefix.rstrip("/")))
            os.rename(stage, shelf.version(name))
            sync(shelf.folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def _leased(bucket: Bucket) -> Iterator[Callable[[], None]]:
    """Hold a map of the bucket alone among all machines; gives a function that makes sure that it
    still is so. The owner writes a sign of life every minute; who finds none for ten takes over.
    Clocks may differ by minutes, not by more.

    Raises:
        Busy: another machine holds it.
    """
    owner = f"{socket.gethostname()} {uuid.uuid4().hex}"
    found, tag = bucket.tagged(LEASE)
    silent = time.time() - float(found.get("beat", 0))
    if (tag and silent < LEASE_S) or not bucket.claim(LEASE, _lease(owner), tag):
        raise Busy(f"another machine is at work in {bucket.url}", got=found.get("owner"),
                   then="come back later")
    end = threading.Event()

    def check() -> None:
        if bucket.get_json(LEASE).get("owner") != owner:
            raise Busy(f"this refresh was taken for dead, and {bucket.url} taken over",
                       then="nothing was published there; type the command again")

    def beat() -> None:
        while not end.wait(_BEAT_S):
            try:
                check()
                bucket.put(LEASE, _lease(owner))
            except DataTrouble:
                continue  # a network that is away for a moment; the last check decides

    beating = threading.Thread(target=beat, name="lease", daemon=True)
    beating.start()
    try:
        yield check
    finally:
        end.set()
        beating.join(timeout=_BEAT_S)
        if bucket.get_json(LEASE).get("owner") == owner:
            bucket.delete([LEASE])


def _lease(owner: str) -> bytes:
    return json.dumps({"owner": owner, "beat": time.time()}).encode()
