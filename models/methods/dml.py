"""Deep mutual learning (Zhang, Xiang, Hospedales, Lu 2018, CVPR, arXiv:1706.00384)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.losses import prediction_loss
from models.methods.base import EncoderFactory, SingleSensor, pairs_of, summed


class DML(SingleSensor):
    """A network a sensor; each also learns the class probabilities of the others.

    The paper's networks see the same image; here, as in arXiv:2510.19579, each sees its own sensor
    of the same sample. Its networks are updated in turn; here all at once with the others'
    probabilities held constant, which is the same gradient at the same weights. Where labels do not
    exclude each other, each label has its own divergence.
    """

    REGRESSION: ClassVar[bool] = False

    def __init__(
        self, make_encoder: EncoderFactory, sensors: Mapping[str, int], outputs: int, features: int
    ) -> None:
        if outputs == 1:
            raise ValueError("dml matches class probabilities: it has no regression")
        super().__init__(make_encoder, sensors, features)
        self.head = nn.ModuleDict({s: nn.Linear(features, outputs) for s in sensors})

    def losses(
        self, inputs: Mapping[str, Tensor], present: Tensor, target: Tensor,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Equations 3 to 8: sum over the networks of cross-entropy plus mutual divergence."""
        output = {m: self.head_of(self.sensors[m])(z)
                  for m, z in self.features(inputs, present).items()}
        main = [prediction_loss(target[present[:, m]], o, class_weights)
                for m, o in output.items()]
        parts = {"main": torch.stack(main).sum()}
        divergence = mutual_labels if target.ndim == 2 else mutual
        terms = [divergence(output[a][i], output[b][j])
                 for a, b, i, j in pairs_of(output, present)]
        if terms:  # equation 8: each network takes the mean over its K - 1 peers
            parts["mutual"] = torch.stack(terms).sum() / (len(output) - 1)
        return summed(parts)


def mutual(first: Tensor, second: Tensor) -> Tensor:
    """KL(p2 || p1) as loss of the first network plus KL(p1 || p2) as loss of the second.

    Args:
        first: (N, K) logits of one network.
        second: (N, K) logits of the other, of the same samples.
    """
    a, b = first.log_softmax(1), second.log_softmax(1)
    return (F.kl_div(a, b.detach(), reduction="batchmean", log_target=True)
            + F.kl_div(b, a.detach(), reduction="batchmean", log_target=True))


def mutual_labels(first: Tensor, second: Tensor) -> Tensor:
    """``mutual`` of K labels that do not exclude each other: mean over samples and labels.

    A label is a choice of two, with logits 0 and z: the mean stands beside the binary
    cross-entropy as KL stands beside cross-entropy.
    """
    a, b = (torch.stack([torch.zeros_like(z), z], dim=-1).flatten(0, 1) for z in (first, second))
    return mutual(a, b)
