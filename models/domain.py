"""Area of applicability: how far an input lies from what a network was trained on.

Meyer & Pebesma 2021, doi:10.1111/2041-210X.13650, section 2: the dissimilarity index (DI) of an
input is its distance to the nearest training sample, divided by the mean distance among the
training samples. Their space is that of the weighted predictors; here it is that of the features
that the network's head works on, which weighs the inputs by what the network makes of them. The
nearest of a few hundred cluster centres stands for the nearest sample: a map asks for millions of
pixels. The threshold (``pipeline.learn.domain``) is taken with the same centres.
"""

from __future__ import annotations

from torch import Tensor, nn

PREFIX = "domain."  # of the arrays beside a checkpoint's weights


class Domain(nn.Module):
    """What one sensor's training samples look like to the network.

    Args:
        prototypes: (P, D) cluster centres of the training features.
        scale: () mean distance among the training features, above 0.
    """

    prototypes: Tensor
    scale: Tensor
    centre: Tensor

    def __init__(self, prototypes: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("prototypes", prototypes)
        self.register_buffer("scale", scale)
        self.register_buffer("centre", prototypes.mean(0), persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """(N, D) features -> (N,) dissimilarity index; 0 on a prototype, about 1 among them."""
        # |z - p|^2 = |z|^2 - 2 z.p + |p|^2 is one matrix product; about the centre the three terms
        # are small, so that their difference keeps its digits
        z, p = z.float() - self.centre, self.prototypes - self.centre
        squared = (z * z).sum(1, keepdim=True) - 2 * (z @ p.T) + (p * p).sum(1)  # (N, P)
        return squared.min(1).values.clamp_min(0).sqrt() / self.scale
