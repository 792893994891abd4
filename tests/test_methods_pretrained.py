"""Pretrained rivals: a linear head on a user's frozen network; none here, none trained."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

import models
from tests.support.networks import CHANNELS, STEPS, batch


class Network(nn.Module):
    """A pretrained network: mean over time, then a fixed linear layer to 3 features."""

    def __init__(self, channels):
        super().__init__()
        torch.manual_seed(channels)
        self.linear = nn.Linear(channels, 3)

    def forward(self, x):
        return self.linear(x.mean(1))


class Both(nn.Module):
    """A pretrained fusion network of two sensors."""

    def forward(self, first, second):
        return torch.cat([first.mean(1)[:, :2], second.mean(1)[:, :1]], dim=1)


def export(network, path, *example):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(network, example), path)


@pytest.fixture
def folder(tmp_path):
    for sensor in ("s1", "s2"):
        channels = CHANNELS[sensor]
        export(Network(channels), tmp_path / f"{sensor}.pt", torch.zeros(2, STEPS, channels))
    example = [torch.zeros(2, STEPS, CHANNELS[s]) for s in ("s1", "s2")]
    export(Both(), tmp_path / "all.pt", *example)
    return tmp_path


def build(method, weights, embedding=3, outputs=2, sensors=("s1", "s2")):
    torch.manual_seed(0)
    return models.build(method, "mlp", {
        "sensors": {s: CHANNELS[s] for s in sensors}, "steps": STEPS, "outputs": outputs,
        "weights": str(weights), "embedding": embedding})


@pytest.mark.parametrize("method", ["foundation", "anysat"])
def test_features_are_the_networks_standardised(method, folder):
    module = build(method, folder)
    x = batch(n=64)[0]["s1"]
    z = module.embed("s1", x)
    raw = Network(CHANNELS["s1"])(x).detach()
    want = (raw - raw.mean(0)) / raw.var(0, correction=0).sqrt()
    torch.testing.assert_close(z, want, atol=1e-2, rtol=0)
    torch.testing.assert_close(module.predict("s1", x), module.head["s1"](z))


def test_only_the_head_learns_and_is_saved(folder):
    module = build("foundation", folder)
    inputs, present, target = batch()
    module.losses(inputs, present, target)["total"].backward()
    assert {name.split(".")[0] for name, _ in module.named_parameters()} == {"head"}
    assert not any("hidden" in k or "linear" in k for k in module.state_dict())
    before = Network(CHANNELS["s1"]).linear.weight
    assert torch.equal(module.encoder["s1"].hidden.network.linear.weight, before)


def test_the_head_learns_what_the_features_tell(folder):
    module = build("foundation", folder)
    inputs, present, _ = batch(n=128)
    raw = {s: Network(CHANNELS[s])(x)[:, 0].detach() for s, x in inputs.items()}
    target = (raw["s1"] > raw["s1"].median()).long()
    optimiser = torch.optim.Adam(module.parameters(), 0.1)
    for _ in range(60):
        optimiser.zero_grad()
        module.losses(inputs, present, target)["total"].backward()
        optimiser.step()
    right = module.eval().predict("s1", inputs["s1"]).argmax(1) == target
    assert right.float().mean() > 0.9


def test_a_fusion_network_takes_all_sensors(folder):
    module = build("omnisat", folder, outputs=1)
    inputs, present, target = batch()
    module.losses(inputs, present, target.float())["total"].backward()
    assert module.eval().predict_all(inputs).shape == (10, 1)
    z = module.embed_all(inputs)
    want = Both()(inputs["s1"], inputs["s2"])
    norm = module.encoder.norm
    torch.testing.assert_close(z, (want - norm.running_mean) / (norm.running_var + 1e-5).sqrt())


def test_a_copy_predicts_the_same(folder):
    """Averaged weights are kept in a copy of the network."""
    module = build("foundation", folder).eval()
    x = batch()[0]["s1"]
    assert torch.equal(copy.deepcopy(module).predict("s1", x), module.predict("s1", x))


@pytest.mark.parametrize(("method", "origin", "file"), [
    ("anysat", "github.com/gastruc/AnySat", "s1.pt"),
    ("omnisat", "github.com/gastruc/OmniSat", "all.pt"),
    ("foundation", "the network's authors", "s1.pt"),
])
def test_without_weights_it_says_where_to_get_them(method, origin, file):
    with pytest.raises(models.WeightsAbsent) as refused:
        build(method, "")
    assert all(word in str(refused.value) for word in (origin, file, "option weights"))


def test_an_archive_that_is_missing_is_named(folder):
    with pytest.raises(models.WeightsAbsent, match=r"l8\.pt\)"):
        build("foundation", folder, sensors=("s1", "l8"))


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("code of a pickle ran",))


def test_a_pickle_is_refused_unread(folder):
    (folder / "s1.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="not a TorchScript archive"):
        build("foundation", folder)


def test_a_pickled_torch_file_is_refused_unread(folder):
    torch.save({"a": Evil()}, folder / "s1.pt")
    with pytest.raises(ValueError, match="not a TorchScript archive"):
        build("foundation", folder)


def test_the_width_of_an_archive_is_read_from_it(folder):
    inputs = batch()[0]
    assert models.width_of(str(folder), "foundation", inputs) == 3
    assert models.width_of(str(folder), "omnisat", inputs) == 3
    with pytest.raises(ValueError, match=r"s2\.pt cannot read inputs of shape"):
        models.width_of(str(folder), "anysat", inputs | {"s2": inputs["s2"][..., :1]})
    export(nn.Flatten(), folder / "s2.pt", inputs["s2"])
    with pytest.raises(ValueError, match="not all the same"):
        models.width_of(str(folder), "foundation", inputs)
    (folder / "s2.pt").unlink()
    with pytest.raises(models.WeightsAbsent, match=r"s2\.pt"):
        models.width_of(str(folder), "foundation", inputs)


def test_features_of_another_size_are_refused(folder):
    module = build("foundation", folder, embedding=768)
    with pytest.raises(ValueError, match=r"features of shape \(3,\), not \(768,\)"):
        module.predict("s1", batch()[0]["s1"])
