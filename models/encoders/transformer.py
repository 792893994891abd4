"""Transformer encoder with a class token (Vaswani et al. 2017, arXiv:1706.03762)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn


class Transformer(nn.Module):
    """Two layers of 128 units and 8 heads (arXiv:2510.19579, A.1); the class token is projected.

    The 2 048 hidden units of the feed-forward part are Vaswani's; A.1 does not give them, but
    Table A1 is met with no other number.

    Args:
        channels: C of the input.
        steps: T of the input.
        features: D of the output.
        width: units of each step, a multiple of ``heads`` and even.
        layers: number of layers.
        heads: of the attention.
        hidden: units of the feed-forward parts.
        dropout: of the positions and in each layer.
        projection_dropout: before the projection (section 4.3).
    """

    OPTIONS: ClassVar[Mapping[str, int | float]] = {
        "width": 128, "layers": 2, "heads": 8, "hidden": 2048, "dropout": 0.2,
        "projection_dropout": 0.2,
    }

    def __init__(
        self, channels: int, steps: int, features: int, *, width: int, layers: int, heads: int,
        hidden: int, dropout: float, projection_dropout: float,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, width)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("position", sinusoids(steps + 1, width), persistent=False)
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(width, heads, hidden, dropout, batch_first=True)
        # nested tensors only help padded text; the plain path gives the same numbers in training
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.projection = nn.Sequential(nn.Dropout(projection_dropout), nn.Linear(width, features))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, D)."""
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], dim=1)  # (N, 1 + T, W)
        x = self.layers(self.dropout(x + self.get_buffer("position")))
        return self.projection(x[:, 0])


def sinusoids(steps: int, width: int, scale: float = 1.0) -> Tensor:
    """Sine and cosine positions of Vaswani et al., section 3.5.

    Args:
        steps: number of positions.
        width: components, even.
        scale: factor on all frequencies.

    Returns:
        (steps, width): sin(scale * p * w_k) at 2k, cos at 2k + 1, w_k = 10000^(-2k / width).
    """
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = scale * torch.arange(steps).unsqueeze(1) * frequency  # (steps, width / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)
