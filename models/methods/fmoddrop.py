"""FModDrop: sensor dropout over a fusion transformer.

Chen, Zhao and Bruzzone 2024, doi:10.1109/TGRS.2024.3387837 (arXiv:2304.11381).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.losses import prediction_loss
from models.methods.base import (
    EncoderFactory,
    SingleSensor,
    alone,
    random_subset,
    spread,
    summed,
)


class FModDrop(SingleSensor):
    """A fusion token gathers from one token a sensor; training sees random sets of sensors.

    Departures: the original has many tokens an image, a Bi-LSTM or attention that merges them, and
    reconstruction and contrastive losses for pretraining. As in arXiv:2510.19579 only its
    supervised fusion is kept: an encoder makes one token a sensor, absent ones are masked in the
    attention, and a random combination of sensors is drawn per sample. One layer, 8 heads, dropout
    0.4 and no position code are those of Mena et al.'s published comparison.

    Args:
        make_encoder: (channels, features) -> encoder.
        sensors: sensor key -> channels.
        outputs: classes, or 1.
        features: size of a token, a multiple of ``fusion_heads``.
        fusion_layers: of the transformer.
        fusion_heads: of its attention.
        fusion_dropout: in it.
    """

    OPTIONS: ClassVar[Mapping[str, int | float]] = {
        "fusion_layers": 1, "fusion_heads": 8, "fusion_dropout": 0.4,
    }

    def __init__(
        self, make_encoder: EncoderFactory, sensors: Mapping[str, int], outputs: int,
        features: int, *, fusion_layers: int, fusion_heads: int, fusion_dropout: float,
    ) -> None:
        super().__init__(make_encoder, sensors, features)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, features))
        layer = nn.TransformerEncoderLayer(
            features, fusion_heads, 4 * features, fusion_dropout, batch_first=True)
        self.fusion = nn.TransformerEncoder(layer, fusion_layers, enable_nested_tensor=False)
        self.head = nn.Linear(features, outputs)

    def fuse(self, z: Tensor, has: Tensor) -> Tensor:
        """(N, M, D) sensor tokens and (N, M) bool -> (N, D) fusion token."""
        tokens = torch.cat([self.token.expand(len(z), -1, -1), z], dim=1)
        masked = torch.cat([torch.zeros_like(has[:, :1]), ~has], dim=1)
        return self.fusion(tokens, src_key_padding_mask=masked)[:, 0]

    def embed(self, sensor: str, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, D): the fusion token that saw this sensor alone."""
        z, has = alone(self.encoder[sensor](x), self.sensors.index(sensor), len(self.sensors))
        return self.fuse(z, has)

    def losses(
        self, inputs: Mapping[str, Tensor], present: Tensor, target: Tensor,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Prediction loss from a random combination of each sample's sensors."""
        z, has, row = spread(self.features(inputs, present), present)
        kept = random_subset(has) if self.training else has
        output = self.head(self.fuse(z, kept))
        return summed({"main": prediction_loss(target[row], output, class_weights)})
