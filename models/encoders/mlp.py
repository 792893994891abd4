"""Multi-layer perceptron that ignores the order of time (arXiv:2510.19579, section 4.7 and A.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn


class MLP(nn.Module):
    """Two dense layers with batch normalisation and one linear projection.

    The batch normalisation has no scale and shift of its own: it stands before a linear layer,
    which absorbs both. So it is the network of A.1 and meets Table A1, which has no room for them.

    Args:
        channels: C of the input.
        steps: T of the input.
        features: D of the output.
        width: units of each dense layer.
        layers: number of dense layers.
        dropout: after each dense layer but the last; A.1 gives none for it.
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
        sizes = [channels * steps] + [width] * layers
        blocks: list[nn.Module] = [nn.Flatten()]  # (N, T, C) -> (N, T * C)
        for k in range(layers):
            after = dropout if k < layers - 1 else projection_dropout
            blocks += [nn.Linear(sizes[k], width), nn.ReLU(),
                       nn.BatchNorm1d(width, affine=False), nn.Dropout(after)]
        self.layers = nn.Sequential(*blocks)
        self.projection = nn.Linear(width, features)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, D)."""
        return self.projection(self.layers(x))
