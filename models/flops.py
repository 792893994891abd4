"""What a prediction costs, counted instead of timed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.forest import Forest


def flops(module: nn.Module, sensor: str, x: Tensor) -> int:
    """Nominal operations of one sensor's prediction of one sample.

    A multiply-add of a convolution or matrix product counts as two, as is usual; what is applied
    element by element (normalisation, activations) is not counted. A forest compares once a tree
    and level, which counts as one; its look-ups, which take longer, are not counted.

    Args:
        module: with ``predict``, on the device of ``x``.
        sensor: key.
        x: (N, T, C) input, N at least 1.
    """
    compared = [0]

    def compare(forest: nn.Module, *_: object) -> None:
        assert isinstance(forest, Forest)
        compared[0] += len(forest.feature) * forest.depth

    forests = [m for m in module.modules() if isinstance(m, Forest)]
    hooks = [m.register_forward_hook(compare) for m in forests]
    training = module.training
    try:
        # not in inference mode, which hides the operations from the counter
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module.eval().predict(sensor, x[:1])  # type: ignore[operator]
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    return counter.get_total_flops() + compared[0]
