"""Versions on disk: promotion at any moment of a kill, retention, refusal, rollback, history."""

from __future__ import annotations

import dataclasses
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.refresh import versions
from pipeline.refresh.result import Check, RefreshResult, TileCounts
from pipeline.refresh.versions import Shelf
from pipeline.spec.errors import BadRequest

NOW = datetime(2026, 11, 14, 3, tzinfo=UTC)


def result(name: str, status: str = "published", tier: str = "provisional") -> RefreshResult:
    return RefreshResult("demo", "cropland", "auto", status, "2026-11-14T03:00:00Z",  # type: ignore[arg-type]
                         version=name, tier=tier)  # type: ignore[arg-type]


def staged(shelf: Shelf, name: str, tier: str = "provisional") -> Path:
    stage = shelf.open_stage(name)
    (stage / "map.tif").write_text(name)
    (stage / ".run").mkdir()
    (stage / "report.json").write_text(json.dumps(result(name, tier=tier).to_json()))
    return stage


def published(shelf: Shelf, *names: str, tier: str = "provisional") -> None:
    for name in names:
        shelf.promote(staged(shelf, name, tier), result(name, tier=tier))


def ids(*days: int) -> tuple[str, ...]:
    return tuple(f"202611{day:02d}T030000Z" for day in days)


def test_a_result_comes_back_from_json_as_it_was() -> None:
    made = dataclasses.replace(
        result("x"), tiles=TileCounts(4, 1, 3, 0, {"new scene": 1}), mean=3.5,
        checks=(Check("grid", True, "as before", "as before"),), class_shares={"other": 1.0})
    assert RefreshResult.from_json(json.loads(json.dumps(made.to_json()))) == made
    for wrong in ({"region": "x"}, made.to_json() | {"seconds": "long"},
                  made.to_json() | {"status": "fine"}, made.to_json() | {"colour": "red"}):
        with pytest.raises(BadRequest, match="not the result of a refresh"):
            RefreshResult.from_json(wrong)


def test_promotion_is_a_relative_link_to_a_whole_folder(tmp_path: Path) -> None:
    shelf, (first, second) = Shelf(tmp_path / "demo" / "cropland"), ids(14, 15)
    assert (shelf.current(), shelf.versions(), shelf.history()) == ("", (), [])
    published(shelf, first)
    link = shelf.path / "current"
    assert os.readlink(link) == f"versions/{first}"
    opened = (link / "map.tif").open()
    published(shelf, second)
    assert (link / "map.tif").read_text() == second
    assert opened.read() == first  # a reader of the old version goes on reading it
    opened.close()
    assert shelf.versions() == (first, second)
    assert [r.version for r in shelf.history()] == [first, second]
    assert not list(shelf.folder.glob(".*"))
    moved = shelf.path.rename(tmp_path / "moved")  # the tree can be copied elsewhere
    assert (moved / "current" / "map.tif").read_text() == second


def test_leftovers_of_a_version_that_is_whole_stop_no_refresh(tmp_path: Path) -> None:
    shelf, (first,) = Shelf(tmp_path), ids(14)
    published(shelf, first)
    shelf.open_stage(first)
    shelf.tidy()
    assert (shelf.path / "current" / "map.tif").read_text() == first
    assert shelf.leftovers() == (shelf.stage(first),)  # the next run takes it over, and away


def test_a_kill_in_the_middle_of_a_promotion_is_made_up_for(tmp_path: Path, monkeypatch) -> None:
    class Killed(BaseException):
        pass

    def killed(*args: object, **kwargs: object) -> None:
        raise Killed

    for k, where in enumerate(("_finish", "record", "point")):
        shelf, (first, second) = Shelf(tmp_path / str(k)), ids(14, 15)
        published(shelf, first)
        stage = staged(shelf, second)
        with monkeypatch.context() as patch:
            patch.setattr(Shelf, where, killed)
            with pytest.raises(Killed):
                shelf.promote(stage, result(second))
        assert (shelf.path / "current" / "map.tif").read_text() == first
        shelf.tidy()
        decided = where != "record"  # the line in the history decides
        assert shelf.current() == (second if decided else first)
        assert shelf.versions() == ((first, second) if decided else (first,))
        assert shelf.leftovers() == (() if decided else (shelf.stage(second),))
        shelf.tidy()  # and nothing more happens
        assert len(shelf.history()) == (2 if decided else 1)


def test_retention_keeps_the_newest_the_finals_and_the_published_one(tmp_path: Path) -> None:
    shelf, names = Shelf(tmp_path), ids(1, 2, 3, 4, 5, 6)
    published(shelf, names[0], names[1], tier="final")
    published(shelf, *names[2:])
    shelf.publish_again(result(names[2]))  # rolled back: the published one is not the newest
    assert shelf.prune(2, 1) == (names[0], names[3])
    assert shelf.versions() == (names[1], names[2], names[4], names[5])
    assert shelf.current() == names[2]
    assert shelf.prune(1, 0) == (names[1], names[4])
    assert shelf.prune(1, 0) == ()


def test_refused_versions_are_kept_aside_and_bounded(tmp_path: Path) -> None:
    shelf, names = Shelf(tmp_path), ids(1, 2, 3, 4)
    published(shelf, names[0])
    for name in names[1:]:
        shelf.refuse(staged(shelf, name), name, keep=2)
    assert sorted(p.name for p in shelf.folder.glob(".refused-*")) == [
        f".refused-{names[2]}", f".refused-{names[3]}"]
    assert shelf.versions() == names[:1]
    shelf.refuse(staged(shelf, names[1]), names[1], keep=0)
    assert not list(shelf.folder.glob(".refused-*"))


def test_halves_of_a_deletion_are_swept_up(tmp_path: Path, monkeypatch) -> None:
    shelf, names = Shelf(tmp_path), ids(1, 2)
    published(shelf, *names)
    monkeypatch.setattr(versions.shutil, "rmtree", lambda *args, **kwargs: None)  # killed here
    shelf.discard(shelf.version(names[0]))
    assert shelf.versions() == names[1:]  # out of sight at once
    assert list(shelf.folder.glob(".trash-*"))
    monkeypatch.undo()
    shelf.tidy()
    assert not list(shelf.folder.glob(".trash-*"))


def test_rollback_asks_for_a_version_that_is_there(tmp_path: Path) -> None:
    shelf, names = Shelf(tmp_path), ids(1, 2)
    published(shelf, *names)
    with pytest.raises(BadRequest, match="no such version") as caught:
        shelf.find("20200101T000000Z")
    assert f"{names[0]}, {names[1]}" in str(caught.value)
    with pytest.raises(BadRequest):
        shelf.find("../versions")
    shelf.publish_again(result(names[0]))
    assert shelf.current() == names[0]


def test_a_history_survives_a_line_cut_short(tmp_path: Path) -> None:
    shelf, names = Shelf(tmp_path), ids(1, 2)
    published(shelf, names[0])
    with (tmp_path / "history.jsonl").open("a") as log:
        log.write('{"region": "demo", "ta')
    shelf.record(result(names[1], "unchanged"))
    assert [(r.version, r.status) for r in shelf.history()] == [
        (names[0], "published"), (names[1], "unchanged")]


def test_ids_are_times_and_never_the_same(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    assert shelf.new_id(NOW) == "20261114T030000Z"
    published(shelf, "20261114T030000Z")
    shelf.open_stage("20261114T030001Z")
    assert shelf.new_id(NOW) == "20261114T030002Z"
    assert shelf.leftovers() == (shelf.stage("20261114T030001Z"),)
    assert shelf.versions() == ("20261114T030000Z",)
