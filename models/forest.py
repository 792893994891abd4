"""A fitted forest of decision trees as tensors, so that it maps from the same file as a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MOST = 2**15 - 1  # nodes of a tree: numbered in 16 bits, the file is a third smaller


class Forest(nn.Module):
    """Mean over the leaves that a row falls into, one leaf a tree.

    All trees advance one level at a time; a leaf leads to itself. The buffers are filled from a
    fitted ensemble (``pipeline.learn.forests``).

    Raises:
        ValueError: trees are too large.

    Args:
        trees: their number.
        nodes: of the largest tree; smaller ones are padded.
        depth: levels below the root of the deepest tree.
        outputs: K.
    """

    feature: Tensor
    left: Tensor
    right: Tensor
    threshold: Tensor
    value: Tensor

    def __init__(self, trees: int, nodes: int, depth: int, outputs: int) -> None:
        super().__init__()
        if nodes > _MOST:
            raise ValueError(f"a tree of {nodes} nodes; at most {_MOST}: let leaves be larger")
        self.depth = depth
        whole = torch.zeros(trees, nodes, dtype=torch.int16)
        self.register_buffer("feature", whole)  # column of the flattened row that is looked at
        self.register_buffer("left", whole.clone())  # next node where value <= threshold
        self.register_buffer("right", whole.clone())
        self.register_buffer("threshold", torch.zeros(trees, nodes))
        self.register_buffer("value", torch.zeros(trees, nodes, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) -> (N, K): class probabilities (boosted trees: logits), or (N, 1) standardised
        values. Of images (N, T, C, H, W) the mean pixel is looked at."""
        x = (x.flatten(3).mean(3) if x.dim() > 3 else x).flatten(1)
        trees, nodes = self.feature.shape
        root = torch.arange(trees, device=x.device)[:, None] * nodes  # of the trees, end to end
        # both children side by side, so that one look-up finds the next node; 32-bit numbers and
        # index_select, because the look-ups are what takes the time
        child = torch.stack([self.right + root, self.left + root], -1).flatten().int()
        feature, threshold = self.feature.flatten().int(), self.threshold.flatten()
        row = torch.arange(len(x), dtype=torch.int32, device=x.device) * x.shape[1]
        row, flat = row.repeat_interleave(trees), x.flatten()
        at = root.flatten().int().repeat(len(x))
        for _ in range(self.depth):
            value = flat.index_select(0, row + feature.index_select(0, at))
            goes_left = value <= threshold.index_select(0, at)
            at = child.index_select(0, 2 * at + goes_left)
        leaves = self.value.flatten(0, 1).index_select(0, at)
        return leaves.view(len(x), trees, -1).mean(1)  # (N, trees, K) -> (N, K)
