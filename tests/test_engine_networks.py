"""The engine says what the plain network says: in float32 to rounding, in bfloat16 nearly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

import models
from models import kernels
from models.domain import Domain
from models.engine import branch_of
from models.forest import Forest
from models.kernels import fastest
from pipeline.infer.predict import Predictor, precision_of
from pipeline.spec.tasks import CROPLAND
from tests.support.toy import toy_card

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


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/points is not there")
def test_bfloat16_changes_no_score_on_real_points() -> None:
    from tests.benchmarks.network import points

    for found in points("cropland").values():
        assert found["rows"] > 900
        assert found["agree"] >= 0.998
        assert abs(found["default"] - found["exact"]) <= 0.001
