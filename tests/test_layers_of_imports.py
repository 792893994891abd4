"""One rule: imports point one way, spec <- prep <- data <- {learn, infer} <- publish."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# room -> rooms it may import from
ALLOWED = {
    "spec": set(),
    "prep": {"spec"},
    "data": {"spec", "prep"},
    "learn": {"spec", "prep", "data", "models"},
    "infer": {"spec", "prep", "data", "models"},
    "publish": {"spec", "prep", "data", "infer"},
    "refresh": {"spec", "prep", "data", "infer", "publish"},  # a command line of many files
    "sandbox": {"spec", "prep", "data"},
    "models": set(),
}
HEAVY = {"prep": {"torch", "rasterio"}, "data": {"torch"}, "spec": {"torch"}}


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, at whatever depth."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names |= {f"{node.module}.{a.name}" for a in node.names}
    return names


def room_of(name: str) -> str | None:
    """Room of a dotted name of ours; None for other packages and for the command lines."""
    parts = name.split(".")
    if parts[0] == "models":
        return "models"
    if parts[0] == "pipeline" and len(parts) > 1 and parts[1] in ALLOWED:
        return parts[1]
    return None


def files(room: str) -> list[Path]:
    folder = ROOT / "models" if room == "models" else ROOT / "pipeline" / room
    return sorted(folder.rglob("*.py"))


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_point_one_way(room: str) -> None:
    assert files(room)
    for path in files(room):
        names = imported(path)
        rooms = {r for n in names if (r := room_of(n))} - {room}
        assert rooms <= ALLOWED[room], f"{path} imports {rooms - ALLOWED[room]}"
        tops = {n.split(".")[0] for n in names}
        assert not tops & HEAVY.get(room, set()), f"{path} imports {tops & HEAVY[room]}"
        if room == "models":
            assert "pipeline" not in tops, f"{path} imports pipeline"


def test_the_walk_sees_an_arrow_that_runs_back(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from pipeline.publish import cog\n")
    assert {room_of(n) for n in imported(bad)} == {"publish"}


def test_files_stay_small() -> None:
    long = {p.name: n for p in (ROOT / "pipeline").rglob("*.py")
            if (n := len(p.read_text().splitlines())) > 320}
    assert not long
