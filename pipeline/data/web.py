"""The web, with care: searches and pixels alike come through here.

It asks again as servers want to be asked, reads answers whole or not at all, and goes nowhere
private. GDAL's own client is not used for http: it follows any redirect, knows no ``Retry-After``,
and remembers failures.
"""

from __future__ import annotations

import http.cookiejar
import ipaddress
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from pipeline.data.hrefs import scrubbed
from pipeline.spec.errors import DataTrouble

BUSY = (408, 429, 500, 502, 503, 504)  # ask again later
ATTEMPTS = 5
FIRST_WAIT_S = 0.5  # doubled each time
LONGEST_WAIT_S = 60.0  # a server that wants more has given up on us: so do we
CONNECT_S, SILENCE_S, HEADERS_S = 20.0, 30.0, 60.0
# A body may take this long, and a second more for each so many bytes.
PATIENCE_S, SLOWEST_BYTES_S = 30.0, 10_000
MAX_ANSWER = 1 << 26  # bytes: ten times the largest page of items seen, or range of pixels asked
TRUSTED_HOSTS = "WALLMAP_TRUSTED_HOSTS"  # environment: names of private hosts, comma-separated

# What of an HTTP library's long message a user needs, and the path in it, with its query.
_CAUSES = (r"\[Errno -?\d+\] ([^'\")]+)", r"(Failed to resolve '[^']+')", r"(timed out[^)'\"]*)")
_PATH = re.compile(r"(?:with )?url: \S+|\?\S+")

# IPv6 addresses that an IPv4 address is the end of: translated by a gateway (RFC 6052), and of old
_CARRIERS = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "::/96")))
# Public by their numbers, but answered inside a cloud by the machine's own host: Azure, Oracle.
_CLOUD = ("168.63.129.16", "192.0.0.192")

_sleep = time.sleep  # tests do not wait


class _Discreet(logging.Filter):
    """Log records of the libraries, without tokens, whatever level is asked for."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _PATH.sub("", scrubbed(record.getMessage())), ()
        return True


for _name in ("urllib3.connectionpool", "pystac_client.stac_api_io"):
    logging.getLogger(_name).addFilter(_Discreet())


def host_of(address: str) -> str:
    """Host of an address; empty for a path."""
    return (urlsplit(address).hostname or "").lower()


def trusted_hosts(catalog: str) -> frozenset[str]:
    """Hosts that may be private: the catalogue's own, as the user typed it, and those that the
    environment names."""
    named = os.environ.get(TRUSTED_HOSTS, "").lower().split(",")
    return frozenset({host_of(catalog), *(name.strip() for name in named)} - {""})


def is_private(host: str) -> bool:
    """Whether a host's name already says that it is this machine, its network or its cloud."""
    try:
        return not _public(host.strip("[]"))
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".local", ".internal"))


@cache
def session(trusted: frozenset[str]) -> requests.Session:
    """A session that reaches public hosts and the trusted ones, redirects included."""
    made = requests.Session()
    made.max_redirects = 5
    made.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("http://", "https://"):
        made.mount(scheme, CarefulAdapter(trusted))
    return made


