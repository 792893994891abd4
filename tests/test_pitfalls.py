"""The table of traps is complete, and every test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.pitfalls import PITFALLS, Row

HERE = Path(__file__).resolve().parent


def names_in(path: Path) -> set[str]:
    """Names of the tests of a file: ``test_x``, ``TestY::test_x``."""
    def named(nodes: list[ast.stmt], prefix: str = "") -> set[str]:
        found = {prefix + n.name for n in nodes
                 if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")}
        for node in nodes:
            if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
                found |= named(node.body, f"{node.name}::")
        return found

    return named(ast.parse(path.read_text(encoding="utf-8")).body)


@pytest.mark.parametrize("number", PITFALLS)
def test_every_trap_has_a_test_that_exists_or_a_reason(number: str) -> None:
    row = PITFALLS[number]
    assert bool(row.tests) != bool(row.why_not)
    assert len(set(row.tests)) == len(row.tests)
    for name in row.tests:
        file, _, test = name.partition("::")
        assert (HERE / file).is_file(), name
        assert test in names_in(HERE / file), name


def test_a_test_that_is_not_there_is_noticed() -> None:
    row = Row("x", ("test_pitfalls.py::test_nothing",))
    file, _, test = row.tests[0].partition("::")
    assert "test_a_test_that_is_not_there_is_noticed" in names_in(HERE / file)
    assert test not in names_in(HERE / file)


def test_every_row_of_the_collection_is_in_the_table_once() -> None:
    collection = HERE.parents[1] / "shared" / "PITFALLS.md"
    if not collection.is_file():
        pytest.skip("the collection is not here: ../shared/PITFALLS.md is absent")
    text = collection.read_text(encoding="utf-8")
    rows = re.findall(r"^\|\s*(\d+)\s*\|", text, flags=re.MULTILINE)
    assert len(rows) > 30
    assert rows == [number for number in PITFALLS if number.isdigit()]
    notes = re.findall(r"^- ", text.partition("More, seen in the real data")[2], re.MULTILINE)
    assert len(notes) == sum(number.isalpha() for number in PITFALLS)
