"""A trained branch as a few large matrix products, to map with: the same numbers, sooner.

Batch normalisation is folded into its neighbours, activations stay in one layout (N, T, C) from the
first product to the last, and what is not needed for a prediction (features that no head reads) is
not computed.

The z-score is NOT folded into the first layer: a gap is zero after it, and so are the steps beyond
both ends of the series; with raw values in their place the first layer would need another bias at
each end, and in bfloat16 a level such as -18 dB would lose the digits that its deviation from the
mean still has. On a cube's planes (``prep.features``) it takes a few hundredths of the time.

The shared and the unique stack run one after the other, not as one of twice the width: on one core
(AVX-512 with bfloat16) a common first layer takes 0.99 to 1.06 times as long in all, and with the
next layer grouped, too, 1.05 to 1.4 times, since its halves must be told apart for what follows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.domain import Domain
from models.encoders.mlp import MLP
from models.encoders.tempcnn import TempCNN
from models.ensemble import Ensemble
from models.kernels import Layer, Precision, convolution, product
from models.mdico import MDiCo
from models.methods.base import SingleSensor

Branch = Callable[[Tensor], tuple[Tensor, Tensor]]


def branch_of(
    module: nn.Module, sensor: str, domain: Domain | None = None,
    precision: Precision = "float32",
) -> Branch:
    """One sensor's prediction as a function of model input.

    Args:
        module: of ``models.build``, on its device; it is put into evaluation mode.
        sensor: key.
        domain: the sensor's training domain, on the same device.
        precision: of the encoders' products. Heads, ensembles, forests and the domain are always
            float32, and so are networks of other kinds (``known``), which run as they are.

    Returns:
        (N, T, C) float32 -> (N, K) float32 outputs as of ``module.predict``, and the (N,) float32
        dissimilarity index (NaN without a domain).
    """
    network = _network(module.eval(), sensor, getattr(torch, precision))
    index = None if domain is None else _index(domain)

    def branch(x: Tensor) -> tuple[Tensor, Tensor]:
        with _as_asked(x.device):
            outputs, z = network(x)
        return outputs, x.new_full((len(x),), torch.nan) if index is None else index(z)

    return branch


def known(module: nn.Module, sensor: str) -> bool:
    """Whether the engine has its own way through a network, instead of the network's: methods whose
    one head reads a TempCNN or an MLP, and ensembles of them."""
    if isinstance(module, Ensemble):
        return known(module.members[0], sensor)
    return _parts(module, sensor) is not None


def _as_asked(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """cuDNN would round float32 convolutions to 10 bits (TF32) and choose kernels by their time."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


def _network(module: nn.Module, sensor: str, dtype: torch.dtype) -> Branch:
    """(N, T, C) -> outputs and features, (N, K) and (N, D) float32."""
    if isinstance(module, Ensemble):
        return _ensemble(module, sensor, dtype)
    found = _parts(module, sensor)
    if found is None:
        return lambda x: module.predict_and_embed(sensor, x)  # type: ignore[operator]
    encoders, head = found
    stacks = [_stack(encoder, keep, dtype) for encoder, keep in encoders]

    def network(x: Tensor) -> tuple[Tensor, Tensor]:
        same = x.to(dtype)
        z = torch.cat([_through(stack, same).float() for stack in stacks], 1)
        return head(z), z

    return network


def _ensemble(module: Ensemble, sensor: str, dtype: torch.dtype) -> Branch:
    first, *others = (_network(member, sensor, dtype) for member in module.members)

    def network(x: Tensor) -> tuple[Tensor, Tensor]:
        outputs, z = first(x)
        return module.mean_of(sensor, x, [outputs, *(other(x)[0] for other in others)]), z

    return network


def _parts(
    module: nn.Module, sensor: str
) -> tuple[list[tuple[nn.Module, int | None]], nn.Module] | None:
    """Encoders side by side, how many of their features the head reads (None = all), and that head;
    None for a network of another kind."""
    encoders: list[tuple[nn.Module, int | None]]
    if type(module) is MDiCo:
        half = module.auxiliary.in_features  # the rest of E_uni's features is unused
        encoders = [(module.common[sensor], None), (module.unique[sensor], half)]
    elif isinstance(module, SingleSensor) and all(
            getattr(type(module), name) is getattr(SingleSensor, name)
            for name in ("embed", "predict", "predict_and_embed")):
        encoders = [(module.encoder[sensor], None)]
    else:
        return None
    if any(type(encoder) not in (TempCNN, MLP) for encoder, _ in encoders):
        return None
    return encoders, module.head_of(sensor)


