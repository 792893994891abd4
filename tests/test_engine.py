"""The engine says what the plain network says: in float32 to rounding, in bfloat16 nearly; whatever
a pixel's company, on any device, with or without oneDNN, and when a GPU's memory runs out."""

from __future__ import annotations

import dataclasses
import weakref
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from torch import Tensor, nn

import models
from models import kernels
from models.domain import Domain
from models.engine import branch_of
from models.forest import Forest
from models.kernels import fastest
from pipeline.data.checkpoints import load_checkpoint, save_checkpoint
from pipeline.infer import feed as feeding
from pipeline.infer.feed import BATCH, Feed, largest
from pipeline.infer.predict import Predictor, precision_of
from pipeline.mapping import identity, make_map, make_request, plan_map
from pipeline.prep.features import input_planes, model_input
from pipeline.spec.errors import BadRequest
from pipeline.spec.request import SPEEDS
from pipeline.spec.tasks import CROPLAND
from tests.support.toy import sensor_card, toy_card, untrained

CPU = torch.device("cpu")
REAL = Path(__file__).parents[2] / "shared" / "data" / "points"


def trained_like(method: str = "mdico", encoder: str = "tempcnn", steps: int = 12,
                 outputs: int = 3, **options: object) -> nn.Module:
    """A network whose normalisation, forests included, is not the identity."""
    torch.manual_seed(0)
    module = models.build(method, encoder, {
        "sensors": {"s1": 6, "s2": 14}, "steps": steps, "outputs": outputs, "features": 16,
        **options}).eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            nn.init.normal_(part.running_mean, std=0.5)
            nn.init.uniform_(part.running_var, 0.3, 3)
            if part.affine:
                nn.init.uniform_(part.weight, -1, 2)
                nn.init.normal_(part.bias)
        if isinstance(part, Forest):
            grow(part)
    return module


def grow(forest: Forest) -> None:
    """Full binary trees of random cuts: node k leads to 2k + 1 and 2k + 2, leaves to themselves."""
    nodes = forest.feature.shape[1]
    node = torch.arange(nodes)
    inner = 2 * node + 2 < nodes
    forest.left[:] = torch.where(inner, 2 * node + 1, node)
    forest.right[:] = torch.where(inner, 2 * node + 2, node)
    forest.feature.random_(0, 24)
    forest.threshold.normal_()
    forest.value[:] = torch.rand(forest.value.shape).softmax(-1)


NETWORKS = [
    {}, {"steps": 4, "outputs": 1}, {"steps": 1}, {"steps": 3, "kernel": 7}, {"layers": 1},
    {"layers": 3, "width": 12}, {"width": 4, "dense": 20}, {"method": "individual"},
    {"method": "individual", "encoder": "mlp"}, {"encoder": "mlp", "layers": 3},
    {"members": 3, "width": 8}, {"method": "individual", "encoder": "lstm"},
    {"members": 1, "width": 8, "forests": {"s2": (5, 31, 4)}, "outputs": 1, "steps": 4},
    {"members": 2, "width": 8, "forests": {"s2": (5, 31, 4)}, "prior": {"s2": (5, 31, 4)}},
    {"method": "shaspec", "encoder": "mlp"}, {"method": "decur", "encoder": "tempcnn"},
]


