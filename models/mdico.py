"""MDiCo: multi-modal disentanglement for co-learning (arXiv:2510.19579, section 3).

Training sees all sensors together; each sensor then predicts alone. Where the authors' published
code departs from the paper, the paper is followed and the place is marked below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.losses import (
    TEMPERATURE,
    auxiliary_loss,
    contrastive_loss,
    main_loss,
    modality_loss,
)
from models.methods.base import EncoderFactory, pairs_of, summed, usable


class Features(NamedTuple):
    """The three feature spaces of one sensor, each (N, d)."""

    shared: Tensor
    specific: Tensor
    unused: Tensor


class MDiCo(nn.Module):
    """Per sensor two encoders and a head; beside them the heads that only training uses.

    The paper has projections of 128 units (section 4.3) and three feature spaces of one size d,
    which do not fit together for E_uni: here each space has ``features`` units, so that E_uni
    projects onto twice as many. The published code halves 128: d = 64, and a further linear layer
    with batch normalisation and ReLU, which the paper does not have, leads E_com to as many.

    Args:
        make_encoder: (channels, features, sensor) -> encoder of (N, T, C) series.
        sensors: sensor key -> channels C; M = 1 is allowed and trains without the contrastive and
            the modality loss, which have no meaning then.
        outputs: classes or labels K, or 1 for a regression.
        features: d, the size of each of the three feature spaces.
        temperature: tau of equation 9.
        memory: shared features of so many past samples are kept per sensor as further negatives of
            equation 9: a queue as in MoCo (He et al. 2020, arXiv:1911.05722), without its slowly
            moving encoder, so that they are as old as their place in it. A sample that
            comes back meanwhile meets its own past as a negative. 0 is the paper.
    """

    def __init__(
        self, make_encoder: EncoderFactory, sensors: Mapping[str, int], outputs: int,
        features: int, temperature: float = TEMPERATURE, memory: int = 0,
    ) -> None:
        super().__init__()
        self.sensors = tuple(sensors)
        self.temperature, self.memory = temperature, memory
        self.past: dict[int, Tensor] = {}  # per sensor number (up to memory, d), newest first
        # The published code starts E_com and E_uni as copies of each other; here, as in the paper,
        # they are separate networks (section 3.2.2).
        self.common = nn.ModuleDict({s: make_encoder(c, features, s) for s, c in sensors.items()})
        self.unique = nn.ModuleDict({s: make_encoder(c, 2 * features, s)
                                     for s, c in sensors.items()})
        self.head = nn.ModuleDict({s: nn.Linear(2 * features, outputs) for s in sensors})
        self.auxiliary = nn.Linear(features, outputs)
        if len(self.sensors) > 1:
            self.which_specific = nn.Linear(features, len(self.sensors))  # P_spe
            self.which_unused = nn.Linear(features, len(self.sensors))  # P_unu

    def encode(self, sensor: str, x: Tensor) -> Features:
        """Equations 1 and 2: (N, T, C) -> three times (N, d)."""
        specific, unused = self.unique[sensor](x).chunk(2, dim=1)  # (N, 2d) -> (N, d), (N, d)
        return Features(self.common[sensor](x), specific, unused)

    def embed(self, sensor: str, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, 2d): shared and specific features, what the sensor's head works on."""
        z = self.encode(sensor, x)
        return torch.cat([z.shared, z.specific], dim=1)

    def head_output(self, sensor: str, z: Features) -> Tensor:
        """Equation 3: (N, K) from shared and specific features; the unused ones stay unused."""
        return self.head[sensor](torch.cat([z.shared, z.specific], dim=1))

    def predict(self, sensor: str, x: Tensor) -> Tensor:
        """Equation 5: (N, T, C) -> (N, K) logits or (N, 1) standardised values.

        Only this sensor's branch is run.
        """
        return self.predict_and_embed(sensor, x)[0]

    def predict_and_embed(self, sensor: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """``predict`` and ``embed`` in one pass through the encoders."""
        z = self.embed(sensor, x)
        return self.head_of(sensor)(z), z

    def head_of(self, sensor: str) -> nn.Module:
        """The head that works on ``embed``."""
        return self.head[sensor]

    def losses(
        self, inputs: Mapping[str, Tensor], present: Tensor, target: Tensor,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Equation 6: the unweighted sum ``total`` and its parts.

        Args:
            inputs: per sensor (N, T, C); rows of absent sensors are never looked at.
            present: (N, M) bool, which sample has which sensor, in the order of ``self.sensors``.
            target: see ``prediction_loss``.
            class_weights: (K,) or None.

        Raises:
            ValueError: no sensor has the two samples that batch normalisation needs.
        """
        active = usable(present)
        z = {m: self.encode(self.sensors[m], inputs[self.sensors[m]][present[:, m]])
             for m in active}  # each (N_m, d)
        y = [target[present[:, m]] for m in active]
        heads = [self.head_output(self.sensors[m], z[m]) for m in active]
        aux = [(self.auxiliary(z[m].shared), self.auxiliary(z[m].specific)) for m in active]
        parts = {
            "main": main_loss(heads, y, class_weights),
            # The published code takes half of it, and half of the modality loss: it averages over
            # the two kinds of features where equations 8 and 11 have the sum.
            "auxiliary": auxiliary_loss(aux, y, class_weights),
        }
        if len(self.sensors) > 1:
            # The published code feeds P_unu the SHARED features, so that the unused ones enter no
            # loss at all; equation 11 says unused, and so it is here.
            parts["modality"] = modality_loss({
                m: (self.which_specific(z[m].specific), self.which_unused(z[m].unused))
                for m in active
            })
            parts |= self._contrastive({m: z[m].shared for m in active}, present)
        return summed(parts)

    def _contrastive(self, shared: Mapping[int, Tensor], present: Tensor) -> dict[str, Tensor]:
        """Equation 10; nothing where no two samples have both sensors of a pair."""
        past = dict(self.past) if self.training else {}  # an evaluation neither uses nor adds any
        if self.memory and self.training:
            for m, z in shared.items():
                self.past[m] = torch.cat([z.detach(), *([past[m]] if m in past else [])])
                self.past[m] = self.past[m][: self.memory]
        pairs = [(shared[a][i], shared[b][j], past.get(a), past.get(b))
                 for a, b, i, j in self._paired(shared, present)]
        # The published code takes NT-Xent, whose negatives are also the anchor's own sensor's, adds
        # its symmetric form for both orders of a pair (weight 2), at temperature 0.1; equation 9
        # has the other sensor's negatives only, equation 10 each anchor once, and tau is 0.07.
        return {"contrastive": contrastive_loss(pairs, self.temperature)} if pairs else {}

    def _paired(
        self, shared: Mapping[int, Tensor], present: Tensor
    ) -> list[tuple[int, int, Tensor, Tensor]]:
        """Positives: rows of the same samples, for each pair of sensors."""
        return pairs_of(shared, present)
