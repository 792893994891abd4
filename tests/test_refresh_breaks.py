"""What people, disks and clocks do to a published map, and what the next refresh makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.infer.store import RunStore
from pipeline.refresh import hooks
from pipeline.sandbox import SandboxParams
from tests.support.world import World, begun

FIRST = "20231102T030000Z"


@pytest.fixture(scope="module")
def first(
    region: Path, untrained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> World:
    """A world whose map was published once."""
    world = begun(region, untrained["cropland"], tmp_path_factory.mktemp("world") / "first")
    assert world.refresh("2023-11-02T03:00:00") == 0
    return world


@pytest.fixture
def world(first: World, tmp_path: Path) -> World:
    return first.copy(tmp_path / "world")


@pytest.fixture
def no_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunStore, "log", lambda *a: pytest.fail("a tile is made again"))


def test_the_pointer_is_deleted(world: World, no_tile: None) -> None:
    """Or a kill came between history and pointer: it is mended at once, not when the map is due."""
    (world.shelf.path / "current").unlink()
    assert world.refresh("2023-11-02T04:00:00") == 0
    assert world.shelf.current() == FIRST
    assert world.last.status == "unchanged"


def test_files_of_the_published_version_are_deleted(world: World, no_tile: None) -> None:
    before = world.layer("map")
    (world.shelf.version(FIRST) / "map.tif").unlink()
    (world.shelf.version(FIRST) / "preview.png").unlink()
    assert world.refresh("2023-11-03T03:00:00") == 0
    assert (world.last.status, world.last.tiles.carried) == ("published", 6)
    assert world.last.reason == f"files of {FIRST} are missing"
    np.testing.assert_array_equal(world.layer("map"), before)


def test_the_published_version_is_deleted_by_half(world: World) -> None:
    before = world.layer("map")
    shutil.rmtree(world.shelf.version(FIRST) / ".run")
    (world.shelf.version(FIRST) / "report.json").write_text("{")
    (world.shelf.path / "history.jsonl").write_bytes(b"\xff\xfe{not a line\n")
    assert world.refresh("2023-11-03T03:00:00") == 0
    assert (world.last.status, world.last.tiles.why) == ("published", {"first": 6})
    assert world.shelf.current() == "20231103T030000Z"
    np.testing.assert_array_equal(world.layer("map"), before)


def test_the_clock_goes_back(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for now in ("2023-11-02T02:59:59", "2022-06-01T00:00:00"):
        assert world.refresh(now) == 2
        assert "before that of the published version" in capsys.readouterr().out
        assert world.refresh(now, "--dry-run") == 2
    assert world.shelf.current() == FIRST
    assert not world.shelf.leftovers()


def test_a_checkpoint_of_another_task(
    world: World, untrained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    world.schedule(checkpoint=untrained["lfmc"])
    assert world.refresh("2023-11-03T03:00:00") == 2
    assert "lfmc" in capsys.readouterr().out
    assert (world.last.status, world.shelf.current()) == ("failed", FIRST)


def test_metrics_and_catalogue_that_cannot_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The map is what it is; the exit code, the JSON and the webhook tell of the rest."""
    world.schedule(top='metrics = "s.toml/wallmap.prom"\nwebhook = "https://example.com/x"')
    (world.folder / "root" / "catalog.json").unlink()
    (world.folder / "root" / "catalog.json").mkdir()
    sent: list[str] = []
    monkeypatch.setattr(hooks, "on_failure", lambda url, result: sent.append(result.reason))
    assert world.refresh("2023-11-03T03:00:00", "--json") == 2
    told = json.loads(capsys.readouterr().out)
    assert [r["status"] for r in told["results"]] == ["unchanged", "failed", "failed"]
    assert len(sent) == 2
    assert "catalog.json" in sent[0]
    assert "wallmap.prom" in sent[1]
    assert world.refresh("2023-11-03T04:00:00") == 2
    assert "wallmap.prom" in capsys.readouterr().out


def test_one_version_is_kept(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.schedule(more="[retention]\nversions = 1\nfinals = 0\nrefused = 0")
    world.grows()
    assert world.refresh("2023-11-04T03:00:00") == 0
    assert world.shelf.versions() == (world.shelf.current(),) == ("20231104T030000Z",)
    capsys.readouterr()
    assert world.run("--rollback", FIRST, "--region", "west") == 2
    assert "allowed: 20231104T030000Z" in capsys.readouterr().err


def test_a_root_that_cannot_be_written(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.schedule(root="s.toml/root")
    assert world.refresh("2023-11-03T03:00:00") == 2
    assert "cannot write" in capsys.readouterr().out


def test_another_area_is_another_grid(world: World) -> None:
    """Explained by the schedule, so it is published, and not a tile is mixed up."""
    text = (world.folder / "s.toml").read_text()
    west, south, east, north = SandboxParams.tiny().bounds
    middle = (west + east) / 2
    aoi = f"{west + 0.002:.5f},{south + 0.0005:.5f},{middle - 0.0005:.5f},{north - 0.0003:.5f}"
    old = text.partition('aoi = "')[2].partition('"')[0]
    (world.folder / "s.toml").write_text(text.replace(old, aoi))
    before = world.layer("map")
    assert world.refresh("2023-11-03T03:00:00") == 0
    (grid,) = [c for c in world.last.checks if c.name == "grid"]
    assert (grid.ok, grid.got) == (True, "other in utm31n")
    assert world.last.tiles.carried == 0
    assert world.layer("map").shape != before.shape
