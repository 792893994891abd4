"""A refresh whose tiles are made by a Dask cluster: processes with addresses of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from distributed import Client

from pipeline.infer import store
from pipeline.spec.layers import layers_of
from pipeline.spec.tasks import CROPLAND
from tests.support.world import World, begun, late

HOSTS = ("127.0.0.2", "127.0.0.3")
LAYERS = [layer.name for layer in layers_of(CROPLAND)]

# distributed's own: what a worker that is killed leaves behind
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@contextmanager
def process(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process, killed in the end."""
    started = subprocess.Popen([sys.executable, "-m", *words], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        yield started
    finally:
        started.kill()
        started.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[int]]]:
    """Address of a scheduler, and the processes of its two workers."""
    place = tmp_path / "scheduler.json"
    with ExitStack() as stack:
        stack.enter_context(process(
            "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
            "--no-dashboard", "--scheduler-file", str(place)))
        workers = [stack.enter_context(process(
            "distributed.cli.dask_worker", "--scheduler-file", str(place), "--host", host,
            "--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0",
            "--local-directory", str(tmp_path / host))) for host in HOSTS]
        while not place.exists():
            assert workers[0].poll() is None
            time.sleep(0.1)
        with Client(scheduler_file=str(place), timeout=60) as client:
            client.wait_for_workers(2, timeout=120)
            found = client.scheduler_info()
        assert {w["host"] for w in found["workers"].values()} == set(HOSTS)
        yield found["address"], [w.pid for w in workers]


def test_the_same_refresh_from_a_cluster_that_loses_a_worker(
    region: Path, untrained: dict[str, Path], tmp_path: Path, cluster: tuple[str, list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first version by both workers; then a scene over a part, and one of them is killed."""
    address, pids = cluster
    here = begun(region, untrained["cropland"], tmp_path / "here")
    newest = late(here.archive)[-1]
    here.archive.crop(newest, (0, 1), (0, 0.35))
    here.schedule(tile_px=16)
    there = here.copy(tmp_path / "there")
    there.schedule(tile_px=16, top=f'scheduler = "{address}"')
    for world in (here, there):
        assert world.refresh("2023-11-02T03:00:00") == 0
    assert_same(here, there)

    logged: list[str] = []
    log = store.RunStore.log

    def and_kill(self: store.RunStore, record: store.TileRecord) -> None:
        log(self, record)
        logged.append(record.key)
        if len(logged) == 2:
            os.kill(pids[0], signal.SIGKILL)

    for world in (here, there):
        world.grows()
    assert here.refresh("2023-11-04T03:00:00") == 0
    monkeypatch.setattr(store.RunStore, "log", and_kill)
    there.schedule(tile_px=16)
    assert there.refresh("2023-11-04T03:00:00", "--scheduler", address) == 0
    assert_same(here, there)
    told = there.last
    assert told.status == "published"
    assert 3 < told.tiles.recomputed == len(logged) < told.tiles.total
    assert told.tiles.carried == told.tiles.total - told.tiles.recomputed
    linked = [p for p in there.shelf.version(told.version).rglob("store.zarr/*/map/c/*/*")
              if p.stat().st_nlink > 1]
    assert len(linked) == told.tiles.carried

    # nothing is left to be made: no cluster is asked
    assert there.refresh("2023-11-11T03:00:00", "--scheduler", "tcp://127.0.0.1:9") == 0
    assert (there.last.tier, there.last.tiles.recomputed) == ("final", 0)


def assert_same(a: World, b: World) -> None:
    """Of two worlds the published maps, and what is said of their tiles."""
    for name in LAYERS:
        np.testing.assert_array_equal(a.layer(name), b.layer(name))
    assert (a.last.tiles, a.last.bytes) == (b.last.tiles, b.last.bytes)


@pytest.mark.parametrize(
    "text", ["tcp://nowhere", "8786", "tcp://u:p@h:1", "udp://h:1", "Local", ""])
def test_what_is_no_scheduler(world_without_map: World, text: str, capsys) -> None:
    assert world_without_map.refresh("2023-11-02T03:00:00", "--scheduler", text) == 2
    assert "unknown scheduler" in capsys.readouterr().err


@pytest.fixture
def world_without_map(region: Path, untrained: dict[str, Path], tmp_path: Path) -> World:
    return begun(region, untrained["cropland"], tmp_path / "w")
