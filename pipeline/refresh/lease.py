"""One machine at a time on a map of a bucket: a lease, taken and kept by conditional writes.

``lease.json`` names the owner, who writes it anew every minute; who finds it ten minutes old, by
the store's clock, takes over. Each write replaces the very object that was read before, or fails:
of two machines that take over a dead owner's lease one gets it, and an owner that was taken for
dead finds out.
"""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipeline.refresh.bucket import Bucket
from pipeline.refresh.lock import Busy
from pipeline.spec.errors import DataTrouble

LEASE = "lease.json"
LEASE_S = 600.0  # others take over so long after the last sign of life
_BEAT_S = 60.0
_POLL_S = 5.0


class Lease:
    """A lease that is held; ``check`` before anything that others see."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket, self._tag, self._beats = bucket, "", 0
        self._owner = f"{socket.gethostname()} {uuid.uuid4().hex}"
        self._end = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lease", daemon=True)

    def check(self) -> None:
        """Make sure that the lease is still ours.

        Raises:
            Busy: it was taken over (this process slept for long, or someone deleted it).
        """
        if self._bucket.get_json(LEASE).get("owner") != self._owner:
            raise taken_over(self._bucket)

    def _take(self) -> str:
        """Take the lease; the owner where someone alive has it."""
        found, tag = self._bucket.tagged(LEASE)
        if not tag or self._bucket.age(LEASE) > LEASE_S:
            self._tag = self._bucket.claim(LEASE, self._content(), tag)
        return "" if self._tag else str(found.get("owner") or "someone")

    def _content(self) -> bytes:
        self._beats += 1  # other content every time: its tag tells one write from the next
        return json.dumps({"owner": self._owner, "beats": self._beats}).encode()

    def _beat(self) -> None:
        while not self._end.wait(_BEAT_S):
            try:
                self._tag = self._bucket.claim(LEASE, self._content(), self._tag) or self._found()
            except DataTrouble:
                continue  # a network that is away for a moment; ``check`` decides
            if not self._tag:
                return  # ``check`` will say so

    def _found(self) -> str:
        """The tag of a write of ours whose answer was lost; empty where it is not ours."""
        found, tag = self._bucket.tagged(LEASE)
        return tag if found.get("owner") == self._owner else ""

    def _release(self) -> None:
        self._end.set()
        self._beating.join(timeout=_BEAT_S)
        with suppress(DataTrouble):  # it ages, then
            if self._found():
                self._bucket.delete([LEASE])


@contextmanager
def leased(bucket: Bucket, wait_s: float = 0.0) -> Iterator[Lease]:
    """Hold a map of a bucket alone among all machines until the block ends.

    Args:
        bucket: of the map.
        wait_s: how long to wait for another owner.

    Raises:
        Busy: another machine, which is alive, still has it.
    """
    lease, end = Lease(bucket), time.monotonic() + wait_s
    while owner := lease._take():
        if time.monotonic() >= end:
            raise Busy(f"another machine is at work in {bucket.url}", got=owner,
                       then="wait for it (--wait SECONDS), or come back later")
        time.sleep(_POLL_S)
    lease._beating.start()
    try:
        yield lease
    finally:
        lease._release()


def taken_over(bucket: Bucket) -> Busy:
    """The error of an owner that was taken for dead."""
    return Busy(f"this refresh was taken for dead, and {bucket.url} taken over",
                then="nothing was published there; type the command again")
