"""EmbraceNet (Choi and Lee 2019, doi:10.1016/j.inffus.2019.02.010)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.losses import prediction_loss
from models.methods.base import EncoderFactory, SingleSensor, spread, summed


class EmbraceNet(SingleSensor):
    """Docking layers, then each component of the joint vector comes from one random sensor.

    Section 3: d_k = relu(W_k x_k + b_k); component i is d_k[i] with k drawn from a multinomial of
    equal probabilities over the available sensors. In a ``sensor_dropout`` share of the batches
    each sample keeps one random sensor, as in the authors' published example. With one sensor all
    components come from it, so that prediction is deterministic.

    Args:
        make_encoder: (channels, features) -> encoder.
        sensors: sensor key -> channels.
        outputs: classes, or 1.
        features: size of the features and of the joint vector (paper: 512 in its experiments).
        sensor_dropout: probability that a batch simulates absent sensors.
    """

    OPTIONS: ClassVar[Mapping[str, int | float]] = {"sensor_dropout": 0.5}

    def __init__(
        self, make_encoder: EncoderFactory, sensors: Mapping[str, int], outputs: int,
        features: int, *, sensor_dropout: float,
    ) -> None:
        super().__init__(make_encoder, sensors, features)
        self.sensor_dropout = sensor_dropout
        self.docking = nn.ModuleDict({s: nn.Linear(features, features) for s in sensors})
        self.head = nn.Linear(features, outputs)

    def dock(self, z: Tensor) -> Tensor:
        """(N, M, D) features -> (N, M, D) docked."""
        layers = [self.docking[s](z[:, m]) for m, s in enumerate(self.sensors)]
        return F.relu(torch.stack(layers, dim=1))

    def embed(self, sensor: str, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, D): every component of the joint vector from this sensor."""
        return F.relu(self.docking[sensor](self.encoder[sensor](x)))

    def losses(
        self, inputs: Mapping[str, Tensor], present: Tensor, target: Tensor,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Prediction loss of the embraced vector."""
        z, has, row = spread(self.features(inputs, present), present)
        if self.training and torch.rand(()) < self.sensor_dropout:
            has = one_each(has)
        output = self.head(embrace(self.dock(z), has))
        return summed({"main": prediction_loss(target[row], output, class_weights)})


def embrace(docked: Tensor, has: Tensor) -> Tensor:
    """Each component from one of the available sensors, drawn with equal probability.

    Args:
        docked: (N, M, D).
        has: (N, M) bool, at least one in a row.

    Returns:
        (N, D).
    """
    picked = torch.multinomial(has.float(), docked.shape[2], replacement=True)  # (N, D)
    return docked.gather(1, picked.unsqueeze(1)).squeeze(1)


def one_each(has: Tensor) -> Tensor:
    """(N, M) bool -> one random available sensor of each sample."""
    order = torch.rand(has.shape, device=has.device).masked_fill(~has, -1.0)
    return F.one_hot(order.argmax(1), has.shape[1]).bool()
