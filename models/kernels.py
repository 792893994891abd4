"""Matrix products and convolutions, the quickest that PyTorch has on a device.

On a CPU that is oneDNN with ReLU fused: PyTorch's own ``mm`` is MKL's, which runs at half the speed
on processors of another maker.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Precision = Literal["float32", "bfloat16"]
Layer = Callable[[Tensor], Tensor]

_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86: AVX-512, AMX; the last one is Arm's


def fastest(device: torch.device) -> Precision:
    """bfloat16 where the device multiplies it natively (elsewhere it is slower), else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    known = torch.backends.mkldnn.is_available() and bool(_CPU_FLAGS & cpu_flags())
    return "bfloat16" if known else "float32"


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets that Linux lists for this CPU; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":")[2] for line in lines if line.lower().startswith(
        ("flags", "features")))
    return frozenset(next(found, "").split())


def product(weight: Tensor, bias: Tensor, relu: bool, dtype: torch.dtype) -> Layer:
    """(..., in) -> (..., out): ``x @ weight.T + bias``, then ReLU, the quickest way there is.

    Args:
        weight: (out, in), on the device of the inputs.
        bias: (out,).
        relu: whether it follows.
        dtype: of inputs and outputs.
    """
    weight, bias = weight.to(dtype).contiguous(), bias.to(dtype)
    if weight.device.type == "cpu" and onednn():
        fused = torch.ops.mkldnn._linear_pointwise
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        return lambda x: fused(x, packed, bias, "relu" if relu else "none", [], "")

    def plain(x: Tensor) -> Tensor:
        y = functional.linear(x, weight, bias)
        return y.relu_() if relu else y

    return plain


def convolution(weight: Tensor, bias: Tensor, relu: bool, dtype: torch.dtype) -> Layer:
    """(N, in, 1, T) -> (N, out, 1, T), channels last: zero beyond both ends.

    Args:
        weight: (out, in, 1, k), k odd; otherwise as of ``product``.
    """
    weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
    bias, around = bias.to(dtype), (0, weight.shape[3] // 2)
    if weight.device.type == "cpu" and onednn():
        fused = torch.ops.mkldnn._convolution_pointwise
        return lambda x: fused(x, weight, bias, around, (1, 1), (1, 1), 1,
                               "relu" if relu else "none", [], "")

    def plain(x: Tensor) -> Tensor:
        y = functional.conv2d(x, weight, bias, padding=around)
        return y.relu_() if relu else y

    return plain


@cache
def onednn() -> bool:
    """Whether oneDNN's fused kernels work here. PyTorch's compiler uses them, but they have no
    public name: where one is missing or answers otherwise, the public functions do the work."""
    x, w, b = torch.ones(4, 3), torch.full((2, 3), 2.0), torch.tensor([-7.0, 1.0])
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(w)
        y = torch.ops.mkldnn._linear_pointwise(x, packed, b, "relu", [], "")
        z = torch.ops.mkldnn._convolution_pointwise(
            x[:, :, None, None], w[:, :, None, None], b, (0, 0), (1, 1), (1, 1), 1, "relu", [], "")
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return False
    wanted = torch.tensor([[0.0, 7.0]]).expand(4, 2)
    return torch.equal(y, wanted) and torch.equal(z.flatten(1), wanted)
