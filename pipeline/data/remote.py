"""A file on the web as GDAL's GeoTIFF driver reads it: by ranges, each complete or an error."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from io import SEEK_CUR, SEEK_END
from itertools import count
from typing import ClassVar

import requests
from rasterio.abc import MultiByteRangeResourceContainer

from pipeline.data import web
from pipeline.data.signing import renewed, signed
from pipeline.spec.errors import DataTrouble

_PIECE = 1 << 15  # bytes asked for at least: the header of a COG in one request
_GAP = 1 << 15  # bytes between two wanted ranges that are read along rather than asked around
_LONGEST = 1 << 24  # bytes asked for at most
_KEPT = 1 << 26  # bytes held of a file that is open: its blocks are looked at once they are decoded
_TRIES = 3  # answers that do not fit the question
_HEADERS_KEPT = 2048  # files: 64 MiB, a year of one sensor over a few tiles of an archive
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Changed(Exception):
    """The file is not, or no longer, the one that its header tells of."""


class Unreadable(Exception):
    """A reason in words, without the address."""


_numbers = count()


@dataclass(frozen=True)
class _Header:
    """First bytes of a file, its size in bytes, the server's mark of this version, and a number
    that no other header has."""

    start: bytes
    size: int
    version: str
    number: int = field(default_factory=_numbers.__next__)


class RemoteFile:
    """One file on the web: what rasterio calls a container, with one file in it.

    GDAL takes no exception from the functions it calls: what went wrong is kept in ``failure``, and
    who reads must look there before believing a pixel.

    Args:
        href: unsigned, http or https.
        signer: of the source row.
        trusted: private hosts that may be reached.

    Attributes:
        failure: the first thing that went wrong.
    """

    # of all files, latest last
    _headers: ClassVar[OrderedDict[tuple[str, str], _Header]] = OrderedDict()
    _lock: ClassVar = threading.Lock()
    received: ClassVar[int] = 0  # bytes, of all files
    received_plain: ClassVar[int] = 0  # those without TLS, which Linux does not count as read

    def __init__(self, href: str, signer: str, trusted: frozenset[str]) -> None:
        self._href, self._signer = href, signer
        self._session = web.session(trusted)
        self._url = signed(href, signer)
        self._read: deque[tuple[int, bytes]] = deque()  # the last pieces: where, and their bytes
        self.failure: Exception | None = None
        self._header = self._read_header()

    @property
    def length(self) -> int:
        """Size of the file, bytes."""
        return self._header.size

    @property
    def key(self) -> int:
        """Tells this version of the file from all others; another one after ``forget``."""
        return self._header.number

    def forget(self) -> None:
        """Read the header anew, next time."""
        with self._lock:
            self._headers.pop((self._href, self._signer), None)

    def get(self, first: int, size: int) -> bytes:
        """Bytes from ``first`` on; fewer than ``size`` only at the end of the file.

        Raises:
            Unreadable, Changed, DataTrouble, OSError: they cannot be had.
        """
        end = min(first + size, self.length)
        if end <= first:
            return b""
        for start, held in (*self._read, (0, self._header.start)):
            if start <= first and end <= start + len(held):
                return held[first - start : end - start]
        parts = []
        for begin in range(first, end, _LONGEST):
            stop = max(min(begin + _LONGEST, end), begin + min(_PIECE, self.length - begin))
            body, size_now, version = self._ask(begin, stop)
            if (size_now, version) != (self.length, self._header.version):
                raise Changed("the file changed while it was read")
            parts.append(body)
        body = b"".join(parts)
        self._read.appendleft((first, body))
        while len(self._read) > 1 and sum(len(held) for _, held in self._read) > _KEPT:
            self._read.pop()
        return body[: end - first]

    def whole(self) -> bytes:
        """The whole file, asked for anew: what is read later comes from this copy."""
        self._read.clear()
        self._header = replace(self._header, start=b"")
        return self.get(0, self.length)

    def _read_header(self) -> _Header:
        key = (self._href, self._signer)
        with self._lock:
            if key in self._headers:
                self._headers.move_to_end(key)
                return self._headers[key]
        header = _Header(*self._ask(0, _PIECE))
        with self._lock:
            self._headers[key] = header
            while len(self._headers) > _HEADERS_KEPT:
                self._headers.popitem(last=False)
        return header

    def _ask(self, first: int, stop: int) -> tuple[bytes, int, str]:
        """Bytes ``first`` to ``stop``, the file's size, and the mark of its version."""
        why = ""
        for _ in range(_TRIES):
            answer = self._session.get(self._url, headers={
                "Range": f"bytes={first}-{stop - 1}", "Accept-Encoding": "identity"})
            if answer.status_code in (401, 403) and not why:
                why = f"HTTP {answer.status_code}"
                self._url = renewed(self._href, self._signer, self._url)
                continue
            if answer.status_code not in (200, 206):
                raise Unreadable(f"HTTP {answer.status_code}")
            if part := _part(answer, first, stop):
                with self._lock:
                    RemoteFile.received += len(part[0])
                    if self._url.startswith("http:"):
                        RemoteFile.received_plain += len(part[0])
                return (*part, answer.headers.get("ETag", ""))
            why = "the server's answers are not the bytes that were asked for"
        raise Unreadable(why)

    # what rasterio asks of a container

    def open(self, path: str, mode: str = "rb") -> _Cursor:
        """A new place to read from."""
        return _Cursor(self)

    def isfile(self, path: str) -> bool:
        """It is one."""
        return True

    def isdir(self, path: str) -> bool:
        """It is none."""
        return False

    def ls(self, path: str) -> list[str]:
        """No side-car files."""
        return []

    def mtime(self, path: str) -> int:
        """Nobody needs it."""
        return 0

    def size(self, path: str) -> int:
        """Size of the file, bytes."""
        return self.length

    def rm(self, path: str) -> None:
        """Nothing is removed."""


