"""MDiCo: multi-modal disentanglement for co-learning (arXiv:2510.19579, section 3).

Training sees all sensors together; each sensor then predicts alone. Where the authors' published
code departs from the paper, the paper is followed and the place is marked below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
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

EncoderFactory = Callable[[int, int], nn.Module]  # (channels, features) -> encoder


class Features(NamedTuple):
    """The three feature spaces of one sensor, each (N, d)."""

    shared: Tensor
    specific: Tensor
    unused: Tensor


class MDiCo(nn.Module):
    """Per sensor two encoders and a head; beside them the heads that only training uses.

    Args:
        make_encoder: (channels, features) -> encoder of (N, T, C) series.
        sensors: sensor key -> channels C; M = 1 is allowed and trains without the contrastive and
            the modality loss, which have no meaning then.
        outputs: classes K, or 1 for a regression.
        features: d, the size of each of the three feature spaces.
        temperature: tau of equation 9.
    """

    def __init__(
        self, make_encoder: EncoderFactory, sensors: Mapping[str, int], outputs: int,
        features: int, temperature: float = TEMPERATURE,
    ) -> None:
        super().__init__()
        self.sensors = tuple(sensors)
        self.temperature = temperature
        # The published code starts E_com and E_uni as copies of each other; here, as in the paper,
        # they are separate networks (section 3.2.2).
        self.common = nn.ModuleDict({s: make_encoder(c, features) for s, c in sensors.items()})
        self.unique = nn.ModuleDict({s: make_encoder(c, 2 * features) for s, c in sensors.items()})
        self.head = nn.ModuleDict({s: nn.Linear(2 * features, outputs) for s in sensors})
        self.auxiliary = nn.Linear(features, outputs)
        if len(self.sensors) > 1:
            self.which_specific = nn.Linear(features, len(self.sensors))  # P_spe
            self.which_unused = nn.Linear(features, len(self.sensors))  # P_unu

    def encode(self, sensor: str, x: Tensor) -> Features:
        """Equations 1 and 2: (N, T, C) -> three times (N, d)."""
        specific, unused = self.unique[sensor](x).chunk(2, dim=1)  # (N, 2d) -> (N, d), (N, d)
        return Features(self.common[sensor](x), specific, unused)

    def head_output(self, sensor: str, z: Features) -> Tensor:
        """Equation 3: (N, K) from shared and specific features; the unused ones stay unused."""
        return self.head[sensor](torch.cat([z.shared, z.specific], dim=1))

    def predict(self, sensor: str, x: Tensor) -> Tensor:
        """Equation 5: (N, T, C) -> (N, K) logits or (N, 1) standardised values.

        Only this sensor's branch is run.
        """
        return self.head_output(sensor, self.encode(sensor, x))

    def losses(
        self, inputs: Mapping[str, Tensor], present: Tensor, target: Tensor,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Equation 6: the unweighted sum ``total`` and its parts.

        Args:
            inputs: per sensor (N, T, C); rows of absent sensors are never looked at.
            present: (N, M) bool, which sample has which sensor, in the order of ``self.sensors``.
            target: (N,) class indices, or standardised values (floating).
            class_weights: (K,) or None.

        Raises:
            ValueError: no sensor has the two samples that batch normalisation needs.
        """
        # fewer than two samples: batch normalisation has no variance to divide by
        active = [m for m in range(len(self.sensors)) if int(present[:, m].sum()) >= 2]
        if not active:
            raise ValueError("a batch needs at least two samples of a sensor")
        z = {m: self.encode(self.sensors[m], inputs[self.sensors[m]][present[:, m]])
             for m in active}  # each (N_m, d)
        y = [target[present[:, m]] for m in active]
        heads = [self.head_output(self.sensors[m], z[m]) for m in active]
        aux = [(self.auxiliary(z[m].shared), self.auxiliary(z[m].specific)) for m in active]
        parts = {
            "main": main_loss(heads, y, class_weights),
            "auxiliary": auxiliary_loss(aux, y, class_weights),
        }
        if len(self.sensors) > 1:
            # The published code feeds P_unu the SHARED features, so that the unused ones enter no
            # loss at all; equation 11 says unused, and so it is here.
            parts["modality"] = modality_loss({
                m: (self.which_specific(z[m].specific), self.which_unused(z[m].unused))
                for m in active
            })
            if pairs := self._pairs({m: z[m].shared for m in active}, present):
                # The published code adds the symmetric term for both orders of a pair (weight 2,
                # temperature 0.1); equation 10 has it once, at 0.07.
                parts["contrastive"] = contrastive_loss(pairs, self.temperature)
        parts["total"] = torch.stack(list(parts.values())).sum()
        return parts

    def _pairs(self, shared: Mapping[int, Tensor], present: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Shared features of the samples that have both, for each pair of sensors."""
        row = present.cumsum(0) - 1  # (N, M): row of a sample within its sensor's features
        pairs = []
        for a, b in combinations(shared, 2):
            both = present[:, a] & present[:, b]
            if int(both.sum()) >= 2:  # one sample has no negatives
                pairs.append((shared[a][row[both, a]], shared[b][row[both, b]]))
        return pairs
