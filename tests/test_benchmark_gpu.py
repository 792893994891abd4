"""The benchmark of a GPU measures what it says, on whatever device it is given."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.flops import flops
from pipeline.data.checkpoints import load_checkpoint
from pipeline.infer.predict import Predictor
from pipeline.spec.tasks import task
from tests.benchmarks import gpu


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "TRANSFER_BYTES", 1 << 16)
    monkeypatch.setattr(gpu, "BATCHES", 1)
    monkeypatch.setitem(gpu.SIZES, "cpu", (32,))


def test_its_figures_fit_together() -> None:
    found = gpu.measure(torch.device("cpu"), 1, side=16)
    card, arrays = load_checkpoint("cropland")
    module = Predictor(task(card.task), card, arrays, "cpu").module
    x = torch.zeros(1, card.steps, card.sensors["s2"].channels)
    one = found["networks"]["cropland"]
    assert one["mflop_a_pixel"] == flops(module, "s2", x) / 1e6
    assert one["of_peak"] == pytest.approx(
        one["pixels_per_s"] * one["mflop_a_pixel"] / 1e6 / found["peak_tflops"])
    assert one["hidden"] == one["with_transfers_pixels_per_s"] / one["pixels_per_s"]
    assert all(v > 0 for v in found["bus"].values())
    lines = gpu.rows({"name": "a device"} | found)
    assert len(lines) == 4
    assert lines[0].startswith("a device")


def test_each_call_is_waited_for_and_the_first_two_do_not_count(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(np.cumsum([0, 50, 0, 40, 0, 3, 0, 1, 0, 2]))
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: float(next(clock)))
    assert gpu.seconds(lambda: None, torch.device("cpu"), 3) == 2


def test_without_a_gpu_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--json", str(tmp_path / "a.json")]) == 0
    assert "no CUDA device" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["gpu"] is None
