"""What the command lines share: one-line errors, exit codes, Ctrl-C, JSON and progress."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from pipeline.spec.errors import BadRequest, DataTrouble, PipelineError

_BOUNDS = re.compile(r"^-[\d.]+,")
# what torch and threads raise, RuntimeErrors like any other, where Python raises MemoryError
_NO_MEMORY = re.compile("can't allocate memory|not enough memory|can't start new thread")
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
CLOSED = 141  # 128 + SIGPIPE


class Parser(argparse.ArgumentParser):
    """An argument parser whose refusals are one line and end with the next thing to type."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            BadRequest: always.
        """
        raise BadRequest(message, then=f"see {self.prog} --help")

    def parse_known_args(self, args=None, namespace=None):
        """Parse, with bounds west of Greenwich (``--aoi -5,40,-4,41``) read as the value they are,
        not as an option."""
        joined: list[str] = []
        for arg in sys.argv[1:] if args is None else args:
            if joined and _BOUNDS.match(arg) and joined[-1].startswith("--"):
                joined[-1] += f"={arg}"
            else:
                joined.append(arg)
        return super().parse_known_args(joined, namespace)


def parser(prog: str, description: str) -> Parser:
    """A parser with the options that every command has."""
    made = Parser(prog=prog, description=description, allow_abbrev=False)
    made.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    made.add_argument("--quiet", action="store_true", help="no progress, results only")
    return made


def run(command: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command and turn what it raises into one line on stderr and an exit code.

    With ``--json`` the error is a JSON object on stdout, too.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        code = command(args)
        sys.stdout.flush()
        return code
    except PipelineError as error:
        return _refused(error, args)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _NO_MEMORY.search(str(error)):
            raise
        return _refused(_memory_trouble(), args)
    except BrokenPipeError:
        if not _unheard():
            raise  # another pipe
        return CLOSED
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept; type the command again (pipeline.map: with "
              "--resume)", file=sys.stderr)
        return INTERRUPTED


def _refused(error: PipelineError, args: Sequence[str]) -> int:
    """Say what went wrong; returns the exit code."""
    if "--json" in args:
        emit({"error": str(error), "exit_code": error.exit_code})
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def _memory_trouble() -> DataTrouble:
    return DataTrouble(
        "the memory of this machine, or the part that this process may use, is full",
        then="what was finished is kept: make room and type the command again (pipeline.map: with "
        "--resume), or start over with a smaller --tile-size",
    )


def _unheard() -> bool:
    """Whether who read the results has seen enough (``| head``); then nothing more is said, nor
    when Python flushes at its exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def emit(value: Any) -> None:
    """Print a JSON object on one line."""
    print(json.dumps(value), flush=True)