class CarefulAdapter(HTTPAdapter):
    """Transport of ``requests``: patient with servers, strict with their answers.

    Args:
        trusted: private hosts that may be reached.
    """

    def __init__(self, trusted: frozenset[str]) -> None:
        self._trusted = trusted
        super().__init__(pool_maxsize=16)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Pools whose connections look where they have arrived."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _pools(self._trusted)

    def send(
        self, request: requests.PreparedRequest, stream: bool = False, timeout: Any = None,
        verify: bool | str = True, cert: Any = None, proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """The answer, its body read; of a server that stays busy the last one.

        Raises:
            requests.RequestException: no answer, or never a whole one.
            DataTrouble: it is too large, or the address is a private one.
        """
        wait = FIRST_WAIT_S
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = super().send(request, True, (CONNECT_S, SILENCE_S), verify, cert,
                                      dict(proxies or {}))
                _read(answer)
            except requests.exceptions.SSLError:
                raise  # a wrong certificate does not become right
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                if attempt == ATTEMPTS:
                    raise requests.ConnectionError(str(error), request=request) from error
                asked = 0.0
            else:
                asked = _retry_after(answer)
                if answer.status_code not in BUSY or attempt == ATTEMPTS or asked > LONGEST_WAIT_S:
                    return answer
            _sleep(max(wait, asked))
            wait *= 2
        raise AssertionError("the last attempt returns or raises")


def reason_of(error: Exception) -> str:
    """What a user needs of a library's long message, in one line and without tokens."""
    if "previous exception" in str(error) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # rasterio's
    text = " ".join(_PATH.sub("", scrubbed(str(error))).split())
    causes = [found[1] for cause in _CAUSES if (found := re.search(cause, text))]
    return causes[0] if causes else text[:300] or type(error).__name__


def _read(answer: requests.Response) -> None:
    """Read the body into the answer: all that was announced, within limits of size and time."""
    body, started = bytearray(), time.monotonic()
    announced = answer.headers.get("Content-Length", "")
    try:
        _check_size(answer, int(announced) if announced.isdecimal() else 0)
        while piece := answer.raw.read1(1 << 16, decode_content=True):
            body += piece
            _check_size(answer, len(body))
            if time.monotonic() - started > PATIENCE_S + len(body) / SLOWEST_BYTES_S:
                raise TimeoutError("timed out: the answer drips")
    except BaseException:
        answer.raw.close()  # what is left of it must not be taken for the next answer
        raise
    answer._content, answer._content_consumed = bytes(body), True


def _check_size(answer: requests.Response, size: int) -> None:
    if size > MAX_ANSWER:
        raise DataTrouble(f"{host_of(answer.url)} sends an answer that is too large",
                          got=f"{size} bytes or more", allowed=f"up to {MAX_ANSWER}")


def _retry_after(answer: requests.Response) -> float:
    """Seconds that a server asks to wait; 0 when it does not say."""
    text = answer.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max((when - datetime.now(UTC)).total_seconds(), 0.0)


def _public(address: str) -> bool:
    """Whether an IP address is anybody's; ValueError when it is none."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and any(ip in net for net in _CARRIERS):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        ip = inner or ip
    return ip.is_global and not ip.is_multicast and str(ip) not in _CLOUD


def _pools(trusted: frozenset[str]) -> dict[str, type[HTTPConnectionPool]]:
    """Connection pools by scheme. A name says nothing about where it leads, and a redirect leads
    anywhere: so each connection is looked at when it stands, before anything is sent. Proxies
    have pools of their own: where these may go is their business."""

    class Http(_Looking, HTTPConnection):
        allowed = trusted

    class Https(_Looking, HTTPSConnection):
        allowed = trusted

    class HttpPool(HTTPConnectionPool):
        ConnectionCls = Http

    class HttpsPool(HTTPSConnectionPool):
        ConnectionCls = Https

    return {"http": HttpPool, "https": HttpsPool}


class _Looking:
    """Mix-in of an HTTP connection."""

    allowed: frozenset[str]
    host: str
    sock: socket.socket

    def _new_conn(self) -> socket.socket:
        if self.host.lower() in self.allowed:
            return super()._new_conn()  # type: ignore[misc]
        if is_private(self.host):
            raise self._refusal(self.host)
        sock = super()._new_conn()  # type: ignore[misc]
        peer = str(sock.getpeername()[0])
        if not _public(peer):
            sock.close()
            raise self._refusal(f"{self.host} ({peer})")
        return sock

    def _refusal(self, where: str) -> DataTrouble:
        return DataTrouble("the catalogue leads to a private address", got=where,
                           then=f"if it is meant, set {TRUSTED_HOSTS}={self.host}")

    def getresponse(self) -> Any:
        """The answer's head, within a time of its own: it may drip, too."""
        late = threading.Event()
        watch = threading.Timer(HEADERS_S, _hang_up, (self.sock, late))
        watch.daemon = True
        watch.start()
        try:
            return super().getresponse()  # type: ignore[misc]
        finally:
            watch.cancel()
            if late.is_set():
                raise TimeoutError("timed out: no answer")


def _hang_up(sock: socket.socket, late: threading.Event) -> None:
    late.set()
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
