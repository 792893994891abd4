"""How a window's images become monthly composites, whoever reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.data.stacks import Images
from pipeline.prep.composite import (
    Composite,
    aggregate_count,
    mean,
    median,
    median_of_numbers,
    strips,
)
from pipeline.prep.composite import aggregate as block_mean
from pipeline.prep.network import bits_where
from pipeline.prep.radiometry import to_db

_U16 = np.dtype(np.uint16)


@dataclass(frozen=True)
class Member:
    """One image of a step: number ``k`` of its group, the group's place, and its pass."""

    group: int
    images: Images
    k: int
    number: int


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

    def members(self, step: int) -> list[Member]:
        """Images of a step, those to be preferred first."""
        return [
            Member(g, images, int(k), int(passes[k]))
            for g, (images, steps, passes)
            in enumerate(zip(self.groups, self.steps, self.passes, strict=True))
            for k in np.flatnonzero(steps == step)
        ]

    def cook(self, *blocks: np.ndarray, band: str) -> np.ndarray:
        """Composites of a chunk, the part that runs inside a Dask task.

        Args:
            blocks: of each group: [N, Y, X] stored numbers and, if its row has one, quality band.
            band: canonical name.

        Returns:
            [2, T, Y/aggregate, X/aggregate] float32: composite (reflectance or dB, NaN = gap)
            and number of observations.
        """
        rest = iter(blocks)
        mine = [(next(rest), None if images.source.mask is None else next(rest))
                for images in self.groups]
        h, w = (side // self.aggregate for side in blocks[0].shape[1:])
        out = np.full((2, self.n_steps, h, w), np.nan, np.float32)
        out[1] = 0
        for step in range(self.n_steps):
            members = self.members(step)
            if members:
                numbers = [mine[m.group][0][m.k] for m in members]
                codes = [None if q is None else q[m.k]
                         for m in members for q in [mine[m.group][1]]]
                covered = [m.images.covered(q) for m, q in zip(members, codes, strict=True)]
                out[0, step], out[1, step] = self.compose(band, members, numbers, codes, covered)
        return out

    def compose(
        self, band: str, members: Sequence[Member], numbers: Sequence[np.ndarray],
        quality: Sequence[np.ndarray | None], covered: Sequence[np.ndarray | None],
    ) -> Composite:
        """Composite of a band in one step.

        Args:
            band: canonical name.
            members: M images, at least one.
            numbers: M arrays [Y, X] as stored.
            quality: M arrays of quality codes, or None where the row has none.
            covered: ``Images.covered`` of them: the same for all bands.

        Returns:
            [Y/aggregate, X/aggregate] float32 reflectance or dB, NaN = gap, and observations.

        Raises:
            DataTrouble: the pixels contradict the offset that an image's metadata imply.
        """
        for m, image, codes in zip(members, numbers, quality, strict=True):
            if codes is not None:
                m.images.check_offset(band, m.k, image, codes)
        fine = np.empty(numbers[0].shape, np.float32)
        count = np.empty(fine.shape, np.uint8)
        for rows in strips(fine.shape):
            fine[rows], count[rows] = self._strip(
                band, members, [n[rows] for n in numbers],
                [None if c is None else c[rows] for c in covered])
        coarse = block_mean(fine, self.aggregate)
        value = to_db(coarse) if self.kind == "sar" else coarse
        return value, aggregate_count(count, self.aggregate)

    def _strip(
        self, band: str, members: Sequence[Member], numbers: Sequence[np.ndarray],
        covered: Sequence[np.ndarray | None],
    ) -> Composite:
        passes = tuple(m.number for m in members)
        scaled = {(m.images.scale[band][m.k], m.images.offset[band][m.k]) for m in members}
        if len(scaled) == 1 and all(_in_order(m.images, n) for m, n in
                                    zip(members, numbers, strict=True)):
            missing = [n == np.uint16(m.images.source.nodata)
                       for m, n in zip(members, numbers, strict=True)]
            gaps = [bits_where(n if c is None else n | c, _U16)
                    for n, c in zip(missing, covered, strict=True)]
            return median_of_numbers(numbers, gaps, passes, *scaled.pop())
        values = [m.images.physical(band, m.k, n, c)
                  for m, n, c in zip(members, numbers, covered, strict=True)]
        return median(values, passes) if self.kind == "optical" else mean(values, passes)


def _in_order(images: Images, numbers: np.ndarray) -> bool:
    """Whether stored numbers stand in the order of their reflectances."""
    source = images.source
    return source.unit == "reflectance" and not source.twos_complement and numbers.dtype == _U16
