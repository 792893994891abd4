"""DeCUR: decoupled common and unique representations (Wang et al. 2024, ECCV, arXiv:2309.05300).

The original pretrains without labels, then fine-tunes. This is a supervised adaptation: its loss is
minimised together with the prediction loss, so that every method is trained by one loop with one
budget. Its numbers are therefore not those of pretraining.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.losses import prediction_loss
from models.methods.base import EncoderFactory, SingleSensor, mean, pairs_of, summed


class DeCUR(SingleSensor):
    """Encoder, head and projector a sensor; Barlow Twins losses within and across sensors.

    Departures besides the joint loss: the projector has three layers of twice the features, not of
    8 192; its loss is divided by that width, to stand beside a prediction loss; the second view
    of a sensor is its series with white noise (the original augments images). The authors' code
    builds both projectors from the same layers; here, as in the paper, they are separate.

    Args:
        make_encoder: (channels, features) -> encoder.
        sensors: sensor key -> channels.
        outputs: classes, or 1.
        features: size of the features; the projected ones have twice as many.
        common: share of the projected dimensions that is common (448 of 512 in the paper).
        off_diagonal: weight lambda of the off-diagonal correlations.
        noise: standard deviation of the second view's noise, in standardised units.
        weight: of the whole self-supervised loss.
    """

    OPTIONS: ClassVar[Mapping[str, int | float]] = {
        "common": 0.875, "off_diagonal": 0.0051, "noise": 0.1, "weight": 1.0,
    }

    def __init__(
        self, make_encoder: EncoderFactory, sensors: Mapping[str, int], outputs: int,
        features: int, *, common: float, off_diagonal: float, noise: float, weight: float,
    ) -> None:
        super().__init__(make_encoder, sensors, features)
        self.common = round(common * 2 * features)
        self.off_diagonal, self.noise, self.weight = off_diagonal, noise, weight
        self.projector = nn.ModuleDict({s: _projector(features) for s in sensors})
        self.head = nn.ModuleDict({s: nn.Linear(features, outputs) for s in sensors})

    def losses(
        self, inputs: Mapping[str, Tensor], present: Tensor, target: Tensor,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Sum of prediction losses + weight * mean of all intra- and cross-sensor losses."""
        main, within, projected = [], [], {}
        features = self.features(inputs, present)
        for m, z in features.items():
            sensor, has = self.sensors[m], present[:, m]
            main.append(prediction_loss(target[has], self.head_of(sensor)(z), class_weights))
            x = inputs[sensor][has]
            projected[m] = self.projector[sensor](z)
            again = self.encoder[sensor](x + self.noise * torch.randn_like(x))
            within.append(barlow_twins(
                correlation(projected[m], self.projector[sensor](again)), 1.0, self.off_diagonal))
        across = [self.cross(correlation(projected[a][i], projected[b][j]))
                  for a, b, i, j in pairs_of(projected, present)]
        width = next(iter(projected.values())).shape[1]
        alike = mean(within + across, main[0])
        return summed({
            "main": torch.stack(main).sum(), "decoupling": self.weight * alike / width,
        })

    def cross(self, c: Tensor) -> Tensor:
        """Half the sum of the common (diagonal to 1) and the unique (diagonal to 0) block."""
        k = self.common
        return (barlow_twins(c[:k, :k], 1.0, self.off_diagonal)
                + barlow_twins(c[k:, k:], 0.0, self.off_diagonal)) / 2


def _projector(features: int) -> nn.Sequential:
    width = 2 * features
    return nn.Sequential(
        nn.Linear(features, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Linear(width, width, bias=False),
    )


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Cross-correlation over the batch: two (N, D) -> (D, D)."""
    a, b = (((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()) for z in (first, second))
    return a.T @ b / len(a)


def barlow_twins(c: Tensor, diagonal: float, off_diagonal: float) -> Tensor:
    """Squared distance of a correlation matrix to ``diagonal`` times the identity.

    Args:
        c: (D, D).
        diagonal: wanted on the diagonal: 1 for common, 0 for unique dimensions.
        off_diagonal: weight of the squared correlations beside the diagonal.
    """
    on = (c.diagonal() - diagonal).square().sum()
    off = c.square().sum() - c.diagonal().square().sum()
    return on + off_diagonal * off