@pytest.mark.parametrize("options", NETWORKS, ids=str)
@pytest.mark.parametrize("packed", [True, False])
def test_float32_is_the_plain_network(
    options: dict, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packed:  # as where PyTorch comes without oneDNN
        monkeypatch.setattr(kernels, "onednn", lambda: False)
    module = trained_like(**options)
    x = torch.randn(37, options.get("steps", 12), 14)
    with torch.inference_mode():
        outputs, z = module.predict_and_embed("s2", x)
        domain = Domain(torch.randn(9, z.shape[1]) + z.mean(0), torch.tensor(2.0))
        got, index = branch_of(module, "s2", domain)(x)
        wanted = domain(z)
        alone, none = branch_of(module, "s2")(x)
    spread = float(outputs.std())
    assert spread > 1e-3
    torch.testing.assert_close(got, outputs, atol=2e-5 * spread, rtol=2e-5)
    torch.testing.assert_close(index, wanted, atol=1e-4, rtol=1e-4)
    assert torch.equal(alone, got)
    assert none.isnan().all()


@pytest.mark.parametrize("options", [NETWORKS[0], NETWORKS[7], NETWORKS[8]], ids=str)
def test_bfloat16_is_nearly_the_plain_network(options: dict) -> None:
    module = trained_like(**options)
    x = torch.randn(2000, 12, 14)
    with torch.inference_mode():
        exact, _ = module.predict_and_embed("s2", x)
        got, _ = branch_of(module, "s2", None, "bfloat16")(x)
    assert got.dtype == torch.float32
    assert not torch.equal(got, exact)  # it is another precision
    assert float((got - exact).abs().max()) < 0.02 * float(exact.abs().max())  # 8 bits: 0.004


@pytest.mark.parametrize("options", [NETWORKS[0], NETWORKS[8], NETWORKS[13]], ids=str)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_engine_stays_on_the_device_of_its_input(options: dict, precision) -> None:
    """A GPU's stand-in, as in ``test_device``: it refuses to mix devices."""
    module = trained_like(**options).to("meta")
    x = torch.ones(7, options.get("steps", 12), 14, device="meta")
    domain = Domain(torch.ones(4, 16 * (2 - ("encoder" in options))), torch.ones(())).to("meta")
    outputs, index = branch_of(module, "s2", domain, precision)(x)
    assert (outputs.shape, index.shape) == ((7, 3), (7,))
    assert (outputs.device.type, index.device.type) == ("meta", "meta")
    assert outputs.dtype == index.dtype == torch.float32


def test_features_that_no_head_reads_are_not_computed() -> None:
    module = trained_like(features=16)
    x = torch.randn(5, 12, 14)
    with torch.no_grad():  # half of the unique encoder's projection
        last = module.unique["s2"].projection[-1]
        last.weight[16:] = torch.nan
        got, _ = branch_of(module, "s2")(x)
    assert got.isfinite().all()


def test_the_walk_through_a_forest_is_that_of_its_nodes() -> None:
    forest = Forest(4, 15, 3, 2)
    torch.manual_seed(1)
    grow(forest)
    x = torch.randn(50, 2, 12)
    x[0, 0] = torch.nan  # no comparison holds: right at each node
    wanted = []
    for row in x.flatten(1).tolist():
        leaves = []
        for t in range(4):
            at = 0
            for _ in range(3):
                low = row[forest.feature[t, at]] <= float(forest.threshold[t, at])
                at = int((forest.left if low else forest.right)[t, at])
            leaves.append(forest.value[t, at])
        wanted.append(torch.stack(leaves).mean(0))
    torch.testing.assert_close(forest(x), torch.stack(wanted), rtol=1e-6, atol=0)


def test_precision_is_what_the_processor_is_best_at(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, wanted in (({"avx512f", "avx512_bf16"}, "bfloat16"), ({"amx_bf16"}, "bfloat16"),
                          ({"avx512f"}, "float32"), (set(), "float32")):
        monkeypatch.setattr(kernels, "cpu_flags", lambda flags=flags: frozenset(flags))
        assert fastest(CPU) == wanted
        assert precision_of("default", "cpu") == precision_of("fast", "cpu") == wanted
        assert precision_of("exact", "cpu") == "float32"
    for capability, wanted in (((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float32")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert fastest(torch.device("cuda")) == wanted


def test_what_the_engine_does_not_know_runs_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.infer.predict.fastest", lambda _: "bfloat16")
    card = toy_card(CROPLAND)
    for method, encoder, wanted in (("mdico", "tempcnn", "bfloat16"), ("mdico", "mlp", "bfloat16"),
                                    ("mdico", "lstm", "float32"), ("shaspec", "mlp", "float32")):
        options = {k: v for k, v in card.options.items() if k != "width"}
        other = dataclasses.replace(card, method=method, encoder=encoder, options=options)
        module = models.build(method, encoder, options)
        arrays = {k: v.numpy() for k, v in module.state_dict().items()}
        assert Predictor(CROPLAND, other, arrays, "cpu", "default").precision == wanted
        assert Predictor(CROPLAND, other, arrays, "cpu").precision == "float32"


def test_a_system_that_lists_no_flags_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: Path) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", absent)
    assert kernels.cpu_flags.__wrapped__() == frozenset()
    listed = "processor\t: 0\nFlags\t\t: fpu avx512_bf16\nflags\t: other\n"
    monkeypatch.setattr(Path, "read_text", lambda self: listed)
    assert kernels.cpu_flags.__wrapped__() == {"fpu", "avx512_bf16"}


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


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/points is not there")
def test_bfloat16_changes_no_score_on_real_points() -> None:
    from tests.benchmarks.network import points

    for found in points("cropland").values():
        assert found["rows"] > 900
        assert found["agree"] >= 0.998
        assert abs(found["default"] - found["exact"]) <= 0.001