MultiByteRangeResourceContainer.register(RemoteFile)


class _Cursor:
    """A ``RemoteFile`` with a place to read from."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._at = file, 0

    def __enter__(self) -> _Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go somewhere."""
        base = {SEEK_CUR: self._at, SEEK_END: self._file.length}.get(whence, 0)
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Where it is."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Next bytes; none after a failure, which GDAL takes for the end of the file."""
        found = self._get(self._at, self._file.length if size < 0 else size)
        self._at += len(found)
        return found

    def get_byte_ranges(self, offsets: Sequence[int], sizes: Sequence[int]) -> list[bytes]:
        """Several pieces, neighbours in one request."""
        found: list[bytes] = []
        while len(found) < len(offsets):
            first = stop = offsets[k := len(found)]
            run: list[tuple[int, int]] = []
            while k < len(offsets) and 0 <= offsets[k] - stop <= _GAP:
                if run and offsets[k] + sizes[k] - first > _LONGEST:
                    break
                stop = offsets[k] + sizes[k]
                run.append((offsets[k] - first, sizes[k]))
                k += 1
            block = self._get(first, stop - first)
            if len(block) < stop - first:  # GDAL would decode what its buffer happens to hold
                self._file.failure = self._file.failure or Changed("it ends too early")
            found += [block[start : start + size] for start, size in run]
        return found

    def _get(self, first: int, size: int) -> bytes:
        if self._file.failure:
            return b""
        try:
            return self._file.get(first, size)
        except (Unreadable, Changed, DataTrouble, OSError) as error:
            self._file.failure = error
            return b""


def _part(answer: requests.Response, first: int, stop: int) -> tuple[bytes, int] | None:
    """The bytes asked for and the file's size; None when the answer is something else."""
    body = answer.content
    if answer.status_code == 200:  # the server knows no ranges and sends all of a small file
        announced = answer.headers.get("Content-Length", "")
        return (body[first:stop], len(body)) if announced == str(len(body)) else None
    stated = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if not stated:
        return None
    begin, last, size = (int(n) for n in stated.groups())
    right = begin == first and last == min(stop, size) - 1 and len(body) == last - begin + 1
    return (body, size) if right else None
