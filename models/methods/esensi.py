"""ESensI: ensemble with a sensor-invariant head (Mena, Arenas, Dengel 2024, arXiv:2407.15512)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.losses import prediction_loss
from models.methods.base import EncoderFactory, SingleSensor, head_mlp, summed


class ESensI(SingleSensor):
    """An encoder a sensor, one head for all; a learned code added to the features names the sensor.

    The head has one hidden layer with batch normalisation and the code starts normally
    distributed, as in the authors' published settings. Their ensemble averages the sensors'
    predictions where several are there; predicting from one, the average is that prediction.

    Args:
        make_encoder: (channels, features) -> encoder.
        sensors: sensor key -> channels.
        outputs: classes, or 1.
        features: size of the features.
    """

    def __init__(
        self, make_encoder: EncoderFactory, sensors: Mapping[str, int], outputs: int, features: int
    ) -> None:
        super().__init__(make_encoder, sensors, features)
        self.code = nn.ParameterDict({s: nn.Parameter(torch.randn(features)) for s in sensors})
        self.head = head_mlp(features, outputs)

    def embed(self, sensor: str, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, D): features with the sensor's code."""
        return self.encoder[sensor](x) + self.code[sensor]

    def losses(
        self, inputs: Mapping[str, Tensor], present: Tensor, target: Tensor,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Sum over the sensors of each one's prediction loss."""
        terms = []
        for m, z in self.features(inputs, present).items():
            output = self.head(z + self.code[self.sensors[m]])
            terms.append(prediction_loss(target[present[:, m]], output, class_weights))
        return summed({"main": torch.stack(terms).sum()})
