"""LSTM encoder (Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn


class LSTM(nn.Module):
    """Two recurrent layers of 128 units (arXiv:2510.19579, A.1); the last output is projected.

    Args:
        channels: C of the input.
        steps: T of the input; any length works, the argument is the encoders' common interface.
        features: D of the output.
        width: units of each layer.
        layers: number of layers.
        dropout: between the layers.
        projection_dropout: before the projection (section 4.3).
    """

    OPTIONS: ClassVar[Mapping[str, int | float]] = {
        "width": 128, "layers": 2, "dropout": 0.2, "projection_dropout": 0.2,
    }

    def __init__(
        self, channels: int, steps: int, features: int, *, width: int, layers: int,
        dropout: float, projection_dropout: float,
    ) -> None:
        super().__init__()
        between = dropout if layers > 1 else 0.0  # torch warns of a dropout between nothing
        self.recurrent = nn.LSTM(channels, width, layers, batch_first=True, dropout=between)
        self.projection = nn.Sequential(nn.Dropout(projection_dropout), nn.Linear(width, features))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, D)."""
        output, _ = self.recurrent(x)  # (N, T, width)
        return self.projection(output[:, -1])
