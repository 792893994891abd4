"""Full disks, folders that cannot be written to, and no memory left: one line, nothing lost."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from pipeline import cli
from pipeline.map import command
from pipeline.spec.errors import BadRequest
from tests.campaigns import full, kill
from tests.campaigns import scene as scenes
from tests.campaigns.scene import Fuse, Scene, make_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def ref(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> kill.Reference:
    return kill.reference(scene, tmp_path_factory.mktemp("ref"), real=False)


@pytest.mark.parametrize(("stage", "share"), [("state", 0.5), ("publish", 0.3), ("publish", 0.9)])
def test_a_disk_that_fills_up_is_told_and_the_map_completed(
    scene: Scene, ref: kill.Reference, tmp_path: Path, stage: str, share: float
) -> None:
    at = int(ref.steps[stage] * share)
    ended, wrong = full.trial(scene, ref, tmp_path / "run", stage, at, over=share < 0.5)
    assert wrong == []
    assert ended != "not needed"


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs Linux: a place closed to all")
def test_a_place_closed_to_all_is_refused_before_the_work(
    scene: Scene, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr("pipeline.mapping.plan_map", never)
    assert cli.run(command, scene.argv(Path("/sys/kernel/wallmap"), "s1")) == BadRequest.exit_code
    line = capfd.readouterr().err
    assert line.startswith("error: cannot write /sys/kernel/wallmap")
    assert "try --out with another folder" in line
    assert line.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="no folder is closed to root")
def test_a_folder_that_was_closed_keeps_its_map(
    scene: Scene, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.run(command, scene.argv(out, "s1")) == 0
    before = scenes.digests(out)
    folders = [out, *(p for p in out.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert cli.run(command, scene.argv(out, "s1")) == BadRequest.exit_code
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert "cannot write" in capfd.readouterr().err
    assert scenes.digests(out) == before


def _no_memory(*_: object, **__: object) -> None:
    raise MemoryError


def _no_memory_for_torch(*_: object, **__: object) -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize(("where", "how"), [
    ("pipeline.infer.tile.part_of", _no_memory_for_torch),
    ("pipeline.publish.sheets.write_cog", _no_memory),
])
def test_no_memory_is_told_and_the_map_completed(
    scene: Scene, ref: kill.Reference, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, where: str, how: object
) -> None:
    monkeypatch.setattr("pipeline.publish.sheets.write_preview", scenes.plain_picture)
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(where, how)
        assert cli.run(command, scene.argv(out, "s1")) == 3
    said = capfd.readouterr()
    assert said.err.count("\n") == 1
    assert "memory" in json.loads(said.out)["error"]
    assert "--resume" in said.err
    assert "--tile-size" in said.err
    assert list(scenes.visible(out)) == []
    assert cli.run(command, scene.argv(out, "s1", "--resume")) == 0
    assert scenes.differences(out, ref.out) == []


def test_other_errors_of_the_programme_are_not_called_memory() -> None:
    def broken(_: object) -> int:
        raise RuntimeError("shapes (3,) and (4,) do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        cli.run(broken, [])


def test_what_the_oom_killer_does_to_a_run_costs_the_tile_at_hand(
    scene: Scene, ref: kill.Reference, tmp_path: Path
) -> None:
    """SIGKILL in the middle of the tiles; those that were recorded are not made again."""
    out, log = tmp_path / "out", tmp_path / "log"
    at = int(ref.steps["state"] * 0.8)
    process = scenes.start(scene.argv(out, kill.SENSOR), Fuse(out, "state", at), log)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    kept = (out / ".run" / "tiles.jsonl").read_text()
    assert 0 < kept.count("\n") < ref.tiles
    assert scenes.run(scene.argv(out, kill.SENSOR, "--resume"), out, log) == 0
    assert (out / ".run" / "tiles.jsonl").read_text().startswith(kept)
    assert scenes.finished_tiles(out) == ref.tiles
    assert scenes.differences(out, ref.out) == []
