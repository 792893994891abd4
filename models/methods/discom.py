"""DisCoM-KD (Ienco and Dantas 2024, BMVC, arXiv:2408.07080)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.losses import prediction_loss
from models.methods.base import EncoderFactory, SingleSensor, summed


class DisCoMKD(SingleSensor):
    """Per sensor invariant, informative and irrelevant features, and a head on the first two.

    Five losses, summed: L_CL (heads), L_ADV (an adversary may not tell the sensor from invariant
    features), L_MOD (it must be told from informative and from irrelevant ones), L_AUX (one task
    head on invariant and on informative features) and L_perp (informative orthogonal to both
    others).

    Departures: the authors' training code gives its sensor classifiers rows of ones and zeros as
    class probabilities; here they get the sensor's number, as the paper says. L_perp is the
    absolute cosine: their encoders end in a rectifier, under which the cosine is never negative;
    the encoders here do not. They shuffle the sensors apart; here the samples of a batch are
    paired, but no loss uses it. One sensor trains without L_ADV and L_MOD.

    Args:
        make_encoder: (channels, features) -> encoder.
        sensors: sensor key -> channels.
        outputs: classes, or 1.
        features: size of each of the three kinds of features.
        reversal: factor of the reversed gradient.
    """

    OPTIONS: ClassVar[Mapping[str, int | float]] = {"reversal": 1.0}

    def __init__(
        self, make_encoder: EncoderFactory, sensors: Mapping[str, int], outputs: int,
        features: int, *, reversal: float,
    ) -> None:
        super().__init__(make_encoder, sensors, features)  # the invariant branch
        self.reversal = reversal
        self.specific = nn.ModuleDict({s: make_encoder(c, 2 * features, s)
                                       for s, c in sensors.items()})
        self.project = nn.ModuleDict({
            s: nn.Sequential(nn.Linear(features, features), nn.BatchNorm1d(features), nn.ReLU())
            for s in sensors
        })
        self.head = nn.ModuleDict({s: nn.Linear(2 * features, outputs) for s in sensors})
        self.auxiliary = nn.Linear(features, outputs)
        self.adversary = nn.Linear(features, len(sensors))
        self.which_informative = nn.Linear(features, len(sensors))
        self.which_irrelevant = nn.Linear(features, len(sensors))

    def embed(self, sensor: str, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, 2d): invariant and informative features."""
        invariant = self.project[sensor](self.encoder[sensor](x))
        informative, _ = self.specific[sensor](x).chunk(2, dim=1)
        return torch.cat([invariant, informative], dim=1)

    def losses(
        self, inputs: Mapping[str, Tensor], present: Tensor, target: Tensor,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The plain sum of the five losses, each over all samples of all sensors at once."""
        outputs, invariants, uniques, targets, labels = [], [], [], [], []
        for m, z in self.features(inputs, present).items():
            sensor, has = self.sensors[m], present[:, m]
            invariant = self.project[sensor](z)
            unique = self.specific[sensor](inputs[sensor][has])
            informative = unique.chunk(2, dim=1)[0]
            outputs.append(self.head_of(sensor)(torch.cat([invariant, informative], dim=1)))
            invariants.append(invariant)
            uniques.append(unique)
            targets.append(target[has])
            labels.append(torch.full((len(z),), m, device=z.device))
        invariant, unique = torch.cat(invariants), torch.cat(uniques)
        informative, irrelevant = unique.chunk(2, dim=1)
        y, label = torch.cat(targets), torch.cat(labels)
        parts = {
            "main": prediction_loss(y, torch.cat(outputs), class_weights),
            "auxiliary": (prediction_loss(y, self.auxiliary(invariant), class_weights)
                          + prediction_loss(y, self.auxiliary(informative), class_weights)),
            "orthogonality": (orthogonality(informative, irrelevant)
                              + orthogonality(informative, invariant)),
        }
        if len(self.sensors) > 1:
            hidden = reverse_gradient(invariant, self.reversal)
            parts["adversary"] = F.cross_entropy(self.adversary(hidden), label)
            told = torch.cat([self.which_informative(informative),
                              self.which_irrelevant(irrelevant)])
            parts["modality"] = F.cross_entropy(told, label.repeat(2))
        return summed(parts)


def orthogonality(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute cosine of the rows of two (N, D)."""
    return F.cosine_similarity(first, second, dim=1).abs().mean()


def reverse_gradient(x: Tensor, factor: float) -> Tensor:
    """x itself, with the gradient multiplied by -factor (Ganin et al. 2016, arXiv:1505.07818)."""
    turned = -factor * x
    return turned + (x - turned).detach()
