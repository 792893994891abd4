"""One refresh of a region and task at a time, on one machine or several that share a disk.

``lock.json`` names the owner, who beats every few seconds. It is read and written only under an
``flock`` that is held for a moment, so that no two processes can both take over a dead owner's.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.data.files import atomic_write_json, writing
from pipeline.spec.errors import DataTrouble

LOCK, GUARD = "lock.json", ".lock-guard"
BEAT_S = 10.0
STALE_S = 120.0  # twelve beats: longer than a network disk hangs, shorter than anyone waits
_POLL_S = 0.5


class Busy(DataTrouble):
    """Another refresh holds the lock: trying later helps, so the exit code is that of data."""


class Lock:
    """A held lock; ``check`` before anything that others see."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.token = folder, uuid.uuid4().hex
        self._end = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="lock", daemon=True)

    def check(self) -> None:
        """Make sure that the lock is still ours.

        Raises:
            Busy: it was taken over (this process slept for long, or someone deleted it).
        """
        with _guarded(self.folder):
            owner = _owner(self.folder)
        if owner.get("token") != self.token:
            raise Busy("this refresh was taken for dead and its lock taken over",
                       got=_who(owner), then="nothing was published; type the command again")

    def _take(self) -> dict[str, Any]:
        """Take the lock; the owner's record where someone alive has it."""
        with _guarded(self.folder) as now:
            owner = _owner(self.folder)
            if owner and _alive(owner, now - _written(self.folder)):
                return owner
            self._write()
        return {}

    def _write(self) -> None:
        atomic_write_json(self.folder / LOCK, {
            "token": self.token, "host": socket.gethostname(), "pid": os.getpid(),
            **_process(os.getpid()), "heartbeat": datetime.now(UTC).isoformat(timespec="seconds"),
        })

    def _beat(self) -> None:
        while not self._end.wait(BEAT_S):
            try:
                with _guarded(self.folder):
                    if _owner(self.folder).get("token") != self.token:
                        return  # ``check`` will say so
                    self._write()
            except DataTrouble:
                continue  # a disk that is away for a moment; after STALE_S others may take over

    def _release(self) -> None:
        self._end.set()
        self._beating.join(timeout=BEAT_S)
        with _guarded(self.folder):
            if _owner(self.folder).get("token") == self.token:
                (self.folder / LOCK).unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, wait_s: float = 0.0) -> Iterator[Lock]:
    """Hold the lock of a folder until the block ends. A killed owner's lock is taken over.

    Args:
        folder: made when missing.
        wait_s: how long to wait for another owner.

    Raises:
        Busy: another owner, who is alive, still has it.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock, end = Lock(folder), time.monotonic() + wait_s
    while owner := lock._take():
        if time.monotonic() >= end:
            raise Busy(f"another refresh is at work in {folder}", got=_who(owner),
                       then="wait for it (--wait SECONDS), or come back later")
        time.sleep(_POLL_S)
    lock._beating.start()
    try:
        yield lock
    finally:
        lock._release()


@contextmanager
def _guarded(folder: Path) -> Iterator[float]:
    """Alone with ``lock.json`` for a moment; gives the time by the disk's own clock, which is not
    that of other machines."""
    with writing(folder), (folder / GUARD).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        os.utime(handle.fileno())
        yield os.fstat(handle.fileno()).st_mtime


def _owner(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / LOCK).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _written(folder: Path) -> float:
    return (folder / LOCK).stat().st_mtime


def _alive(owner: dict[str, Any], silent_s: float) -> bool:
    """Whether an owner may still be at work, ``silent_s`` seconds after its last beat."""
    if silent_s > STALE_S:
        return False
    own = _process(os.getpid())
    if owner.get("host") != socket.gethostname() or owner.get("space") != own["space"]:
        return True  # nobody can look from here; its heart will tell
    if owner.get("boot") != own["boot"]:
        return False
    start = str(owner.get("start") or "")
    return not start or _process(int(owner.get("pid", 0)))["start"] == start


def _process(pid: int) -> dict[str, str]:
    """Boot of the machine, process space (containers have their own) and start of a process, whose
    number alone is used again; empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot = space = ""
    try:
        # after the last bracket: the name of a command may hold anything
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        start = ""
    return {"boot": boot, "space": space, "start": start}


def _who(owner: dict[str, Any]) -> str:
    return (f"process {owner.get('pid')} on {owner.get('host')}, "
            f"last heard of {owner.get('heartbeat')}") if owner else "nobody"
