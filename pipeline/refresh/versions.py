"""Versions of a map on disk: made aside, promoted by one rename, pruned, rolled back.

``versions/<id>`` holds a finished version, ``current`` is a relative link to one of them. Folders
whose name begins with a dot are no versions: ``.staging-`` is being made, ``.refused-`` was not fit
to be promoted, ``.trash-`` is being deleted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.data.files import sync, writing
from pipeline.mapping import STATE
from pipeline.refresh.result import RefreshResult
from pipeline.spec.errors import BadRequest

VERSIONS, CURRENT, HISTORY, REPORT = "versions", "current", "history.jsonl", "report.json"
STAGING, REFUSED, TRASH = ".staging-", ".refused-", ".trash-"
_ID = re.compile(r"\d{8}T\d{6}Z")
_ID_FORMAT = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Shelf:
    """The versions of one region and task.

    Attributes:
        path: ``ROOT/REGION/TASK``.
    """

    path: Path

    @property
    def folder(self) -> Path:
        """Of the versions."""
        return self.path / VERSIONS

    def versions(self) -> tuple[str, ...]:
        """Ids, oldest first."""
        if not self.folder.is_dir():
            return ()
        return tuple(sorted(p.name for p in self.folder.iterdir()
                            if _ID.fullmatch(p.name) and p.is_dir()))

    def current(self) -> str:
        """Id of the published version; empty before the first."""
        try:
            name = Path(os.readlink(self.path / CURRENT)).name
        except OSError:
            return ""
        return name if name in self.versions() else ""

    def version(self, name: str) -> Path:
        """Folder of a version."""
        return self.folder / name

    def new_id(self, now: datetime) -> str:
        """An id for a version made at ``now``, later than every other one of that second."""
        taken = {*self.versions(), *(p.name.partition("-")[2] for p in self._hidden(""))}
        while (name := now.astimezone(UTC).strftime(_ID_FORMAT)) in taken:
            now += timedelta(seconds=1)
        return name

    def open_stage(self, name: str) -> Path:
        """A new folder to make a version in."""
        with writing(self.stage(name)):
            self.stage(name).mkdir(parents=True)
        return self.stage(name)

    def stage(self, name: str) -> Path:
        """Folder that a version is made in."""
        return self.folder / f"{STAGING}{name}"

    def leftovers(self) -> tuple[Path, ...]:
        """What killed refreshes left unfinished, newest first."""
        return tuple(reversed(self._hidden(STAGING)))

    def promote(self, stage: Path, result: RefreshResult) -> None:
        """A finished stage becomes a version, and the published one.

        The line in the history decides: before it nothing has happened; after it, whatever a kill
        leaves undone is done by the next ``tidy``.

        Raises:
            BadRequest, DataTrouble: it cannot be written.
        """
        with writing(self.path):
            for path in (stage, *stage.rglob("*")):
                if STATE not in path.relative_to(stage).parts:  # chunks are checked when carried
                    sync(path)
        self.record(result)
        self._finish(result.version)

    def _finish(self, name: str) -> None:
        """Two renames: of the stage, then of the link to it."""
        with writing(self.path):
            if self.stage(name).is_dir() and not self.version(name).is_dir():
                os.rename(self.stage(name), self.version(name))
                sync(self.folder)
            if self.version(name).is_dir() and self.current() != name:
                self.point(name)

    def point(self, name: str) -> None:
        """Publish a version: one rename replaces the link."""
        aside = Path(tempfile.mkdtemp(prefix=".link-", dir=self.path))
        try:
            (aside / CURRENT).symlink_to(Path(VERSIONS) / name)
            os.replace(aside / CURRENT, self.path / CURRENT)
            sync(self.path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def refuse(self, stage: Path, name: str, keep: int) -> Path:
        """Put a version that is not fit aside; only the newest ``keep`` of these stay."""
        aside = self.folder / f"{REFUSED}{name}"
        with writing(aside):
            os.rename(stage, aside)
            for old in self._hidden(REFUSED)[: max(len(self._hidden(REFUSED)) - keep, 0)]:
                self.discard(old)
        return aside

    def prune(self, keep: int, keep_finals: int) -> tuple[str, ...]:
        """Delete old versions; the published one always stays.

        Args:
            keep: newest versions that stay.
            keep_finals: newest versions of the final tier that stay.

        Returns:
            Ids of what was deleted.
        """
        every = self.versions()
        finals = [v for v in every if report_of(self.version(v)).get("tier") == "final"]
        kept = {self.current(), *every[-keep:], *finals[max(len(finals) - keep_finals, 0):]}
        gone = tuple(v for v in every if v not in kept)
        for name in gone:
            self.discard(self.version(name))
        return gone

    def discard(self, folder: Path) -> None:
        """Delete a folder: out of sight first, so that nobody meets a half of it."""
        trash = folder.with_name(f"{TRASH}{folder.name.lstrip('.')}")
        with writing(folder):
            os.rename(folder, trash)
        shutil.rmtree(trash, ignore_errors=True)

    def tidy(self) -> None:
        """Finish what a kill cut short: deletions, and the promotion that the history tells of.
        Only under the lock."""
        for trash in (*self._hidden(TRASH), *self.path.glob(".link-*")):
            shutil.rmtree(trash, ignore_errors=True)
        if published := [r.version for r in self.history() if r.status == "published"]:
            self._finish(published[-1])

    def find(self, name: str) -> Path:
        """Folder of a version that there is.

        Raises:
            BadRequest: there is no such version.
        """
        if name not in self.versions():
            raise BadRequest("there is no such version", got=name,
                             allowed=", ".join(self.versions()) or "none yet")
        return self.version(name)

    def publish_again(self, result: RefreshResult) -> None:
        """Point to an older version; ``result`` tells so in the history, and decides (``promote``).

        Raises:
            BadRequest, DataTrouble: it cannot be written.
        """
        self.record(result)
        self._finish(result.version)

    def history(self) -> list[RefreshResult]:
        """Every refresh, oldest first; a line that a crash cut short is left out.

        Raises:
            BadRequest, DataTrouble: there is one, and it cannot be read.
        """
        with writing(self.path):
            try:
                text = (self.path / HISTORY).read_bytes()
            except FileNotFoundError:
                return []
        return results_of(text.decode(errors="replace"))

    def record(self, result: RefreshResult) -> None:
        """Add a line to the history."""
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with (self.path / HISTORY).open("ab+") as log:
                if log.tell() and _last_byte(log) != b"\n":
                    log.write(b"\n")  # of a line that a crash cut short
                log.write(json.dumps(result.to_json(), allow_nan=False).encode() + b"\n")
                log.flush()
                os.fsync(log.fileno())

    def _hidden(self, prefix: str) -> list[Path]:
        return sorted(self.folder.glob(f"{prefix or '.'}*")) if self.folder.is_dir() else []


def results_of(history: str) -> list[RefreshResult]:
    """The refreshes of a history's text, oldest first; lines that are damaged are left out."""
    found = []
    for line in history.splitlines():
        try:
            found.append(RefreshResult.from_json(json.loads(line)))
        except (ValueError, AttributeError, BadRequest):
            continue
    return found


def report_of(folder: Path) -> dict[str, Any]:
    """``report.json`` of a version; empty where there is none."""
    try:
        found = json.loads((folder / REPORT).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _last_byte(log: Any) -> bytes:
    log.seek(-1, os.SEEK_END)
    return bytes(log.read(1))
