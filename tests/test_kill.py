"""Killed at any moment: no reader sees half a file, and ``--resume`` makes the same map."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import cli, mapping
from pipeline.infer import store
from pipeline.infer.store import RunStore
from pipeline.map import command
from pipeline.spec.manifest import TileRecord
from tests.campaigns import scene as scenes
from tests.campaigns.kill import EARLIER, campaign, table
from tests.campaigns.scene import Scene, make_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(autouse=True)
def _plain_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.publish.sheets.write_preview", scenes.plain_picture)


def test_killed_at_random_moments_nothing_is_torn_or_lost(scene: Scene, tmp_path: Path) -> None:
    made = campaign(scene, tmp_path, times=6, seed=4)
    assert [line for o in made for line in o.trouble] == []
    assert sum(len(o.kills) for o in made) >= 6
    assert len({stage for o in made for _, stage in o.kills}) >= 2, table(made)


@pytest.mark.parametrize("broken", ["the old run's files are removed", "the items are written"])
def test_a_run_killed_early_is_not_resumed_with_what_the_run_before_left(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Into the folder of a finished map of another period, killed before it has a state."""

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def run(out: str, *more: str, period: str = scenes.PERIOD) -> int:
        argv = scene.argv(tmp_path / out, "s1", *more)
        return cli.run(command, [period if a == scenes.PERIOD else a for a in argv])

    assert run("out", period=EARLIER) == 0
    with monkeypatch.context() as patch:
        if broken == "the items are written":
            patch.setattr(mapping, "freeze", killed)
        else:
            patch.setattr(store.shutil, "rmtree", killed)
        assert run("out") == cli.INTERRUPTED
    assert run("out", "--resume") == 0
    assert run("whole") == 0
    assert scenes.differences(tmp_path / "out", tmp_path / "whole") == []


@pytest.mark.parametrize("broken", ["put", "log"])
def test_a_tile_counts_as_finished_only_when_it_is_stored(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Whatever happens between the two, its record comes after its pixels."""
    done: list[str] = []

    def step(name: str) -> Callable[..., None]:
        whole = getattr(RunStore, name)

        def then(self: RunStore, *args: object) -> None:
            whole(self, *args)
            done.append(name)
            if name == broken and len(done) >= 3:
                raise KeyboardInterrupt

        return then

    for name in ("put", "log"):
        monkeypatch.setattr(RunStore, name, step(name))
    out = tmp_path / "out"
    assert cli.run(command, scene.argv(out, "s1")) == cli.INTERRUPTED
    assert done == ["put", "log", "put", "log"][: 3 + (broken == "log")]
    assert scenes.finished_tiles(out) == done.count("log")


def test_what_a_record_speaks_of_is_on_the_disk_before_it(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut may take what was not forced to the disk, however long ago it was written."""
    synced: list[Path] = []
    wait, note = store.sync, RunStore.log

    def seen(path: Path) -> None:
        synced.append(path)
        wait(path)

    def noted(self: RunStore, record: TileRecord) -> None:
        missing = [p for p in (self.root / store.STORE / record.sheet).glob("*/c/*/*")
                   if p not in synced]
        assert missing == []
        note(self, record)

    monkeypatch.setattr(store, "sync", seen)
    monkeypatch.setattr(RunStore, "log", noted)
    assert cli.run(command, scene.argv(tmp_path / "out", "s1")) == 0
    assert any(p.parent.parent.name == "c" for p in synced)


HARM: dict[str, Callable[[Path], object]] = {
    "half a COG": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "a flipped bit": lambda p: p.write_bytes(
        p.read_bytes()[:-9] + bytes([p.read_bytes()[-9] ^ 1]) + p.read_bytes()[-8:]),
    "nothing": lambda p: p.write_bytes(b""),
}


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("name", ["utm31n/map.tif", "utm32n/item.json", "manifest.json",
                                  "preview.png"])
def test_the_check_for_torn_files_would_find_one(
    finished: Path, name: str, harm: str
) -> None:
    path = finished / name
    whole = path.read_bytes()
    if harm == "a flipped bit" and not name.endswith("map.tif"):
        pytest.skip("their own bytes have no checksum")
    assert scenes.torn(finished) == []
    HARM[harm](path)
    assert scenes.torn(finished)
    path.write_bytes(whole)


@pytest.fixture(scope="module")
def finished(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    assert cli.run(command, scene.argv(out, "s1")) == 0
    return out
