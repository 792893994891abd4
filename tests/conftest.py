"""What every test gets: no network but loopback, and the real data if it is there."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import shapely

# The suite runs in several processes: two threads each would only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that leaves this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple):
            host = address[0]
            if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
                raise AssertionError(f"a test tried to reach {host}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _nothing_is_held() -> None:
    """Let go of the image blocks that another test has read."""
    if held := sys.modules.get("pipeline.data.block_store"):
        held.SHARED.clear()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs keep the rates that they measure: not among the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real scenes and points."""
    if not (SHARED / "data").is_dir():
        pytest.skip("real data is not here: ../shared/data is absent")
    return SHARED / "data"


@pytest.fixture(scope="session")
def region(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny sandbox: the folder with catalog.json and truth/."""
    from pipeline import sandbox

    folder = tmp_path_factory.mktemp("region") / "tiny"
    sandbox.write(folder, sandbox.SandboxParams.tiny())
    return folder


@pytest.fixture(scope="session")
def region_aoi(region: Path) -> str:
    """An area across the zone boundary, well inside the tiny sandbox, as W,S,E,N."""
    from pipeline import sandbox

    west, south, east, north = sandbox.SandboxParams.tiny().bounds
    dx, dy = (east - west) * 0.1, (north - south) * 0.1
    return f"{west + dx:.6f},{south + dy:.6f},{east - dx:.6f},{north - dy:.6f}"


@pytest.fixture(scope="session")
def area(region_aoi: str) -> shapely.Geometry:
    """The same area as a geometry."""
    from pipeline.data.aoi import read_aoi

    return read_aoi(region_aoi).geometry


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints per task with random weights: what is mapped does not matter to most tests."""
    from tests.support.toy import save_untrained

    folder = tmp_path_factory.mktemp("checkpoints")
    return {key: save_untrained(folder / key, key) for key in ("cropland", "lfmc")}
