"""The engine at work: pixels in any company, batches that fit the memory, and whole runs."""

from __future__ import annotations

import dataclasses
import weakref
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from torch import Tensor

from pipeline.data.checkpoints import load_checkpoint, save_checkpoint
from pipeline.infer import feed as feeding
from pipeline.infer.feed import BATCH, Feed, largest
from pipeline.infer.predict import Predictor
from pipeline.mapping import identity, make_map, make_request, plan_map
from pipeline.prep.features import input_planes, model_input
from pipeline.spec.errors import BadRequest
from pipeline.spec.request import SPEEDS
from pipeline.spec.tasks import CROPLAND
from tests.support.toy import sensor_card, untrained

CPU = torch.device("cpu")


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("speed", ["exact", "default"])
def test_a_pixel_is_the_same_in_any_company(
    speed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.infer.predict.fastest", lambda _: "bfloat16")
    predictor = Predictor(CROPLAND, *untrained(CROPLAND), "cpu", speed)
    inputs = np.random.default_rng(1).normal(size=(2 * BATCH + 9, 12, 6)).astype(np.float32)
    outputs, index = predictor.run("s1", inputs)
    assert np.isfinite(outputs).all()
    order = np.random.default_rng(2).permutation(len(inputs))
    for rows in (order, order[:5], order[: BATCH + 1]):
        some = predictor.run("s1", inputs[rows])
        np.testing.assert_array_equal(some[0], outputs[rows])
        np.testing.assert_array_equal(some[1], index[rows])
    planes = np.ascontiguousarray(inputs.transpose(1, 2, 0))  # as a cube has them
    np.testing.assert_array_equal(predictor.run("s1", planes.transpose(2, 0, 1))[0], outputs)


def test_planes_are_the_model_input() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 12, 2)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    valid = rng.random((7, 12)) > 0.2
    card, months = sensor_card(CROPLAND, "s1"), np.arange(100, 112)
    wanted = model_input(x, valid, months, ("vv", "vh"), card)
    planes = input_planes(np.ascontiguousarray(x.transpose(1, 2, 0)), valid.T, months,
                          ("vv", "vh"), card)
    np.testing.assert_array_equal(planes.transpose(2, 0, 1), wanted)
    assert wanted.flags.c_contiguous


def doubled(x: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * x[:, 0], x.sum((1, 2))


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 128, 129, 300])
def test_slots_take_turns_and_lose_nothing(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU is fed by, on a CPU."""
    feed = Feed(doubled, (2, 3), CPU)
    feed._fit(64)
    assert (feed.batch, len(feed.slots)) == (64, 2)
    inputs = np.random.default_rng(0).normal(size=(n, 2, 3)).astype(np.float32)
    outputs, index = feed(inputs)
    if n:
        np.testing.assert_array_equal(outputs, 2 * inputs[:, 0])
        np.testing.assert_allclose(index, inputs.sum((1, 2)), atol=1e-5)
    assert len(outputs) == len(index) == n


def test_a_batch_is_halved_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, room = [], [4096]

    def narrow(x: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(len(x))
        if len(x) > room[0]:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return doubled(x)

    feed = Feed(narrow, (2, 3), CPU)
    feed._fit(1 << 14)
    assert feed.batch == 4096
    assert asked[:3] == [1 << 14, 1 << 13, 1 << 12]
    room[0] = 2048  # a neighbour moves in while the map is made
    inputs = np.random.default_rng(0).normal(size=(9000, 2, 3)).astype(np.float32)
    outputs, _ = feed(inputs)
    np.testing.assert_array_equal(outputs, 2 * inputs[:, 0])
    assert feed.batch == 2048
    room[0] = 1
    with pytest.raises(BadRequest, match="too little free memory"):
        feed(inputs)
    assert largest(8192, lambda n: n) == (8192, 8192)


def test_old_slots_are_gone_before_smaller_ones_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold the very memory that the smaller ones need."""
    full = [False]

    def narrow(x: Tensor) -> tuple[Tensor, Tensor]:
        if full[0] and len(x) > 64:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return doubled(x)

    feed = Feed(narrow, (2, 3), CPU)
    feed._fit(128)
    old, left = [weakref.ref(slot) for slot in feed.slots], []

    def watched(batch, make):
        left.extend(slot for ref in old if (slot := ref()))
        return largest(batch, make)

    monkeypatch.setattr(feeding, "largest", watched)
    full[0] = True
    feed(np.ones((500, 2, 3), np.float32))
    assert feed.batch == 64
    assert not left


def test_a_gpu_batch_is_sized_by_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([1000, 1000 + 1024 * 500])  # before, at the peak: 500 bytes a pixel
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: next(taken))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: next(taken))
    # 0.8 of 100 MB for two slots: 80 000 pixels each; 2^16 of them
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100_000_000, 1 << 40))
    assert feeding._gpu_batch(doubled, (2, 3), CPU) == 1 << 16
    taken = iter([0, 1024 * 500])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10_000_000, 1 << 40))
    assert feeding._gpu_batch(doubled, (2, 3), CPU) == 1 << 12  # 8 000 pixels: 2^12
    taken = iter([0, 1024 * 500])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1, 1 << 40))
    assert feeding._gpu_batch(doubled, (2, 3), CPU) == 1 << 10  # the least is tried


# ---------------------------------------------------------------- a run


def request_of(region: Path, aoi: str, checkpoint: Path, out: Path, speed: str):
    return make_request(aoi, "s1", period="2023-10", catalog=str(region / "catalog.json"),
                        checkpoint=str(checkpoint), out=str(out), device="cpu", speed=speed)


def test_speed_is_checked_and_told(
    region: Path, region_aoi: str, untrained: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(BadRequest, match="unknown speed"):
        request_of(region, region_aoi, untrained["cropland"], tmp_path, "slow")
    requests = [request_of(region, region_aoi, untrained["cropland"], tmp_path, s) for s in SPEEDS]
    assert [r.to_json()["speed"] for r in requests] == list(SPEEDS)
    with pytest.raises(BadRequest) as error:
        plan_map(requests[2])
    assert "has no student" in str(error.value)
    assert "exact, default" in str(error.value)
    assert "--student" in str(error.value)


def test_the_student_is_mapped_with(
    region: Path, region_aoi: str, tmp_path: Path
) -> None:
    card, arrays = untrained(CROPLAND)
    save_checkpoint(tmp_path, card, arrays)
    save_checkpoint(tmp_path / "fast", dataclasses.replace(card, name="small"), arrays)
    made = plan_map(request_of(region, region_aoi, tmp_path, tmp_path / "out", "fast"))
    assert made.card.name == "small"
    assert load_checkpoint(str(tmp_path))[0].name != "small"


def test_a_run_says_its_precision_and_is_not_resumed_in_another(
    region: Path, untrained: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import sandbox

    west, south, _, _ = sandbox.SandboxParams.tiny().bounds
    aoi = f"{west + 0.002},{south + 0.002},{west + 0.004},{south + 0.004}"
    request = request_of(region, aoi, untrained["cropland"], tmp_path / "out", "default")
    monkeypatch.setattr("pipeline.infer.predict.fastest", lambda _: "bfloat16")
    manifest = make_map(request, progress=False)
    assert manifest.notes["precision"] == "bfloat16"
    with rasterio.open(tmp_path / "out" / "map.tif") as src:
        assert src.tags()["PRECISION"] == "bfloat16"
    monkeypatch.setattr("pipeline.infer.predict.fastest", lambda _: "float32")
    assert identity(plan_map(request))["precision"] == "float32"
    with pytest.raises(BadRequest, match="another"):
        make_map(request, resume=True, progress=False)
