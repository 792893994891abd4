"""Refreshes into a bucket from machines that are lost: each begins with an empty disk."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio

from pipeline.refresh import lease
from pipeline.refresh.bucket import Bucket, below
from pipeline.refresh.lease import Lease
from pipeline.refresh.lock import Busy
from pipeline.refresh.remote import POINTER, complete, mirrored
from pipeline.refresh.result import TileCounts
from pipeline.refresh.saved import UNFINISHED
from pipeline.refresh.versions import Shelf
from pipeline.spec.errors import DataTrouble
from pipeline.spec.layers import layers_of
from pipeline.spec.tasks import CROPLAND
from tests.support import s3_server
from tests.support.versions import result
from tests.support.world import World, begun, late

pytest.importorskip("obstore", reason="the extra s3 is not installed")
pytestmark = pytest.mark.skipif(not s3_server.command(), reason="moto_server is not installed")
LAYERS = [layer.name for layer in layers_of(CROPLAND)]

# a refresh that kills itself: when a tile is saved, within an upload, between history and pointer
KILLED = """
import os, signal, sys
from pipeline import cli
from pipeline.refresh import lease, saved
from pipeline.refresh.__main__ import command
from pipeline.refresh.bucket import Bucket

moment, saved.SAVE_S, lease.LEASE_S = sys.argv[1], 0.001, -1.0
save, put, claim = saved.Saver._save, Bucket.put, Bucket.claim

def die(now):
    if now:
        os.kill(os.getpid(), signal.SIGKILL)

def and_save(self):
    save(self)
    die(moment == "a tile" and self._saved)

def and_put(self, key, content):
    die(moment == "its upload" and key.endswith("/confidence.tif"))
    put(self, key, content)

def and_claim(self, key, *more):
    die(moment == "its promotion" and key == "current.json")
    return claim(self, key, *more)

