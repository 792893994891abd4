"""A STAC API and file server whose answers go wrong, in every way that servers are known for."""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from pipeline.data import web
from pipeline.data.remote import RemoteFile
from tests.support.stac_server import StacServer

# What a client can get over by asking again.
PASSING = (
    "429", "500", "503", "504", "reset", "cut", "drip", "empty", "login page", "other bytes",
    "too few bytes", "corrupt", "replaced", "stale 200",
)
# What stays wrong: the tile must fail and name the file.
LASTING = ("403", "404", "truncated file", "endless", *PASSING)


@dataclass
class Fault:
    """Something that goes wrong with files.

    Attributes:
        kind: of ``LASTING``.
        path: pattern that the request's path must hold; empty = any file.
        after: matching requests that are answered well first.
        times: how often it goes wrong then.
        where: header (ranges from the first byte on), pixels (other ranges) or any.
    """

    kind: str
    path: str = ""
    after: int = 0
    times: int = 1
    where: str = "any"
    seen: int = field(default=0, init=False)

    def strikes(self, path: str, first: int) -> bool:
        """Whether this request goes wrong."""
        here = {"header": first == 0, "pixels": first > 0, "any": True}[self.where]
        if not here or not re.search(self.path, path):
            return False
        self.seen += 1
        return self.after < self.seen <= self.after + self.times


class FaultServer(StacServer):
    """``StacServer`` with faults, and checksums in the items.

    Attributes:
        wrong: faults of files; the first that strikes is what happens.
        drop: search pages without the link to the next one, although there is one.
        lose: items of each page that are left out although they are counted.
        count: whether searches say how many items match.
        token: what ``?token=`` must be for a file to be given; empty = nothing.
        lifetime: requests after which another token is needed.
        next_lifetime: that of the tokens after the first.
        struck: (kind, path) of what went wrong.
    """

    def __init__(self, root: Path, page: int = 100) -> None:
        super().__init__(root, page)
        for item in self.items:
            for asset in item["assets"].values():
                path = root / unquote(urlsplit(asset["href"]).path.removeprefix("/files/"))
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                asset |= {"file:size": path.stat().st_size, "file:checksum": f"1220{digest}"}
        self.wrong: list[Fault] = []
        self.drop = self.lose = 0
        self.count = True
        self.token, self.lifetime, self.next_lifetime = "", 0, 10**9
        self.struck: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self._http.RequestHandlerClass = _faulty(self, self._http.RequestHandlerClass)

    def answer(self, query: dict[str, Any]) -> dict[str, Any]:
        page = super().answer(query)
        if self.lose:
            page["features"] = page["features"][self.lose:]
        if self.drop and page["links"]:
            self.drop -= 1
            page["links"] = []
        if not self.count:
            del page["numberMatched"]
        return page

    def strike(self, path: str, first: int) -> str:
        """Kind of the fault that this request meets; empty = none."""
        with self.lock:
            for fault in self.wrong:
                if fault.strikes(path, first):
                    self.struck.append((fault.kind, path))
                    return fault.kind
        return ""

    def admits(self, query: str) -> bool:
        """Whether a request's token is the one of today; each use ages it."""
        with self.lock:
            given = parse_qs(query).get("token", [""])[0]
            if not self.token or given != self.token:
                return not self.token
            self.lifetime -= 1
            if self.lifetime == 0:
                self.token, self.lifetime = self.token + "x", self.next_lifetime
            return True


def _faulty(server: FaultServer, base: type[BaseHTTPRequestHandler]) -> type:
    class Faulty(base):
        def _file(self, path: Path) -> None:
            asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first = int(asked[1]) if asked else 0
            if not server.admits(urlsplit(self.path).query):
                self._reply(403, b"expired")
            elif kind := server.strike(path.name, first):
                self._fail(kind, path, first, asked)
            else:
                super()._file(path)

        def _fail(self, kind: str, path: Path, first: int, asked: re.Match | None) -> None:
            data = path.read_bytes()
            last = min(int(asked[2] or len(data)) if asked else len(data), len(data) - 1)
            body = data[first:last + 1]
            whole = {"Content-Range": f"bytes {first}-{last}/{len(data)}", "ETag": '"1"'}
            if kind.isdecimal():
                self._reply(int(kind), b"wrong", {"Retry-After": "1"} if kind == "429" else {})
            elif kind == "reset":
                # closing with unread time on the clock sends RST instead of FIN
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                           struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
            elif kind == "cut":
                self._raw(206, body[: len(body) // 2], len(body), whole)
            elif kind == "drip":
                self._raw(206, body[:1], len(body), whole, hold=True)
            elif kind == "empty":
                self._reply(206, b"", whole)
            elif kind == "login page":
                self._reply(200, b"<html>please log in</html>", {"Content-Type": "text/html"})
            elif kind == "other bytes":
                self._reply(206, body, {"Content-Range": f"bytes 7-{last + 7}/{len(data)}"})
            elif kind == "too few bytes":
                self._reply(206, body[:-3], whole)
            elif kind == "corrupt":
                middle = len(body) // 2
                self._reply(206, body[:middle] + bytes([body[middle] ^ 255]) + body[middle + 1:],
                            {"Content-Range": whole["Content-Range"]})
            elif kind == "replaced":
                self._reply(206, body, whole | {"ETag": f'"{len(server.requests)}"'})
            elif kind == "stale 200":  # a proxy's copy of a part of the file
                self._reply(200, data[: len(data) // 3])
            elif kind == "truncated file":
                size = len(data) // 2
                if first >= size:
                    self._reply(416, b"", {"Content-Range": f"bytes */{size}"})
                else:
                    end = min(last, size - 1)
                    self._reply(206, data[first:end + 1],
                                {"Content-Range": f"bytes {first}-{end}/{size}"})
            elif kind == "endless":
                self._raw(206, body[:1], 1 << 40, whole)
            else:
                raise ValueError(kind)

        def _raw(self, status: int, body: bytes, announced: int, headers: dict[str, str],
                 hold: bool = False) -> None:
            """An answer that is not what it announces; the connection ends with it."""
            server.requests.append((self.command, self.path, self.headers.get("Range"), status))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(announced)}.items():
                self.send_header(name, value)
            self.end_headers()
            self.close_connection = True
            try:
                self.wfile.write(body)
                for _ in range(100 if hold else 0):
                    self.wfile.write(b"\0")
                    time.sleep(0.02)
            except OSError:
                pass  # the client has gone

    return Faulty


def sleepless(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were asked to be slept; nobody sleeps them."""
    asked: list[float] = []
    monkeypatch.setattr(web, "_sleep", asked.append)
    monkeypatch.setattr(web, "PATIENCE_S", 0.2)
    return asked


def anew(running: FaultServer) -> FaultServer:
    """The same server, of which nothing is wrong, asked or held any more."""
    running.wrong, running.struck, running.token = [], [], ""
    running.drop = running.lose = 0
    running.count, running.repeat, running.page = True, False, 100
    running.requests.clear()
    RemoteFile._headers.clear()
    return running
