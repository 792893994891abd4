"""A refresh from the command line: what is carried over, refused, survived, and said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from pipeline.infer.store import RunStore, finished_tiles
from pipeline.refresh import report, rounds
from pipeline.refresh.job import jobs_of, read_schedule
from pipeline.refresh.lock import locked
from pipeline.refresh.result import RefreshResult
from pipeline.refresh.run import plan_refresh
from pipeline.refresh.verify import Content, verify
from pipeline.spec.manifest import RunManifest
from pipeline.spec.schedule import Bounds
from tests.support.world import World, begun, late


@pytest.fixture(scope="module")
def first(
    region: Path, untrained: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A world whose map was published once, on the second of November."""
    world = begun(region, untrained["cropland"], tmp_path_factory.mktemp("world") / "first")
    assert world.refresh("2023-11-02T03:00:00") == 0
    return world.folder


@pytest.fixture
def world(first: Path, untrained: dict[str, Path], tmp_path: Path) -> World:
    made = World(first, untrained["cropland"]).copy(tmp_path / "world")
    made.archive.comes(late(made.archive)[-1], datetime.max.replace(tzinfo=UTC))
    return made


def test_the_first_version(world: World, capsys) -> None:
    version = "20231102T030000Z"
    assert world.shelf.versions() == (version,)
    assert world.shelf.current() == version
    told = world.last
    assert (told.status, told.tier, told.window_closed) == ("published", "provisional", True)
    assert told.tiles.recomputed == told.tiles.total == 6
    assert told.tiles.why == {"first": 6}
    assert all(c.ok for c in told.checks)
    assert {c.name for c in told.checks} == {"tiles", "files", "grid", "coverage", "content"}
    assert told.class_shares["cropland"] == pytest.approx(
        (world.layer("map") == 1).sum() / (world.layer("map") < 255).sum())
    assert 0.2 < told.steps_observed <= 1
    names = {p.name for p in (world.shelf.path / "current").iterdir()}
    assert {"map.tif", "item.json", "manifest.json", "report.json", ".run"} <= names
    item = json.loads((world.shelf.path / "current" / "item.json").read_text())
    assert item["properties"]["wallmap:tier"] == "provisional"
    with rasterio.open(world.shelf.path / "current" / "map.tif") as cog:
        assert (cog.tags()["TIER"], cog.tags()["VERSION"]) == ("provisional", version)


def test_nothing_new_is_cheap_and_said(world: World, capsys, monkeypatch) -> None:
    monkeypatch.setattr(rounds, "refresh", lambda *a, **k: pytest.fail("it was not due"))
    assert world.refresh("2023-11-02T15:00:00") == 0
    assert "not due before 2023-11-03T03:00:00Z" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setattr("pipeline.refresh.run.make_map", lambda *a, **k: pytest.fail("a map"))
    before = len(world.shelf.history())
    assert world.refresh("2023-11-03T03:00:00", "--json") == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["status"] == "unchanged"
    assert result["version"] == "20231102T030000Z"
    assert result["bytes"]["read"] == 0 < result["bytes"]["saved"]
    assert len(world.shelf.history()) == before + 1


def test_only_what_a_new_scene_touches_is_made_again(world: World, capsys) -> None:
    name, old = late(world.archive)[-1], world.shelf.current()
    world.archive.crop(name, (0, 1), (0, 0.35))  # a strip along the western edge
    world.archive.comes(name, datetime.min.replace(tzinfo=UTC))
    assert world.refresh("2023-11-04T03:00:00", "--dry-run", "--json") == 0
    (planned,) = json.loads(capsys.readouterr().out)["plans"]
    assert world.shelf.current() == old
    assert world.refresh("2023-11-04T03:00:00") == 0
    told = world.last
    assert told.tiles.why == {"new scene": told.tiles.recomputed} == planned["tiles"]["why"]
    assert 0 < told.tiles.recomputed < 6
    assert told.tiles.carried == 6 - told.tiles.recomputed
    assert told.previous == old
    # chunks of carried tiles are the same files
    links = [p for p in world.shelf.version(told.version).rglob("store.zarr/*/map/c/*/*")
             if p.stat().st_nlink > 1]
    assert len(links) == told.tiles.carried
    assert world.shelf.versions() == (old, told.version)
    # the tier alone: everything is carried over, and the files say so
    assert world.refresh("2023-11-11T03:00:00") == 0
    assert world.last.tier == "final"
    assert (world.last.tiles.recomputed, world.last.tiles.carried) == (0, 6)
    for layer in ("map", "confidence", "sensor", "observations", "quality"):
        np.testing.assert_array_equal(world.layer(layer), world.layer(layer, told.version))
    assert "late" not in world.last.reason


