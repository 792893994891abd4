"""The suite loses no earlier result: neither when stopped, nor when only a part is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import __main__ as suite

OLD = {"machine": "m", "commit": "abc", "time": "then",
       "results": {"network": {"a": 1}, "scale": {"b": 2}, "gpu": None}}


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(suite, "make", lambda folder: folder)
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(OLD))
    return path


def test_what_is_not_measured_or_fails_keeps_its_result(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "run", lambda name, *_: {"a": 3} if name == "network" else None)
    assert suite.main(["--out", str(out), "--only", "network,cluster"]) == 1
    assert suite.main(["--out", str(out), "--only", "network,scale"]) == 1
    found = json.loads(out.read_text())
    assert found["results"] == {"network": {"a": 3}, "scale": {"b": 2}}
    assert found["kept"] == {"scale": "abc of then on m"}  # not of the run between
    assert "scale: not measured now, of abc" in capsys.readouterr().out
    assert list(out.parent.iterdir()) == [out]


def test_a_run_that_is_stopped_leaves_the_file(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, *_: object) -> dict[str, int]:
        if name == "scale":
            raise KeyboardInterrupt
        return {"a": 3}

    monkeypatch.setattr(suite, "run", run)
    with pytest.raises(KeyboardInterrupt):
        suite.main(["--out", str(out), "--only", "network,scale"])
    assert json.loads(out.read_text()) == OLD
    assert json.loads((out.parent / "bench.json.part").read_text())["results"] == {
        "network": {"a": 3}}
