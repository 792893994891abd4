"""The quicker training path of the convolutions, and dropout, against PyTorch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from models.encoders.layers import Dropout
from models.encoders.tempcnn import TempCNN

OPTIONS = {**TempCNN.OPTIONS, "width": 6, "dense": 8, "dropout": 0.0, "projection_dropout": 0.0}


@pytest.mark.parametrize("steps", [1, 4, 12])
def test_convolutions_train_as_the_plain_sequence_of_layers_does(steps: int) -> None:
    torch.manual_seed(0)
    ours = TempCNN(3, steps, 5, **OPTIONS).train()
    plain = copy.deepcopy(ours)
    x, weight = torch.randn(32, steps, 3), torch.randn(32, 5)
    mine = ours(x)
    series = nn.Sequential(*plain.convolutions)(x.transpose(1, 2))  # on (N, C, T) throughout
    theirs = plain.projection(plain.dense(series))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    (mine * weight).sum().backward()
    (theirs * weight).sum().backward()
    for (name, a), b in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4, msg=name)
    for (name, a), b in zip(ours.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)  # running statistics
    assert torch.equal(ours.eval()(x), ours.projection(ours.dense(
        nn.Sequential(*ours.convolutions)(x.transpose(1, 2)))))


@pytest.mark.parametrize("p", [0.2, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_and_keeps_the_mean(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(301, 667, dtype=dtype, requires_grad=True)
    got = Dropout(p).train()(x)
    assert got.dtype == dtype
    assert got.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=4e-3)
    n = x.numel()
    spread = (p * (1 - p) / n) ** 0.5
    assert abs((got == 0).sum().item() / n - p) < 4 * spread
    along = (got.detach() == 0).float()
    assert along.mean(0).std().item() == pytest.approx((p * (1 - p) / 301) ** 0.5, rel=0.15)
    assert along.mean(1).std().item() == pytest.approx((p * (1 - p) / 667) ** 0.5, rel=0.15)
    got.sum().backward()
    assert torch.equal(x.grad, got.detach())  # the same mask, the same factor


def test_dropout_follows_the_seed_and_is_off_where_pytorchs_is() -> None:
    x = torch.randn(7, 3, 5).transpose(0, 2)
    layer = Dropout(0.5)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(layer.train()(x))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(Dropout(0.0).train()(x), x)
    assert torch.equal(Dropout(1.0).train()(x), torch.zeros_like(x))