def test_a_catalogue_that_is_down_leaves_the_old_map(world: World, capsys) -> None:
    old, before = world.shelf.current(), world.layer("map")
    assert world.refresh("2023-11-04T03:00:00", broken=True) == 3
    assert (world.last.status, world.last.exit_code) == ("failed", 3)
    assert "not JSON" in world.last.reason
    assert world.shelf.current() == old
    np.testing.assert_array_equal(world.layer("map"), before)
    assert not world.shelf.leftovers()
    assert world.refresh("2023-11-04T04:00:00") == 0  # due at once, as the last one failed


def test_a_map_beyond_the_bounds_is_refused(world: World, capsys, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.refresh.run.content_of", lambda *a: Content(
        {"other": 0.5, "cropland": 0.5}, None))
    old = world.shelf.current()
    world.archive.comes(late(world.archive)[-1], datetime.min.replace(tzinfo=UTC))
    assert world.refresh("2023-11-04T03:00:00", "--json") == 4
    told = json.loads(capsys.readouterr().out)
    assert told["exit_code"] == 4
    assert told["results"][0]["status"] == "refused"
    (wrong,) = [c for c in told["results"][0]["checks"] if not c["ok"]]
    assert wrong["name"] == "content"
    assert wrong["allowed"].startswith("a change of 10.0%")
    assert "content" in told["results"][0]["reason"]
    assert world.shelf.current() == old
    assert world.shelf.versions() == (old,)
    (aside,) = world.shelf.folder.glob(".refused-*")
    assert (aside / "map.tif").is_file()
    world.schedule(bounds="class_drift = 0.6")  # an operator has looked at it
    assert world.refresh("2023-11-04T04:00:00", "--all") == 0
    assert world.last.status == "published"


def test_a_damaged_chunk_is_not_carried_on(world: World) -> None:
    chunk = next((world.shelf.path / "current").resolve().rglob("store.zarr/*/map/c/*/*"))
    chunk.write_bytes(chunk.read_bytes()[:3])
    before = world.layer("map")
    assert world.refresh("2023-11-11T03:00:00") == 0  # final: all tiles would be carried over
    assert world.last.tiles.why == {"could not be carried over": 1}
    assert world.last.tiles.carried == 5
    np.testing.assert_array_equal(world.layer("map"), before)


def test_rollback_holds_until_something_new_comes(world: World, capsys) -> None:
    old = world.shelf.current()
    names = late(world.archive)
    world.archive.comes(names[-1], datetime.min.replace(tzinfo=UTC))
    assert world.refresh("2023-11-04T03:00:00") == 0
    bad = world.shelf.current()
    assert world.run("--rollback", old) == 2  # of which region?
    assert world.run("--rollback", "20200101T000000Z", "--region", "west") == 2
    assert world.run("--rollback", old, "--region", "west") == 0
    assert world.shelf.current() == old
    assert world.last.reason == f"rolled back from {bad}"
    assert (world.last.tiles.recomputed, world.last.bytes.read) == (0, 0)
    assert world.refresh("2023-11-05T03:00:00", "--all") == 0
    assert world.shelf.current() == old
    assert f"those of {bad}, which was rolled back" in world.last.reason
    told = world.last  # nothing was made
    assert (told.tiles.recomputed, told.tiles.carried) == (0, told.tiles.total)
    assert told.bytes.read == 0 < told.bytes.saved
    world.archive.edit(names[-2], updated="2023-11-05T00:00:00Z")
    assert world.refresh("2023-11-06T03:00:00", "--all") == 0
    assert world.last.status == "published"
    assert world.shelf.current() > bad


def test_one_regions_trouble_stops_no_other(world: World, capsys) -> None:
    world.schedule(more='[regions.aaa]\naoi = "nowhere.geojson"\ntasks = ["cropland"]')
    text = (world.folder / "s.toml").read_text().replace("[regions.west]", "[regions.zzz]")
    (world.folder / "s.toml").write_text(text.replace("[regions.aaa]", "[regions.west]").replace(
        "[regions.zzz]", "[regions.east]"))
    assert world.refresh("2023-11-04T03:00:00", "--json") == 2
    told = {r["region"]: r for r in json.loads(capsys.readouterr().out)["results"]}
    assert told["west"]["status"] == "failed"
    assert "nowhere.geojson" in told["west"]["reason"]
    assert told["east"]["status"] == "published"


