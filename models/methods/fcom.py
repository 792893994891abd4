"""FCoM-av: all combinations of missing sensors as training samples, features averaged.

Mena, Arenas and Dengel 2025, Neurocomputing 638 (arXiv:2501.01132).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import torch
from torch import Tensor

from models.losses import prediction_loss
from models.methods.base import EncoderFactory, SingleSensor, head_mlp, spread, summed


class FCoMAverage(SingleSensor):
    """Features averaged over the sensors of a combination; one head, of one hidden layer.

    A sample enters once for each of the combinations (2^M - 1 if it has all M sensors) of the
    sensors that it has; predicting from one, the average is its own features. The authors' code
    drops sensors of a whole batch at once; with samples that lack some, a combination here takes
    the samples that have all of it. Their encoders end in a layer normalisation; here every method
    has the same encoders, without.

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
        self.head = head_mlp(features, outputs)

    def losses(
        self, inputs: Mapping[str, Tensor], present: Tensor, target: Tensor,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Prediction loss over all samples in all their combinations of sensors."""
        z, has, row = spread(self.features(inputs, present), present)
        merged, which = combinations(z, has)
        output = self.head(merged)
        return summed({"main": prediction_loss(target[row[which]], output, class_weights)})


def combinations(z: Tensor, has: Tensor) -> tuple[Tensor, Tensor]:
    """Average features of every non-empty combination of sensors.

    Args:
        z: (N, M, D).
        has: (N, M) bool.

    Returns:
        (R, D) averages and (R,) the sample of each.
    """
    merged, rows = [], []
    for switches in product((False, True), repeat=has.shape[1]):
        chosen = torch.tensor(switches, device=has.device)
        if not any(switches):
            continue
        row = torch.nonzero((has | ~chosen).all(1)).squeeze(1)  # samples with all of it
        merged.append(z[row][:, chosen].mean(1))
        rows.append(row)
    return torch.cat(merged), torch.cat(rows)
