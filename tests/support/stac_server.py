"""A real STAC API and a range-capable file server on loopback, for tests: no mocks, no network.

Items of a static catalogue, in memory; hrefs rewritten to ``/files/``. Conformant enough for
pystac-client: landing page, collections, item search (GET and POST: collections, ids, bbox,
intersects, datetime, CQL2 filter, limit, paging). Requests are logged; faults can be injected.
"""

from __future__ import annotations

import copy
import json
import re
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import cql2
import shapely
import shapely.geometry

CONFORMS = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/collections",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0/item-search#filter",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core",
    "http://www.opengis.net/spec/cql2/1.0/conf/cql2-json",
]


class StacServer:
    """``with StacServer(folder) as server:`` serves the static catalogue in ``folder``.

    Attributes:
        url: landing page.
        requests: (method, path, Range header, status) of every answer.
        faults: statuses that the next searches are answered with, first one first.
        repeat: every page repeats the last item of the page before, as some APIs do.
    """

    def __init__(self, root: Path, page: int = 100) -> None:
        self.root, self.page = root.resolve(), page
        self.requests: list[tuple[str, str, str | None, int]] = []
        self.faults: list[int] = []
        self.repeat = False
        self._http = _Quiet(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self.items: list[dict[str, Any]] = []
        self.collections: dict[str, dict[str, Any]] = {}
        for path in sorted(self.root.rglob("*.json")):
            record = json.loads(path.read_text())
            if record.get("type") == "Collection":
                self.collections[record["id"]] = record | {"links": []}
            elif record.get("type") == "Feature" and "stac_version" in record:
                base = f"{self.url}/files/{quote(str(path.parent.relative_to(self.root)))}/"
                for asset in record["assets"].values():
                    asset["href"] = base + asset["href"].removeprefix("./")
                self.items.append(record | {"links": []})

    def __enter__(self) -> StacServer:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.shutdown()
        self._http.server_close()

    def search(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        """All items that match, newest first (as real APIs do)."""
        shape = None
        if box := query.get("bbox"):
            shape = shapely.box(*map(float, box))
        if geometry := query.get("intersects"):
            shape = shapely.geometry.shape(geometry)
        wanted = cql2.Expr(query["filter"]) if query.get("filter") else None
        hits = [
            i for i in self.items
            if (not query.get("collections") or i["collection"] in query["collections"])
            and (not query.get("ids") or i["id"] in query["ids"])
            and (shape is None or shape.intersects(shapely.geometry.shape(i["geometry"])))
            and _overlaps(i["properties"], query.get("datetime"))
            and (wanted is None or wanted.matches(i))
        ]
        return sorted(hits, key=lambda i: (_span(i["properties"])[0], i["id"]), reverse=True)

    def answer(self, query: dict[str, Any]) -> dict[str, Any]:
        """One page of a search."""
        hits, start = self.search(query), int(query.get("token") or 0)
        limit = min(int(query.get("limit") or 10), self.page)
        first = max(start - 1, 0) if self.repeat else start
        links = []
        if start + limit < len(hits):
            body = query | {"token": str(start + limit)}
            links.append({"rel": "next", "method": "POST", "href": f"{self.url}/search",
                          "body": body})
        return {"type": "FeatureCollection", "features": copy.deepcopy(hits[first:start + limit]),
                "links": links, "numberMatched": len(hits)}

    def landing(self) -> dict[str, Any]:
        """The API's root."""
        def link(rel: str, path: str, kind: str = "application/json", **more: str) -> dict:
            return {"rel": rel, "href": self.url + path, "type": kind, **more}

        return {
            "type": "Catalog", "id": "loopback", "stac_version": "1.0.0", "description": "test",
            "conformsTo": CONFORMS,
            "links": [
                link("self", "/"), link("root", "/"), link("data", "/collections"),
                link("search", "/search", "application/geo+json", method="GET"),
                link("search", "/search", "application/geo+json", method="POST"),
            ],
        }


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Readers drop connections when they have enough: nothing to report."""


def _span(properties: dict[str, Any]) -> tuple[datetime, datetime]:
    one = properties.get("datetime")
    texts = (one, one) if one else (properties["start_datetime"], properties["end_datetime"])
    start, end = (datetime.fromisoformat(t) for t in texts)
    return start, end


def _overlaps(properties: dict[str, Any], interval: str | None) -> bool:
    if not interval:
        return True
    low, _, high = interval.partition("/")
    start, end = _span(properties)
    far = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
    after = far[0] if low == ".." else datetime.fromisoformat(low)
    before = far[1] if (high or low) == ".." else datetime.fromisoformat(high or low)
    return start <= before and end >= after


def _handler(server: StacServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # GDAL and requests keep connections open

        def do_GET(self) -> None:
            path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
            one = path.removeprefix("/collections/")
            if path == "/":
                self._json(server.landing())
            elif path == "/collections":
                self._json({"collections": list(server.collections.values()), "links": []})
            elif one in server.collections:
                self._json(server.collections[one])
            elif path == "/search":
                lists = {k: v[0].split(",") for k, v in query.items()
                         if k in ("collections", "ids", "bbox")}
                self._search({k: v[0] for k, v in query.items()} | lists)
            elif path.startswith("/files/"):
                self._file(server.root / unquote(path.removeprefix("/files/")))
            else:
                self._reply(404, b"{}")

        do_HEAD = do_GET

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._search(json.loads(body))

        def _search(self, query: dict[str, Any]) -> None:
            if server.faults:
                self._reply(server.faults.pop(0), b"busy", {"Retry-After": "0"})
            else:
                self._json(server.answer(query))

        def _file(self, path: Path) -> None:
            if not path.resolve().is_relative_to(server.root) or not path.is_file():
                self._reply(404, b"")
                return
            data = path.read_bytes()
            more = {"Accept-Ranges": "bytes"}
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if not asked:
                self._reply(200, data, more)
                return
            first, last = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
            if first > last:
                self._reply(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            more["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            self._reply(206, data[first:last + 1], more)

        def _json(self, value: dict[str, Any]) -> None:
            self._reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            server.requests.append((self.command, self.path, self.headers.get("Range"), status))
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet: tests read ``server.requests``."""

    return Handler
