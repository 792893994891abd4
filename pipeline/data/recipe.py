"""How a window's images become monthly composites: the part that runs inside a Dask task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.data.stacks import Images
from pipeline.prep.composite import aggregate as block_mean
from pipeline.prep.composite import aggregate_count, composite
from pipeline.prep.radiometry import to_db


@dataclass(frozen=True)
class Recipe:
    """Which image goes into which step and pass: the same for all bands and chunks of a window.

    Attributes:
        groups: images by source row.
        steps: per group, [N] step of each image; -1 is outside the period.
        passes: per group, [N] pass number.
        n_steps: T.
        aggregate: read pixels along one side of a result pixel.
        kind: of the sensor.
    """

    groups: tuple[Images, ...]
    steps: tuple[np.ndarray, ...]
    passes: tuple[np.ndarray, ...]
    n_steps: int
    aggregate: int
    kind: Literal["optical", "sar"]

    def cook(self, *blocks: np.ndarray, band: str) -> np.ndarray:
        """Composite of a chunk.

        Step by step, so that only one month at a time is more than stored numbers.

        Args:
            blocks: of each group: [N, Y, X] stored numbers and, if its row has one, quality band.
            band: canonical name.

        Returns:
            [2, T, Y/aggregate, X/aggregate] float32: composite (reflectance or dB, NaN = gap)
            and number of observations.
        """
        h, w = blocks[0].shape[1:]
        f = self.aggregate
        out = np.full((2, self.n_steps, h // f, w // f), np.nan, np.float32)
        out[1] = 0
        for step in range(self.n_steps):
            values, passes = self._month(blocks, band, step)
            if passes.size:
                one_step = np.zeros(passes.size, int)
                fine, count = composite(values, one_step, passes, 1, self.kind)
                coarse = block_mean(fine, f)
                out[0, step] = (to_db(coarse) if self.kind == "sar" else coarse)[0]
                out[1, step] = aggregate_count(count, f)[0]
        return out

    def _month(
        self, blocks: Sequence[np.ndarray], band: str, step: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """[M, Y, X] physical values and [M] passes of one month, over all source rows."""
        rest = iter(blocks)
        values, numbers = [], []
        for images, steps, passes in zip(self.groups, self.steps, self.passes, strict=True):
            mine = [next(rest) for _ in range(1 if images.source.mask is None else 2)]
            member = np.flatnonzero(steps == step)
            if member.size:
                values.append(images.physical(band, mine, member))
                numbers.append(passes[member])
        if not values:
            return np.empty((0, 0, 0), np.float32), np.empty(0, int)
        return np.concatenate(values), np.concatenate(numbers)
