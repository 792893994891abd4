"""Small networks, batches, and methods whose encoders are worked by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import models
from models import registry

STEPS, D = 4, 8
CHANNELS = {"s1": 6, "s2": 5, "l8": 7, "aerial": 4}
ABSENT = ("anysat", "omnisat", "foundation")  # their weights are not part of the project
RIVALS = [m for m in registry.METHODS if m not in ("mdico", "individual", *ABSENT)]
TRAINED = ["mdico", "individual", *RIVALS]
SINGLE = [m for m in TRAINED if registry.single_sensor(m)]
FUSION = [m for m in TRAINED if not registry.single_sensor(m)]


def make(method, sensors=("s1", "s2"), outputs=2, encoder="mlp", **more):
    """A small network, of the same weights each time."""
    torch.manual_seed(0)
    width = {"width": 16} | ({"heads": 4, "hidden": 16} if encoder != "mlp" else {})
    return models.build(method, encoder, {
        "sensors": {s: CHANNELS[s] for s in sensors}, "steps": STEPS, "outputs": outputs,
        "features": D, **width, **more})


def batch(sensors=("s1", "s2"), n=10, seed=1):
    """Inputs, (n, M) presence of everything, (n,) two classes."""
    g = torch.Generator().manual_seed(seed)
    inputs = {s: torch.randn(n, STEPS, CHANNELS[s], generator=g) for s in sensors}
    target = torch.randint(0, 2, (n,), generator=g)
    return inputs, torch.ones(n, len(sensors), dtype=torch.bool), target


def losses(module, inputs, present, target, seed=3):
    """Losses with the same draws each time: dropout, noise, sampled sensors."""
    torch.manual_seed(seed)
    return module.losses(inputs, present, target)


def reached(module, part):
    """First components of the names of the parameters that a loss has a gradient for."""
    module.zero_grad()
    losses(module, *batch())[part].backward()
    return {name.split(".")[0] for name, p in module.named_parameters()
            if p.grad is not None and p.grad.abs().sum() > 0}


class Take(nn.Module):
    """An encoder to work with by hand: the first channels of the first step."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, : self.features]


def by_hand(method, outputs=2, features=2, sensors=("s1", "s2"), channels=4, **options):
    """A method on encoders that take, in evaluation mode: batch normalisation changes nothing."""
    kind = registry.METHODS[method]
    own = {**getattr(kind, "OPTIONS", {}), **options}
    module = kind(lambda c, f, s=None: Take(f), dict.fromkeys(sensors, channels), outputs, features,
                  **own)
    return module.eval()


def linear(layer, weight, bias=0.0):
    """Set a linear layer."""
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if layer.bias is not None:
            layer.bias.copy_(torch.as_tensor(bias).expand_as(layer.bias))


def rows(*values):
    """(N, 1, C) series of one step."""
    return torch.tensor(values, dtype=torch.float32).unsqueeze(1)


def present(n=2, m=2):
    """(n, m) presence of everything."""
    return torch.ones(n, m, dtype=torch.bool)
