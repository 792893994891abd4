"""ShaSpec: shared-specific feature modelling (Wang et al. 2023, CVPR, arXiv:2307.14126)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.encoders.pixels import as_series
from models.losses import prediction_loss
from models.methods.base import (
    EncoderFactory,
    SingleSensor,
    alone,
    mean,
    pairs_of,
    random_subset,
    spread,
    summed,
)


class ShaSpec(SingleSensor):
    """One encoder shared by all sensors beside a specific one each.

    Fused features f_m = r_m + projection([r_m | s_m]) (r shared, s specific) of all sensors side by
    side feed one head; an absent sensor's are the mean of the shared features of those present.

    Departures: sensors differ in channels, so a linear layer per sensor and step leads into the
    shared encoder, whose input has the channels of the widest sensor; all need the same steps. The
    authors' code sums the alignment of neighbours in a ring and takes the first present sensor for
    an absent one; here it is a mean over all pairs, and the mean of those present, as the paper
    writes. Alignment and sensor classification use what is really there, not the zeros of simulated
    absence.

    Args:
        make_encoder: (channels, features) -> encoder.
        sensors: sensor key -> channels.
        outputs: classes, or 1.
        features: size of shared and of specific features.
        alignment: weight alpha of the distribution alignment (L1).
        domain: weight beta of the classification of the sensor from specific features.
    """

    OPTIONS: ClassVar[Mapping[str, int | float]] = {"alignment": 0.1, "domain": 0.02}

    def __init__(
        self, make_encoder: EncoderFactory, sensors: Mapping[str, int], outputs: int,
        features: int, *, alignment: float, domain: float,
    ) -> None:
        super().__init__(make_encoder, sensors, features)  # the specific encoders
        self.alignment, self.domain = alignment, domain
        common = max(sensors.values())
        self.channels = dict(sensors)
        self.adapt = nn.ModuleDict({s: nn.Linear(c, common) for s, c in sensors.items()})
        self.shared = make_encoder(common, features)
        self.compose = nn.Linear(2 * features, features)
        self.which = nn.Linear(features, len(sensors))
        self.head = nn.Linear(len(sensors) * features, outputs)

    def adapted(self, sensor: str, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, T, channels of the shared encoder)."""
        return self.adapt[sensor](as_series(x, self.channels[sensor]))

    def fuse(self, shared: Tensor, specific: Tensor, has: Tensor) -> Tensor:
        """Side by side, absent sensors replaced.

        Args:
            shared: (N, M, D), zero where absent.
            specific: (N, M, D).
            has: (N, M) bool.

        Returns:
            (N, M * D).
        """
        fused = shared + self.compose(torch.cat([shared, specific], dim=2))
        there = has.unsqueeze(2)
        general = (shared * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
        return torch.where(there, fused, general).flatten(1)

    def embed(self, sensor: str, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, M * D): side by side, the absent sensors generated."""
        m, count = self.sensors.index(sensor), len(self.sensors)
        shared, has = alone(self.shared(self.adapted(sensor, x)), m, count)
        specific, _ = alone(self.encoder[sensor](x), m, count)
        return self.fuse(shared, specific, has)

    def losses(
        self, inputs: Mapping[str, Tensor], present: Tensor, target: Tensor,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Task loss + alpha * alignment of shared + beta * classification of specific features."""
        specific = self.features(inputs, present)
        names = {m: self.sensors[m] for m in specific}
        # the sensors go through the shared encoder together: one batch normalisation for all
        mixed = self.shared(torch.cat([self.adapted(s, inputs[s][present[:, m]])
                                       for m, s in names.items()]))
        sizes = [len(z) for z in specific.values()]
        shared = dict(zip(specific, mixed.split(sizes), strict=True))
        r, has, row = spread(shared, present)
        s, _, _ = spread(specific, present)
        kept = random_subset(has) if self.training else has
        output = self.head(self.fuse(r * kept.unsqueeze(2), s, kept))
        apart = [F.l1_loss(shared[a][i], shared[b][j])
                 for a, b, i, j in pairs_of(shared, present)]
        label = torch.cat([torch.full((len(z),), m, device=z.device) for m, z in specific.items()])
        sensor = F.cross_entropy(self.which(torch.cat(list(specific.values()))), label)
        return summed({
            "main": prediction_loss(target[row], output, class_weights),
            "alignment": self.alignment * mean(apart, mixed),
            "domain": self.domain * sensor,
        })
