"""Ablations of MDiCo (arXiv:2510.19579, section 4.5 and 4.6, Tables 6 and 7)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.losses import TEMPERATURE
from models.mdico import Features, MDiCo
from models.methods.base import EncoderFactory

# what can be switched off or over; a row of Tables 6 and 7 each
SWITCHES = (
    "without_contrastive", "without_modality", "without_auxiliary", "without_unused",
    "shared_encoders", "unpaired", "uncertainty", "only_shared", "only_specific",
)


class Ablation(MDiCo):
    """MDiCo with parts switched off; with every switch at False it is MDiCo itself.

    Args:
        make_encoder: see ``MDiCo``.
        sensors: see ``MDiCo``.
        outputs: see ``MDiCo``.
        features: see ``MDiCo``.
        temperature: see ``MDiCo``.
        memory: see ``MDiCo``.
        without_contrastive: no L_cont.
        without_modality: no L_mod; the unused features then enter no loss.
        without_auxiliary: no L_aux.
        without_unused: the unique encoder makes specific features only.
        shared_encoders: one encoder a sensor makes all its features (E_com = E_uni).
        unpaired: positives of L_cont are random samples of the batch. The paper does not say how
            it unpairs; everything else sees the sensors apart anyway.
        uncertainty: adaptive weights of the losses (Kendall, Gal, Cipolla 2018, arXiv:1705.07115):
            exp(-s) L + s / 2 with a learned s = log variance from 0, its form for classification,
            for every loss. The published code has exp(-s) L + s from s = 1, which none of its
            settings uses.
        only_shared: predict from shared features. The paper does not say with which head; here the
            auxiliary one, which is trained on either kind alone, so that training is MDiCo's own.
            The published code writes out the same head's predictions.
        only_specific: predict from specific features, likewise.

    Raises:
        ValueError: switches that exclude each other.
    """

    OPTIONS: ClassVar[Mapping[str, bool]] = dict.fromkeys(SWITCHES, False)

    def __init__(
        self, make_encoder: EncoderFactory, sensors: Mapping[str, int], outputs: int,
        features: int, temperature: float = TEMPERATURE, memory: int = 0, *,
        without_contrastive: bool = False, without_modality: bool = False,
        without_auxiliary: bool = False, without_unused: bool = False,
        shared_encoders: bool = False, unpaired: bool = False, uncertainty: bool = False,
        only_shared: bool = False, only_specific: bool = False,
    ) -> None:
        if only_shared + only_specific + without_auxiliary > 1:
            raise ValueError("only_shared, only_specific and without_auxiliary exclude each other")
        super().__init__(make_encoder, sensors, outputs, features, temperature, memory)
        self.shared_encoders, self.without_unused = shared_encoders, without_unused
        self.unpaired, self.only_shared, self.only_specific = unpaired, only_shared, only_specific
        self.off = {name for name, switch in (("contrastive", without_contrastive),
                                              ("modality", without_modality),
                                              ("auxiliary", without_auxiliary)) if switch}
        if shared_encoders or without_unused:
            kinds = shared_encoders + 2 - without_unused  # that the unique encoder has to make
            self.unique = nn.ModuleDict({s: make_encoder(c, kinds * features, s)
                                         for s, c in sensors.items()})
        if shared_encoders:
            self.common = nn.ModuleDict()
        if without_unused and len(self.sensors) > 1:
            self.add_module("which_unused", _Blind(len(self.sensors)))
        if uncertainty:
            self.log_variance = nn.ParameterDict({
                name: nn.Parameter(torch.zeros(()))
                for name in ("main", "auxiliary", "modality", "contrastive")
                if name not in self.off
            })

    def encode(self, sensor: str, x: Tensor) -> Features:
        """(N, T, C) -> three times (N, d); without unused features their size is 0."""
        if not (self.shared_encoders or self.without_unused):
            return super().encode(sensor, x)
        unique = self.unique[sensor](x)
        d = self.auxiliary.in_features
        if not self.shared_encoders:
            unique = torch.cat([self.common[sensor](x), unique], dim=1)
        return Features(unique[:, :d], unique[:, d : 2 * d], unique[:, 2 * d :])

    def embed(self, sensor: str, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, 2d), or the (N, d) features that alone are predicted from."""
        if not (self.only_shared or self.only_specific):
            return super().embed(sensor, x)
        z = self.encode(sensor, x)
        return z.shared if self.only_shared else z.specific

    def head_of(self, sensor: str) -> nn.Module:
        """The sensor's head, or the auxiliary one where one kind of features alone predicts."""
        return self.auxiliary if self.only_shared or self.only_specific else self.head[sensor]

    def losses(
        self, inputs: Mapping[str, Tensor], present: Tensor, target: Tensor,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The remaining parts and their (weighted) sum; arguments as in ``MDiCo``."""
        parts = super().losses(inputs, present, target, class_weights)
        parts = {k: v for k, v in parts.items() if k != "total" and k not in self.off}
        if self.without_unused and "modality" in parts:  # what a blind discriminator costs
            parts["modality"] = parts["modality"] - math.log(len(self.sensors))
        terms = list(parts.values())
        if hasattr(self, "log_variance"):
            terms = [(-s).exp() * v + s / 2
                     for s, v in ((self.log_variance[k], v) for k, v in parts.items())]
        return {**parts, "total": torch.stack(terms).sum()}

    def _paired(
        self, shared: Mapping[int, Tensor], present: Tensor
    ) -> list[tuple[int, int, Tensor, Tensor]]:
        pairs = super()._paired(shared, present)
        if not self.unpaired:
            return pairs
        return [(a, b, i, j[torch.randperm(len(j)).to(j.device)]) for a, b, i, j in pairs]


class _Blind(nn.Module):
    """A discriminator that is shown nothing: even logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, z: Tensor) -> Tensor:
        return z.new_zeros(len(z), self.classes)


def _variant(switch: str) -> type[Ablation]:
    options = {**Ablation.OPTIONS, switch: True}
    return type(f"Ablation_{switch}", (Ablation,), {"OPTIONS": options})


# names of methods, not options of one: so all run in one contest under the same options
VARIANTS = {f"mdico-{switch.replace('_', '-')}": _variant(switch) for switch in SWITCHES}