def test_a_mistake_of_ours_is_a_failure_with_code_1(world: World, capsys, monkeypatch) -> None:
    old = world.shelf.current()
    world.archive.comes(late(world.archive)[-1], datetime.min.replace(tzinfo=UTC))
    monkeypatch.setattr(report, "write_report", lambda *a: 1 / 0)
    assert world.refresh("2023-11-04T03:00:00", "--json") == 1
    said = capsys.readouterr()
    assert "ZeroDivisionError" in said.err
    assert json.loads(said.out)["results"][0]["reason"].startswith("ZeroDivisionError")
    assert world.shelf.current() == old
    # what was made is not made again: not by the next one, which fails too, nor by the one after
    assert len(world.shelf.leftovers()) == 1
    monkeypatch.setattr(RunStore, "log", lambda *a: pytest.fail("a tile is made again"))
    assert world.refresh("2023-11-04T04:00:00") == 1
    assert len(world.shelf.leftovers()) == 1
    monkeypatch.undo()
    monkeypatch.setattr(RunStore, "log", lambda *a: pytest.fail("a tile is made again"))
    assert world.refresh("2023-11-04T05:00:00") == 0
    assert world.last.status == "published"
    assert not world.shelf.leftovers()


def test_a_second_refresh_leaves_with_code_3_and_no_trace(world: World, capsys) -> None:
    before = sorted(world.shelf.path.rglob("*"))
    with locked(world.shelf.path):
        assert world.refresh("2023-11-04T03:00:00", "--json") == 3
    assert "another refresh is at work" in capsys.readouterr().out
    assert sorted(world.shelf.path.rglob("*")) == before


def test_the_checks_find_what_is_wrong(world: World, tmp_path: Path) -> None:
    world.archive.view(datetime(2023, 11, 2, tzinfo=UTC))
    (job,) = jobs_of(read_schedule(world.folder / "s.toml"), world.folder)
    (plan,) = plan_refresh(job, datetime(2023, 11, 2, 4, tzinfo=UTC))
    old = world.shelf.version(world.shelf.current())
    tiles = tuple(finished_tiles(old / ".run").values())
    manifest = RunManifest({}, {}, {}, {}, tiles)
    told = RefreshResult.from_json(json.loads((old / "report.json").read_text()))

    def wrong(out: Path = old, record: RunManifest = manifest, before=told, shares=None,
              mean=None, explained=(), **bounds) -> list[str]:
        content = Content(shares or ({} if mean else told.class_shares), mean)
        return [c.name for c in verify(out, plan.made, record, content, before, old,
                                       Bounds(**bounds), explained) if not c.ok]

    assert wrong() == []
    assert wrong(record=replace(manifest, tiles=tiles[1:])) == ["tiles"]
    bad = replace(tiles[0], status="failed", mapped_px={})
    assert "tiles" in wrong(record=replace(manifest, tiles=(bad, *tiles[1:])))
    assert wrong(record=replace(manifest, tiles=(bad, *tiles[1:])), failed_tiles=1,
                 coverage_drop=1) == []
    assert wrong(before=replace(told, coverage=told.coverage + 0.051)) == ["coverage"]
    assert wrong(before=replace(told, coverage=told.coverage + 0.049)) == []
    turned = {"other": 0.85, "cropland": 0.15}
    assert wrong(shares=turned) == ["content"]
    assert wrong(shares=turned, explained=["new checkpoint"]) == []
    assert wrong(shares=turned, class_drift=0.16) == []
    dry = replace(told, class_shares={}, mean=100.0)
    assert wrong(mean=116.0, before=dry) == ["content"]
    assert wrong(mean=114.0, before=dry) == wrong(mean=86.0, before=dry) == []
    cut = tmp_path / "cut"
    shutil.copytree(old, cut)
    file = cut / "confidence.tif"
    file.write_bytes(b"no longer a map")
    assert wrong(out=cut) == ["files"]
    file.unlink()
    assert wrong(out=cut) == ["files"]
    # as if the map before lay elsewhere
    with rasterio.open(old / "map.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as cog:
        cog.transform = cog.transform @ Affine.translation(1, 0)
    out = cut
    shutil.copy(old / "confidence.tif", out)
    assert wrong(out=out) == ["grid"]
    assert wrong(out=out, explained=["another area"]) == []


@pytest.mark.parametrize("options", [
    ("--region", "north"), ("--now", "yesterday"), ("--task", "lfmc"), ("--wat",)])
def test_requests_that_cannot_be_carried_out(world: World, options: tuple[str, ...]) -> None:
    world.archive.view(datetime(2023, 11, 2, tzinfo=UTC))
    assert world.run(*options) == 2


def test_the_worst_code_wins() -> None:
    def of(*codes: int) -> int:
        return rounds.worst([RefreshResult("r", "t", "s", "failed", "", exit_code=c)
                             for c in codes])

    assert [of(), of(0, 0), of(0, 3), of(3, 4), of(4, 2), of(2, 1, 0)] == [0, 0, 3, 4, 2, 1]