saved.Saver._save, Bucket.put, Bucket.claim = and_save, and_put, and_claim
sys.exit(cli.run(command, sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server.serving() as address:
        yield address


@pytest.fixture
def root(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """An empty place in the bucket, and the environment that leads there."""
    return s3_server.place(server, monkeypatch, request.node.name)


@pytest.fixture(scope="module")
def twin(
    region: Path, untrained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[World, dict[str, dict[str, np.ndarray]], TileCounts]:
    """A world without a map; what two refreshes publish on a disk, before and after a scene over a
    part of it has come; and the tiles of the second."""
    world = begun(region, untrained["cropland"], tmp_path_factory.mktemp("twin") / "w")
    world.archive.crop(late(world.archive)[-1], (0, 1), (0, 0.35))
    disk = world.copy(world.folder.with_name("disk"))
    assert disk.refresh("2023-11-02T03:00:00") == 0
    disk.copy(world.folder.with_name("first"))
    before = {name: disk.layer(name) for name in LAYERS}
    disk.grows()
    assert disk.refresh("2023-11-04T03:00:00") == 0
    assert 1 < disk.last.tiles.recomputed < disk.last.tiles.total == 6
    after = {name: disk.layer(name) for name in LAYERS}
    return world, {"before": before, "after": after}, disk.last.tiles


def pod(world: World, root: str, folder: Path) -> World:
    """A machine with an empty disk."""
    made = world.copy(folder)
    shutil.rmtree(made.folder / "root", ignore_errors=True)
    made.schedule(root=root, top='work = "root"')
    return made


def bring(world: World, root: str, folder: Path) -> None:
    """Publish in the bucket what the first refresh has made."""
    shutil.copytree(world.folder.with_name("first") / "root", folder / "root", symlinks=True)
    with mirrored(root, "west", "cropland", Shelf(folder / "root" / "west" / "cropland"), 8, 24):
        pass


def published(root: str, folder: Path) -> tuple[str, dict[str, np.ndarray]]:
    """What a reader of the bucket sees: the id of the version, and its layers."""
    bucket = Bucket(f"{root}/west/cropland")
    name = str(bucket.get_json(POINTER)["version"])
    layers = {}
    for layer in LAYERS:
        bucket.download([(f"versions/{name}/{layer}.tif", folder / f"{layer}.tif")])
        with rasterio.open(folder / f"{layer}.tif") as cog:
            layers[layer] = cog.read(1)
    return name, layers


def assert_same(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    for name in LAYERS:
        np.testing.assert_array_equal(got[name], wanted[name])


def test_every_machine_goes_on_from_the_bucket(
    twin, root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world, wanted, tiles = twin
    bring(world, root, tmp_path / "a")
    assert_same(published(root, tmp_path)[1], wanted["before"])

    b = pod(world, root, tmp_path / "b")
    capsys.readouterr()
    assert b.refresh("2023-11-02T15:00:00", "--json") == 0  # it was made, if not here
    (told,) = json.loads(capsys.readouterr().out)["results"]
    assert told["reason"].startswith("not due before 2023-11-03")
    b.grows()
    assert b.refresh("2023-11-04T03:00:00", "--dry-run", "--json") == 0
    (planned,) = json.loads(capsys.readouterr().out)["plans"]
    assert planned["tiles"]["recomputed"] == tiles.recomputed
    assert not b.shelf.versions()  # it has looked, and left nothing
    assert b.refresh("2023-11-04T03:00:00") == 0
    assert b.last.tiles == tiles
    name, layers = published(root, tmp_path)
    assert name == "20231104T030000Z"
    assert_same(layers, wanted["after"])
    linked = [p for p in b.shelf.version(name).rglob("store.zarr/*/map/c/*/*")
              if p.stat().st_nlink > 1]
    assert len(linked) == b.last.tiles.carried

    c = pod(world, root, tmp_path / "c")
    c.grows()
    assert c.run("--rollback", "20231103T030000Z", "--region", "west") == 2
    assert c.run("--rollback", "20231102T030000Z", "--region", "west") == 0
    assert_same(published(root, tmp_path)[1], wanted["before"])
    d = pod(world, root, tmp_path / "d")
    d.grows()
    assert d.refresh("2023-11-05T03:00:00", "--all") == 0  # neither does another machine
    assert "which was rolled back" in d.last.reason
    assert not d.shelf.versions()  # nor does it fetch the two
    assert published(root, tmp_path)[0] == "20231102T030000Z"
    assert list(complete(Bucket(f"{root}/west/cropland"))) == [
        "20231102T030000Z", "20231104T030000Z"]


def test_on_a_quiet_day_no_pixel_is_fetched(
    twin, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said of the published version is enough to know that nothing is to be done."""
    world, wanted, tiles = twin
    bring(world, root, tmp_path / "a")
    got: list[str] = []
    get, download = Bucket.get, Bucket._download
    monkeypatch.setattr(Bucket, "get", lambda self, key: got.append(key) or get(self, key))
    monkeypatch.setattr(Bucket, "_download", lambda self, key, path: (
        got.append(key), download(self, key, path))[1])
    b = pod(world, root, tmp_path / "b")
    assert b.refresh("2023-11-03T03:00:00") == 0
    assert (b.last.status, b.last.tiles.carried) == ("unchanged", tiles.total)
    fetched = [key for key in got if key.startswith("versions/20231102T030000Z/")]
    assert {key.rpartition("/")[2] for key in fetched} == {
        "report.json", "manifest.json", "fingerprints.json", "tiles.jsonl"}
    assert not b.shelf.versions()
    assert b.refresh("2023-11-03T04:00:00", "--all", broken=True) == 3
    assert (b.last.status, b.last.previous) == ("failed", "20231102T030000Z")
    assert b.refresh("2023-11-03T05:00:00", "--all") == 0
    bucket = Bucket(f"{root}/west/cropland")
    assert b'"unchanged"' in (bucket.get("history.jsonl") or b"").splitlines()[-1]
    assert_same(published(root, tmp_path)[1], wanted["before"])

    bucket.delete(["versions/20231102T030000Z/confidence.tif"])  # then it is no quiet day
    c = pod(world, root, tmp_path / "c")
    assert c.refresh("2023-11-04T03:00:00") == 0
    assert c.last.reason == "files of 20231102T030000Z are missing"
    assert_same(published(root, tmp_path)[1], wanted["before"])


def test_an_old_disk_does_not_turn_a_map_back(twin, root: str, tmp_path: Path) -> None:
    """A machine that has an older version, on a day when nothing is to be done."""
    world, wanted, _ = twin
    bring(world, root, tmp_path / "a")
    old, new = pod(world, root, tmp_path / "old"), pod(world, root, tmp_path / "new")
    for machine in (old, new):
        machine.grows()
    shutil.copytree(tmp_path / "a" / "root", old.folder / "root", symlinks=True)
    assert new.refresh("2023-11-04T03:00:00") == 0
    assert old.shelf.current() == "20231102T030000Z"
    assert old.refresh("2023-11-05T03:00:00") == 0
    assert old.last.status == "unchanged"
    name, layers = published(root, tmp_path)
    assert name == "20231104T030000Z"
    assert_same(layers, wanted["after"])


def test_machines_that_are_lost_harm_nothing(
    twin, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One machine after the other is killed, later each time, and takes its disk along."""
    world, wanted, tiles = twin
    bring(world, root, tmp_path / "a")
    bucket = Bucket(f"{root}/west/cropland")
    for day, moment in ((3, "a tile"), (4, "its upload"), (5, "its promotion")):
        lost = pod(world, root, tmp_path / "lost")
        lost.grows()
        lost.archive.view(datetime(2023, 11, day, 3, tzinfo=UTC))
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, moment, "--config", str(lost.folder / "s.toml"),
             "--quiet", "--now", f"2023-11-{day:02d}T03:00:00Z"],
            stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        assert ended.returncode == -signal.SIGKILL
        name, layers = published(root, tmp_path)  # readers have the old map
        assert name == "20231102T030000Z"
        assert_same(layers, wanted["before"])
        if moment == "a tile":
            kept = bucket.get(f"{UNFINISHED}/20231103T030000Z/.run/tiles.jsonl") or b""
            saved = [json.loads(line)["tile"] for line in kept.splitlines()]
            assert len(saved) == len(set(saved)) >= 1
        if moment == "its upload":
            log = lost.shelf.path / "current" / ".run" / "tiles.jsonl"
            made = [json.loads(line) for line in log.read_text().splitlines()]
            assert len(made) == tiles.total  # none twice, and those that were saved as they were
            assert set(log.read_bytes().splitlines()) >= {*kept.splitlines()}
            assert bucket.folders("versions") == ["20231102T030000Z", "20231104T030000Z"]
            assert list(complete(bucket)) == ["20231102T030000Z"]
        shutil.rmtree(lost.folder)

    last = pod(world, root, tmp_path / "b")
    last.grows()
    capsys.readouterr()
    assert last.refresh("2023-11-05T04:00:00") == 3  # nobody knows yet that the last one is dead
    assert "another machine is at work" in capsys.readouterr().out
    monkeypatch.setattr(lease, "LEASE_S", -1.0)
    # the map is not due, but its promotion was cut short: the history had it, and that decides
    assert last.refresh("2023-11-05T04:00:00") == 0
    name, layers = published(root, tmp_path)
    assert name == "20231105T030000Z"
    assert_same(layers, wanted["after"])
    assert last.last.status == "unchanged"
    assert last.last.tiles.carried == tiles.total
    assert [r.version for r in last.shelf.history() if r.status == "published"] == [
        "20231102T030000Z", name]
    assert set(complete(bucket)) == set(bucket.folders("versions")) == {"20231102T030000Z", name}
    here = {k for k, _ in below(last.shelf.version(name))}
    assert {k.removeprefix(f"versions/{name}/") for k in bucket.keys(f"versions/{name}")} == here


def test_who_wakes_up_after_another_took_over_publishes_nothing(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even one that has just made sure of its lease: what it replaces is no longer there."""

    def told(work: Path, name: str) -> Shelf:
        shelf = Shelf(tmp_path / work / "demo" / "cropland")
        (shelf.open_stage(name) / "report.json").write_text("{}")
        shelf.promote(shelf.stage(name), result(version=name))
        return shelf

    def slow() -> None:
        with mirrored(root, "demo", "cropland", Shelf(tmp_path / "a/demo/cropland"), 3, 0):
            monkeypatch.setattr(lease, "LEASE_S", -1.0)
            with mirrored(root, "demo", "cropland", Shelf(tmp_path / "b/demo/cropland"), 3, 0):
                told(Path("b"), "20231105T030000Z")
            told(Path("a"), "20231104T030000Z")
            monkeypatch.setattr(Lease, "check", lambda self: None)

    with pytest.raises(Busy, match="taken for dead"):
        slow()
    bucket = Bucket(f"{root}/demo/cropland")
    assert bucket.get_json(POINTER)["version"] == "20231105T030000Z"
    assert b"20231104T030000Z" not in (bucket.get("history.jsonl") or b"").replace(
        b'"previous": "20231104T030000Z"', b"")


def away(*args: object) -> str:
    raise DataTrouble("the network is away")


def test_a_lease_is_waited_for_and_no_clock_is_believed(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_POLL_S", 0.01)
    bucket = Bucket(f"{root}/x")
    bucket.put("lease.json", b'{"owner": "a machine whose clock is years ahead", "beat": 9e99}')
    assert 0 <= bucket.age("lease.json") < 60
    assert bucket.age("nothing") == float("inf")
    with pytest.raises(Busy, match="clock is years ahead"), lease.leased(bucket, 0.05):
        pass
    monkeypatch.setattr(lease, "LEASE_S", -1.0)
    with lease.leased(bucket) as held:
        held.check()
        bucket.put("lease.json", b"{}")  # someone else
        with pytest.raises(Busy, match="taken for dead"):
            held.check()
    assert bucket.get("lease.json") == b"{}"  # not ours to delete

    def interrupted() -> None:
        with lease.leased(bucket):
            monkeypatch.setattr(Lease, "_found", away)  # the network, when it is given back
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    bucket.delete(["lease.json"])
    assert bucket.keys("") == []
