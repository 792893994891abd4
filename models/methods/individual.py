"""Individual: one encoder and one head a sensor, trained without the others (the baseline of
arXiv:2510.19579, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.losses import prediction_loss
from models.mdico import EncoderFactory


class Individual(nn.Module):
    """Independent networks in one module, so that all methods are trained by the same loop.

    Args:
        make_encoder: (channels, features) -> encoder of (N, T, C) series.
        sensors: sensor key -> channels C.
        outputs: classes K, or 1 for a regression.
        features: size of the features.
    """

    def __init__(
        self, make_encoder: EncoderFactory, sensors: Mapping[str, int], outputs: int, features: int
    ) -> None:
        super().__init__()
        self.sensors = tuple(sensors)
        self.encoder = nn.ModuleDict({s: make_encoder(c, features) for s, c in sensors.items()})
        self.head = nn.ModuleDict({s: nn.Linear(features, outputs) for s in sensors})

    def predict(self, sensor: str, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, K) logits or (N, 1) standardised values."""
        return self.head[sensor](self.encoder[sensor](x))

    def losses(
        self, inputs: Mapping[str, Tensor], present: Tensor, target: Tensor,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Sum over the sensors: the gradient of each network is as if it were trained alone.

        Args:
            inputs: per sensor (N, T, C).
            present: (N, M) bool.
            target: (N,) class indices, or standardised values (floating).
            class_weights: (K,) or None.
        """
        terms = []
        for m, sensor in enumerate(self.sensors):
            has = present[:, m]
            if int(has.sum()) >= 2:  # batch normalisation needs two
                output = self.predict(sensor, inputs[sensor][has])
                terms.append(prediction_loss(target[has], output, class_weights))
        if not terms:
            raise ValueError("a batch needs at least two samples of a sensor")
        total = torch.stack(terms).sum()
        return {"main": total, "total": total}
