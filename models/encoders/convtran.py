"""ConvTran: convolutions and one attention block with tAPE and eRPE positions.

Foumani, Tan, Webb and Salehi 2024, doi:10.1007/s10618-023-00948-2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoders.transformer import sinusoids


class ConvTran(nn.Module):
    """Temporal filters, a mix of all channels, one attention block, mean over time, projection.

    128 units and 8 heads are those of arXiv:2510.19579, A.1 (Foumani: 16 units), 512 hidden units
    those with which Table A1 is met (Foumani: 256), dropout 0.2 that of its other encoders
    (Foumani: 0.01). The temporal kernel is 8, or T where a series is shorter. Scores are scaled by
    the whole width, not a head's share of it, as in Foumani's published code.

    Args:
        channels: C of the input.
        steps: T of the input.
        features: D of the output.
        width: units of each step, a multiple of ``heads`` and even.
        heads: of the attention.
        hidden: units of the feed-forward part.
        kernel: steps of the temporal filters.
        dropout: of the positions and in the feed-forward part.
        projection_dropout: before the projection (section 4.3).
    """

    OPTIONS: ClassVar[Mapping[str, int | float]] = {
        "width": 128, "heads": 8, "hidden": 512, "kernel": 8, "dropout": 0.2,
        "projection_dropout": 0.2,
    }

    def __init__(
        self, channels: int, steps: int, features: int, *, width: int, heads: int, hidden: int,
        kernel: int, dropout: float, projection_dropout: float,
    ) -> None:
        super().__init__()
        kernel = min(kernel, steps)
        # "same" for an even kernel pads one step more at the end; explicit, for torch would warn
        self.pad = ((kernel - 1) // 2, kernel // 2)
        self.temporal = nn.Sequential(
            nn.Conv2d(1, 4 * width, (1, kernel)), nn.BatchNorm2d(4 * width), nn.GELU(),
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(4 * width, width, (channels, 1)), nn.BatchNorm2d(width), nn.GELU(),
        )
        self.register_buffer("position", tape(steps, width), persistent=False)
        self.position_dropout = nn.Dropout(dropout)
        self.attention = RelativeAttention(width, heads, steps)
        self.norm_attention, self.norm_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, width), nn.Dropout(dropout),
        )
        self.projection = nn.Sequential(nn.Dropout(projection_dropout), nn.Linear(width, features))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, D)."""
        x = F.pad(x.transpose(1, 2).unsqueeze(1), self.pad)  # (N, 1, C, T + kernel - 1)
        x = self.spatial(self.temporal(x)).squeeze(2).transpose(1, 2)  # (N, T, width)
        placed = self.position_dropout(x + self.get_buffer("position"))
        x = self.norm_attention(x + self.attention(placed))
        x = self.norm_forward(x + self.feed_forward(x))
        return self.projection(x.mean(1))


class RelativeAttention(nn.Module):
    """Self-attention with eRPE: a learned scalar per head and time lag, added after the softmax.

    Foumani et al., section 4.3 (efficient relative position encoding).
    """

    def __init__(self, width: int, heads: int, steps: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, width**-0.5
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(2 * steps - 1, heads))
        step = torch.arange(steps)
        lag = step[:, None] - step[None, :] + steps - 1  # (T, T): 0 to 2T - 2
        self.register_buffer("lag", lag, persistent=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> (N, T, width)."""
        q, k, v = (layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
                   for layer in (self.query, self.key, self.value))  # each (N, heads, T, share)
        weights = (q @ k.transpose(2, 3) * self.scale).softmax(dim=3)
        weights = weights + self.bias[self.get_buffer("lag")].permute(2, 0, 1)  # (heads, T, T)
        return self.norm((weights @ v).transpose(1, 2).flatten(2))


def tape(steps: int, width: int) -> Tensor:
    """Time absolute position encoding: frequencies scaled by width / T (section 4.2).

    Returns:
        (steps, width).
    """
    return sinusoids(steps, width, width / steps)
