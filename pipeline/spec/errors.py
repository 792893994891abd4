"""Errors a user meets: each is one line and carries the exit code of its kind."""

from __future__ import annotations

from typing import Any


class PipelineError(Exception):
    """Base of all errors that the command lines turn into one line and an exit code.

    Args:
        what: what was wrong, in the user's words.
        got: the value that was received; left out of the message when not given.
        allowed: what would have been accepted.
        then: the next thing to do or type.
    """

    exit_code = 1

    def __init__(self, what: str, *, got: Any = None, allowed: str = "", then: str = "") -> None:
        parts = [what]
        if got is not None:
            parts.append(f"got {got!r}" if isinstance(got, str) else f"got {got}")
        if allowed:
            parts.append(f"allowed: {allowed}")
        if then:
            parts.append(then)
        super().__init__("; ".join(" ".join(p.split()) for p in parts))
        self.what = what


class BadRequest(PipelineError):
    """The request cannot be carried out as written (AOI, period, sensor, checkpoint, output)."""

    exit_code = 2


class DataTrouble(PipelineError):
    """The request is fine, the data is not: catalogue down or empty, asset unreadable."""

    exit_code = 3


class NothingFound(DataTrouble):
    """The catalogue answered, and has nothing usable for the request."""


class PartialMap(PipelineError):
    """Some tiles of the map failed; what was finished is kept and ``--resume`` completes it."""

    exit_code = 4
