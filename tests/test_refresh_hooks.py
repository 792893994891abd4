"""The webhook: delivered to a real server, never fatal, and silent about secrets."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pipeline.refresh import hooks
from pipeline.refresh.hooks import on_failure
from tests.support.versions import result

FAILED = result(status="failed", exit_code=3, reason="the catalogue is down: "
                "https://user:secret@example.com/stac?sig=topsecret")


@dataclass
class Hook:
    """A webhook on this machine: what it was sent, and what it answers."""

    url: str = ""
    status: int = 200
    location: str = ""
    endless: bool = False
    bodies: list[dict] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    made = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            made.headers.append(dict(self.headers))
            self.send_response(made.status)
            if made.location:
                self.send_header("Location", made.location)
            if not made.endless:
                self.send_header("Content-Length", "0")
            self.end_headers()
            with suppress(OSError):  # whoever has heard enough hangs up
                while made.endless:
                    self.wfile.write(b"." * 1000)
                    time.sleep(0.01)

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}/hook/token-of-the-hook"
    monkeypatch.setenv("WALLMAP_TRUSTED_HOSTS", "127.0.0.1")
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_result_arrives_without_secrets(hook: Hook) -> None:
    assert on_failure(hook.url, FAILED)
    (body,) = hook.bodies
    assert body["text"].startswith("wallmap: demo/cropland failed: the catalogue is down")
    assert (body["exit_code"], body["tiles"]["total"]) == (3, 400)
    assert "secret" not in json.dumps(body)
    assert "Authorization" not in hook.headers[0]


@pytest.mark.parametrize("status", [404, 500, 302])
def test_an_answer_that_is_no_success(hook: Hook, status: int,
                                      caplog: pytest.LogCaptureFixture) -> None:
    hook.status, hook.location = status, hook.url
    with caplog.at_level(logging.WARNING):
        assert not on_failure(hook.url, FAILED)
    assert len(hook.bodies) == 1  # neither repeated nor led elsewhere
    assert f"127.0.0.1 was not told: it answers {status}" in caplog.text
    assert "token-of-the-hook" not in caplog.text


def test_an_answer_without_end_is_not_waited_for(hook: Hook) -> None:
    hook.endless = True
    assert on_failure(hook.url, FAILED)


def test_plain_http_and_private_hosts_want_to_be_trusted(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WALLMAP_TRUSTED_HOSTS")
    for url in (hook.url, hook.url.replace("http:", "https:"), "http://example.com/hook", "ftp://x",
                "https://metadata.internal/hook", "not a url", "", "https://[::1"):
        assert not on_failure(url, FAILED)
    assert hook.bodies == []
    assert "WALLMAP_TRUSTED_HOSTS" in caplog.text


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("WALLMAP_TRUSTED_HOSTS", "127.0.0.1")
    monkeypatch.setattr(hooks, "TIMEOUT_S", 0.5)
    assert not on_failure("http://127.0.0.1:9/secret-path", FAILED)
    assert "secret-path" not in caplog.text
