"""Fusion references: they take every sensor at inference too and bound what one can reach.

MMGF: Mena et al. 2025, Remote Sensing of Environment 318 (gated fusion); InputFu: the channels of
all sensors side by side (both in arXiv:2510.19579, section 4.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.encoders.pixels import as_series
from models.losses import prediction_loss
from models.methods.base import EncoderFactory, Method, head_mlp, spread, summed


class MMGF(Method):
    """Features summed with weights that a gate gives to each sensor and component.

    The gate is a linear layer on the features of all sensors, softmax over the sensors. A sample
    that lacks sensors is trained with the weight shared by those it has; the original has none
    that lack any. Its encoders end in a layer normalisation, those here do not.
    """

    SINGLE_SENSOR: ClassVar[bool] = False

    def __init__(
        self, make_encoder: EncoderFactory, sensors: Mapping[str, int], outputs: int, features: int
    ) -> None:
        super().__init__(make_encoder, sensors, features)
        self.gate = nn.Linear(len(sensors) * features, len(sensors) * features)
        self.head = head_mlp(features, outputs)

    def fuse(self, z: Tensor, has: Tensor) -> Tensor:
        """(N, M, D) and (N, M) bool, at least one in a row -> (N, D)."""
        score = self.gate(z.flatten(1)).view_as(z)
        score = score.masked_fill(~has.unsqueeze(2), -torch.inf)
        return (score.softmax(1) * z).sum(1)

    def embed_all(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Per sensor (N, T, C) -> (N, D)."""
        z = torch.stack([self.encoder[s](inputs[s]) for s in self.sensors], dim=1)
        return self.fuse(z, torch.ones_like(z[..., 0], dtype=torch.bool))

    def predict_all(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Per sensor (N, T, C) -> (N, K)."""
        return self.head(self.embed_all(inputs))

    def losses(
        self, inputs: Mapping[str, Tensor], present: Tensor, target: Tensor,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Prediction loss from all sensors of a sample."""
        z, has, row = spread(self.features(inputs, present), present)
        output = self.head(self.fuse(z, has))
        return summed({"main": prediction_loss(target[row], output, class_weights)})


class InputFu(nn.Module):
    """One encoder on the channels of all sensors; it learns from the samples that have all.

    The sensors must have the same steps.
    """

    SINGLE_SENSOR: ClassVar[bool] = False

    def __init__(
        self, make_encoder: EncoderFactory, sensors: Mapping[str, int], outputs: int, features: int
    ) -> None:
        super().__init__()
        self.sensors = tuple(sensors)
        self.channels = dict(sensors)
        self.encoder = make_encoder(sum(sensors.values()), features)
        self.head = nn.Linear(features, outputs)

    def embed_all(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Per sensor (N, T, C) -> (N, D)."""
        return self.encoder(torch.cat([as_series(inputs[s], c) for s, c in self.channels.items()],
                                      dim=2))

    def predict_all(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Per sensor (N, T, C) -> (N, K)."""
        return self.head(self.embed_all(inputs))

    def losses(
        self, inputs: Mapping[str, Tensor], present: Tensor, target: Tensor,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Prediction loss; raises ValueError where no two samples have all sensors."""
        every = present.all(1)
        if int(every.sum()) < 2:
            raise ValueError("a batch needs at least two samples of a sensor")
        output = self.predict_all({s: inputs[s][every] for s in self.sensors})
        return summed({"main": prediction_loss(target[every], output, class_weights)})
