"""The four losses of MDiCo as pure functions (arXiv:2510.19579, section 3.3, equations 6 to 11).

The paper writes them for two sensors that every sample has. Here M >= 1 sensors are allowed and a
sample may lack some: the factor 1/2 of equations 7, 8 and 11 becomes 1/M, equation 10 becomes its
mean over all pairs of sensors, and each term is a mean over the samples that have the sensor (or
both sensors of the pair). With M = 2 and nothing missing they are the paper's equations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.07  # tau of equation 9

Pair = tuple[Tensor, Tensor]


def prediction_loss(target: Tensor, output: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """L_pred of equation 7: cross-entropy, or squared error of a standardised value.

    Labels that do not exclude each other (section 4.1, tree species) take the binary cross-entropy
    of each, as in the authors' published code; the paper does not name their loss.

    Args:
        target: (N,) class indices (integer: classification), (N,) values (floating: regression) or
            (N, K) zeros and ones (floating: multi-label).
        output: (N, K) logits, or (N, 1) values.
        class_weights: (K,) weights against class imbalance (section 4.3), or of the labels; None
            for none.

    Returns:
        Mean over the samples, of classes with weights their weighted mean; of labels the mean over
        samples and labels.
    """
    if not target.is_floating_point():
        return F.cross_entropy(output, target, weight=class_weights)
    if target.ndim == 2:
        return F.binary_cross_entropy_with_logits(output, target, weight=class_weights)
    return F.mse_loss(output.squeeze(-1), target)


def main_loss(
    outputs: Sequence[Tensor], targets: Sequence[Tensor], class_weights: Tensor | None = None
) -> Tensor:
    """Equation 7: mean over the M sensors of the loss of each sensor's own prediction.

    Args:
        outputs: per sensor (N_m, K).
        targets: per sensor (N_m,) or (N_m, K), of the samples that have it.
        class_weights: see ``prediction_loss``.
    """
    terms = [prediction_loss(y, o, class_weights) for y, o in zip(targets, outputs, strict=True)]
    return torch.stack(terms).mean()


def auxiliary_loss(
    outputs: Sequence[Pair], targets: Sequence[Tensor], class_weights: Tensor | None = None
) -> Tensor:
    """Equation 8: what the one auxiliary head predicts from shared and from specific features.

    Args:
        outputs: per sensor P_aux(z_sha) and P_aux(z_spe), each (N_m, K).
        targets: per sensor (N_m,) or (N_m, K).
        class_weights: see ``prediction_loss``.
    """
    terms = [
        prediction_loss(y, shared, class_weights) + prediction_loss(y, specific, class_weights)
        for y, (shared, specific) in zip(targets, outputs, strict=True)
    ]
    return torch.stack(terms).mean()


def info_nce(
    anchor: Tensor, other: Tensor, temperature: float = TEMPERATURE, past: Tensor | None = None
) -> Tensor:
    """Equation 9: InfoNCE with cosine similarity; row i of both is the same sample.

    The denominator runs over all rows of ``other``, the positive included, as in InfoNCE itself
    (van den Oord et al. 2018, arXiv:1807.03748); without it the loss would have no lower bound.

    Args:
        anchor: (N, d) features of one sensor.
        other: (N, d) features of another.
        temperature: tau.
        past: (P, d) features of the other sensor from earlier batches: further negatives.
    """
    candidates = other if past is None else torch.cat([other, past])
    similarity = F.normalize(anchor, dim=1) @ F.normalize(candidates, dim=1).T  # (N, N + P)
    return F.cross_entropy(similarity / temperature, torch.arange(len(anchor)).to(anchor.device))


def contrastive_loss(
    pairs: Sequence[tuple[Tensor, Tensor, Tensor | None, Tensor | None]],
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Equation 10, each sensor once as the anchor: mean over the unordered pairs of sensors.

    Args:
        pairs: per pair of sensors the shared features (N, d) of the samples that have both, then
            the past features (P, d) of the one and of the other sensor, or None.
        temperature: tau.
    """
    terms = [info_nce(a, b, temperature, past_b) + info_nce(b, a, temperature, past_a)
             for a, b, past_a, past_b in pairs]
    return torch.stack(terms).mean()


def modality_loss(outputs: Mapping[int, Pair]) -> Tensor:
    """Equation 11: which sensor do specific and unused features come from.

    Args:
        outputs: per sensor number m: P_spe(z_spe) and P_unu(z_unu), each (N_m, M) logits.
    """
    terms = []
    for m, (specific, unused) in outputs.items():
        label = torch.full((len(specific),), m, device=specific.device)
        terms.append(F.cross_entropy(specific, label) + F.cross_entropy(unused, label))
    return torch.stack(terms).mean()
