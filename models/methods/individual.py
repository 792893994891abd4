"""Individual: one encoder and one head a sensor, trained without the others (the baseline of
arXiv:2510.19579, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.losses import prediction_loss
from models.methods.base import EncoderFactory, SingleSensor, summed


class Individual(SingleSensor):
    """Independent networks in one module, so that all methods are trained by the same loop.

    Args:
        make_encoder: (channels, features, sensor) -> encoder of (N, T, C) series.
        sensors: sensor key -> channels C.
        outputs: classes or labels K, or 1 for a regression.
        features: size of the features.
    """

    def __init__(
        self, make_encoder: EncoderFactory, sensors: Mapping[str, int], outputs: int, features: int
    ) -> None:
        super().__init__(make_encoder, sensors, features)
        self.head = nn.ModuleDict({s: nn.Linear(features, outputs) for s in sensors})

    def losses(
        self, inputs: Mapping[str, Tensor], present: Tensor, target: Tensor,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Sum over the sensors: the gradient of each network is as if it were trained alone.

        Args:
            inputs: per sensor (N, T, C).
            present: (N, M) bool.
            target: see ``prediction_loss``.
            class_weights: (K,) or None.
        """
        terms = [prediction_loss(target[present[:, m]], self.head_of(self.sensors[m])(z),
                                 class_weights)
                 for m, z in self.features(inputs, present).items()]
        return summed({"main": torch.stack(terms).sum()})
