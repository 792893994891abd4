"""A real S3 server on this machine: moto's, in a process of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

COMMAND = "WALLMAP_MOTO_SERVER"  # environment: its path, where it is installed elsewhere


def command() -> str:
    """Path of ``moto_server``; empty where it is not installed."""
    beside = Path(sys.executable).with_name("moto_server")
    return os.environ.get(COMMAND) or (str(beside) if beside.is_file() else
                                       shutil.which("moto_server") or "")


@contextmanager
def serving() -> Iterator[str]:
    """A server with the bucket ``maps``; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    server = subprocess.Popen([command(), "-H", "127.0.0.1", "-p", address.rpartition(":")[2]],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                urlopen(f"{address}/moto-api/").close()
                break
            except URLError:
                assert server.poll() is None, "moto_server ended"
                time.sleep(0.1)
        urlopen(Request(f"{address}/maps", method="PUT")).close()
        yield address
    finally:
        server.terminate()
        server.wait()


def place(address: str, monkeypatch: pytest.MonkeyPatch, name: str) -> str:
    """URL of an empty place in the bucket, and the environment that leads there."""
    for key, value in {"AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true",
                       "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "top-secret",
                       "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(key, value)
    return f"s3://maps/{name}"
