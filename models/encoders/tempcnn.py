"""TempCNN: convolutions along time (Pelletier, Webb, Petitjean 2019, doi:10.3390/rs11050523)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from models.encoders.layers import Dropout


class TempCNN(nn.Module):
    """Temporal convolutions, one dense layer, one linear projection.

    Two convolutions of 128 filters with kernel 5 and a linear projection are those of
    arXiv:2510.19579 (section 4.3 and A.1); batch normalisation and a dense layer of four times the
    filters are Pelletier's and of the authors' published code, from whose settings dropout is, too
    (Pelletier: 0.5). Table A1, however, counts three convolutions (``layers``: 3), as far as it
    can be met at all. The paper does not place the projection's 20 % dropout: here it acts on the
    projection's input, so that the features themselves are never partly zero.

    Args:
        channels: C of the input.
        steps: T of the input (at least 1).
        features: D of the output.
        width: filters of each convolution.
        layers: convolutions.
        dense: units of the dense layer.
        kernel: of the convolutions, odd.
        dropout: after each convolution and the dense layer.
        projection_dropout: before the projection.
    """

    OPTIONS: ClassVar[Mapping[str, int | float]] = {
        "width": 128, "layers": 2, "dense": 512, "kernel": 5, "dropout": 0.2,
        "projection_dropout": 0.2,
    }

    def __init__(
        self, channels: int, steps: int, features: int, *, width: int, layers: int, dense: int,
        kernel: int, dropout: float, projection_dropout: float,
    ) -> None:
        super().__init__()
        sizes = [channels] + [width] * layers
        self.convolutions = _Convolutions(*(
            part for k in range(layers)
            for part in _convolution(sizes[k], width, kernel, dropout)
        ))
        self.dense = nn.Sequential(
            nn.Flatten(),  # (N, width, T) -> (N, width * T)
            nn.Linear(width * steps, dense), nn.BatchNorm1d(dense), nn.ReLU(), Dropout(dropout),
        )
        self.projection = nn.Sequential(Dropout(projection_dropout), nn.Linear(dense, features))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, D)."""
        return self.projection(self.dense(self.convolutions(x)))


class _Convolutions(nn.Sequential):
    """Convolutions along time, and what follows each."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, width, T)."""
        if not self.training:
            return super().forward(x.transpose(1, 2))
        n, t, _ = x.shape
        # PyTorch normalises the columns of a matrix several times faster than short series
        x = x.reshape(n * t, -1)
        for part in self:
            if isinstance(part, nn.Conv1d):
                x = part(x.view(n, t, -1).transpose(1, 2)).transpose(1, 2).reshape(n * t, -1)
            else:
                x = part(x)
        return x.view(n, t, -1).transpose(1, 2)


def _convolution(channels: int, width: int, kernel: int, dropout: float) -> list[nn.Module]:
    return [
        nn.Conv1d(channels, width, kernel, padding=kernel // 2),
        nn.BatchNorm1d(width), nn.ReLU(), Dropout(dropout),
    ]
