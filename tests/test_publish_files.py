"""Whole files or none, one by one and as a sheet."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from pipeline.data import files
from pipeline.data.files import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    hidden_folder,
    remove_leftovers,
    replacing,
    writable_folder,
)
from pipeline.publish import promote as promote_module
from pipeline.publish.promote import open_stage, promote
from pipeline.spec.errors import BadRequest, DataTrouble

NAMES = ["map.tif", "preview.png", "item.json"]


def names_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_content_arrives_and_parents_are_made(tmp_path: Path) -> None:
    atomic_write_bytes(tmp_path / "a" / "b.bin", b"\x00\xff")
    atomic_write_text(tmp_path / "t.txt", "Köln\n")
    atomic_write_json(tmp_path / "j.json", {"n": [1, 2.5, "é"]})
    assert (tmp_path / "a" / "b.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "t.txt").read_bytes() == "Köln\n".encode()
    assert json.loads((tmp_path / "j.json").read_text(encoding="utf-8")) == {"n": [1, 2.5, "é"]}
    assert names_in(tmp_path) == ["a", "a/b.bin", "j.json", "t.txt"]


def test_json_holds_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        atomic_write_json(tmp_path / "j.json", {"score": float("nan")})
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_write_changes_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "f.txt"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["f.txt"]


@pytest.mark.parametrize(
    ("code", "kind", "match"),
    [
        (errno.EACCES, BadRequest, "cannot write .*f.txt; got 'Permission denied'; try --out"),
        (errno.EROFS, BadRequest, "Read-only file system"),
        (errno.ENOSPC, DataTrouble, "could not write .*f.txt; got 'No space left.*MB are free"),
        (errno.EIO, DataTrouble, "Input/output error"),
    ],
)
def test_errors_of_the_disk_are_told_apart(tmp_path: Path, monkeypatch, code, kind, match) -> None:
    path = tmp_path / "f.txt"
    path.write_text("old")

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(kind, match=match):
        atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["f.txt"]


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    for act in (writable_folder, open_stage, lambda p: atomic_write_text(p / "f.txt", "x")):
        with pytest.raises(BadRequest, match=r"cannot write .*out"):
            act(tmp_path / "out")
    with pytest.raises(BadRequest, match=r"cannot write .*deep"):
        writable_folder(tmp_path / "out" / "deep")


def test_writable_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    assert writable_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert names_in(tmp_path) == ["a", "a/b"]


def test_leftovers_of_a_crash_go_and_nothing_else(tmp_path: Path) -> None:
    (hidden_folder(tmp_path) / "map.tif").write_text("half")
    (tmp_path / "map.tif").write_text("whole")
    (tmp_path / ".run").mkdir()
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == [".run", "map.tif"]
    (hidden_folder(tmp_path) / "map.tif").write_text("half")
    stage = open_stage(tmp_path)
    assert names_in(tmp_path) == sorted([".run", stage.name, "map.tif"])


def filled(target: Path, content: str) -> Path:
    stage = open_stage(target)
    for name in NAMES:
        (stage / name).write_text(content)
    return stage


def test_promote_shows_all_files_and_removes_the_stage(tmp_path: Path) -> None:
    promote(filled(tmp_path, "new"), tmp_path, NAMES)
    assert names_in(tmp_path) == sorted(NAMES)
    assert {(tmp_path / name).read_text() for name in NAMES} == {"new"}


def test_promote_with_a_file_missing_changes_nothing(tmp_path: Path) -> None:
    promote(filled(tmp_path, "old"), tmp_path, NAMES)
    stage = filled(tmp_path, "new")
    (stage / "preview.png").unlink()
    with pytest.raises(DataTrouble, match=r"preview\.png.*--resume"):
        promote(stage, tmp_path, NAMES)
    assert {(tmp_path / name).read_text() for name in NAMES} == {"old"}


@pytest.mark.parametrize("renamed", range(len(NAMES)))
def test_an_item_never_names_a_mixture(tmp_path: Path, monkeypatch, renamed: int) -> None:
    """Killed after any number of renames: either the item is absent, or all files are new."""
    promote(filled(tmp_path, "old"), tmp_path, NAMES)
    stage, replace, done = filled(tmp_path, "new"), os.replace, []

    def killed(source: Path, target: Path) -> None:
        if len(done) == renamed:
            raise KeyboardInterrupt
        done.append(target.name)
        replace(source, target)

    monkeypatch.setattr(promote_module.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        promote(stage, tmp_path, NAMES)
    assert done == NAMES[:renamed]
    assert not (tmp_path / "item.json").exists()
    monkeypatch.undo()
    promote(filled(tmp_path, "again"), tmp_path, NAMES)
    assert names_in(tmp_path) == sorted(NAMES)
    assert {(tmp_path / name).read_text() for name in NAMES} == {"again"}


def test_promote_into_a_full_disk(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    stage = filled(tmp_path, "new")
    monkeypatch.setattr(promote_module.os, "replace", full)
    with pytest.raises(DataTrouble, match="No space left"):
        promote(stage, tmp_path, NAMES)