def _through(layers: Sequence[Layer], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _stack(encoder: nn.Module, keep: int | None, dtype: torch.dtype) -> list[Layer]:
    """An encoder's layers: (N, T, C) -> (N, ``keep``)."""
    found = list(_folded(encoder))
    weight, bias, _ = found[-1]
    found[-1] = _Folded(weight[:keep], bias[:keep], False)
    return [_layer(part, dtype) for part in found]


class _Folded(NamedTuple):
    """A convolution (out, in, k) or a product (out, in), with what follows it."""

    weight: Tensor
    bias: Tensor
    relu: bool


@torch.no_grad()
def _folded(encoder: nn.Module) -> Iterator[_Folded]:
    """The layers of a TempCNN or an MLP with batch normalisation folded in, in float64."""
    if isinstance(encoder, TempCNN):
        modules = [*encoder.convolutions, *encoder.dense, *encoder.projection]
    else:
        assert isinstance(encoder, MLP)
        modules = [*encoder.layers, encoder.projection]
    weighty = [k for k, m in enumerate(modules) if isinstance(m, nn.Conv1d | nn.Linear)]
    scale = shift = None  # of a normalisation behind a ReLU: the next layer takes it up
    width = 0  # of the convolutions so far
    for start, end in zip(weighty, [*weighty[1:], len(modules)], strict=True):
        part, rest = modules[start], modules[start + 1 : end]
        weight, bias = part.weight.double(), part.bias.double()
        if isinstance(part, nn.Conv1d):
            width = part.out_channels
        elif width:  # flattened as (width, T) in the network, as (T, width) here
            weight = weight.unflatten(1, (width, -1)).transpose(1, 2).flatten(1)
            width = 0
        if scale is not None:
            weight, bias = weight * scale, bias + weight @ shift
            scale = shift = None
        relu = False
        for after in rest:
            relu = relu or isinstance(after, nn.ReLU)
            if isinstance(after, nn.BatchNorm1d):
                factor, offset = _affine(after)
                if relu:
                    scale, shift = factor, offset
                else:
                    weight = weight * factor.view(-1, *[1] * (weight.dim() - 1))
                    bias = bias * factor + offset
        yield _Folded(weight, bias, relu)


def _affine(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Factor and offset of batch normalisation in evaluation, float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        factor = factor * norm.weight.double()
    offset = -norm.running_mean.double() * factor
    return factor, offset + norm.bias.double() if norm.affine else offset


def _layer(part: _Folded, dtype: torch.dtype) -> Layer:
    weight = part.weight
    if weight.dim() == 2:
        dense = product(weight, part.bias, part.relu, dtype)
        return lambda x: dense(x.flatten(1))
    out, channels, kernel = weight.shape
    if channels < out // 2:  # few input channels: their window as one row, a wide product
        wide = product(weight.transpose(1, 2).flatten(1), part.bias, part.relu, dtype)
        return lambda x: wide(_windows(x, kernel))
    convolve = convolution(weight[:, :, None], part.bias, part.relu, dtype)
    # (N, T, C) is (N, C, 1, T) in channels-last order
    return lambda x: convolve(x[:, None].permute(0, 3, 1, 2)).permute(0, 2, 3, 1).squeeze(1)


def _windows(x: Tensor, kernel: int) -> Tensor:
    """(N, T, C) -> (N, T, kernel * C): each step with its neighbours, zero beyond the ends."""
    n, steps, channels = x.shape
    padded = functional.pad(x, (0, 0, kernel // 2, kernel // 2))
    row = padded.stride(0)
    return padded.as_strided((n, steps, kernel * channels), (row, channels, 1)).contiguous()


def _index(domain: Domain) -> Layer:
    """``domain`` with the norms of the prototypes as the bias of the product."""
    p = domain.prototypes - domain.centre
    distance = product(-2 * p, (p * p).sum(1), False, torch.float32)

    def index(z: Tensor) -> Tensor:
        z = z - domain.centre
        squared = distance(z).amin(1) + (z * z).sum(1)
        return squared.clamp_min(0).sqrt() / domain.scale

    return index
