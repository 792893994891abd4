"""Several networks of one method, and forests beside them, as one network to map with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.forest import Forest

# What may stand beside networks, in this order: a forest, boosted trees (whose outputs are logits
# or values), and a forest that knows season and place alone.
BESIDE = ("forests", "boosted", "prior")

_LEAST = 1e-4  # a forest's zero probability, as a finite logit


class Ensemble(nn.Module):
    """Mean of class probabilities or values: of the members together, and of trees beside them.

    Args:
        members: trained networks of one method; their mean weighs as much as a forest.
        trees: of the kinds of ``BESIDE``, each per sensor, on the same input.
        outputs: classes K, or 1 for a regression.
        shares: per sensor what each of these weighs, in this order, 1 in all; without, they weigh
            the same.
    """

    def __init__(
        self, members: Sequence[nn.Module], trees: Mapping[str, Mapping[str, Forest]],
        outputs: int, shares: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        for kind in BESIDE:
            self.add_module(kind, nn.ModuleDict(trees.get(kind, {})))
        self.outputs = outputs
        self.shares = nn.ParameterDict(
            {s: nn.Parameter(w, requires_grad=False) for s, w in (shares or {}).items()})

    def predict(self, sensor: str, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, K) log probabilities or (N, 1) standardised values."""
        return self.predict_and_embed(sensor, x)[0]

    def predict_and_embed(self, sensor: str, x: Tensor) -> tuple[Tensor, Tensor]:
        """``predict``, and the features of the first member, in one pass."""
        first, z = self.members[0].predict_and_embed(sensor, x)  # type: ignore[operator]
        said = [first, *(m.predict(sensor, x) for m in self.members[1:])]  # type: ignore[operator]
        return self.mean_of(sensor, x, said), z

    def mean_of(self, sensor: str, x: Tensor, said: Sequence[Tensor]) -> Tensor:
        """(N, K) from (N, T, C) input and what each member says of it."""
        means = self.means(sensor, x, said)
        if sensor in self.shares:
            mean = (self.shares[sensor][:, None, None] * means).sum(0)
        else:
            mean = means.mean(0)
        return mean.clamp_min(_LEAST).log() if self.outputs > 1 else mean

    def means(self, sensor: str, x: Tensor, said: Sequence[Tensor]) -> Tensor:
        """(M, N, K) probabilities or values of the members together and of the trees."""
        classes = self.outputs > 1
        means = [torch.stack([s.softmax(1) if classes else s for s in said]).mean(0)]
        for kind in BESIDE:
            trees = getattr(self, kind)
            if sensor in trees:
                out = trees[sensor](x)
                means.append(out.softmax(1) if classes and kind == "boosted" else out)
        return torch.stack(means)

    def embed(self, sensor: str, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, D): features of the first member."""
        return self.members[0].embed(sensor, x)  # type: ignore[operator]
