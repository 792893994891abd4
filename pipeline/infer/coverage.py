"""What the images of a sensor are expected to show of each cell of a lattice."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby

import numpy as np
import pystac
import shapely
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

from pipeline.data.items import ItemSet, when
from pipeline.spec.grid import Sheet
from pipeline.spec.timeline import Timeline

_BLOCK = 8  # cells a side that are asked about together: most lie wholly in an image, or outside


class Cells:
    """The H x W lattice cells that a sheet's window touches.

    Args:
        sheet: the window.
        side: of a cell, pixels.

    Attributes:
        top, left: lattice row and column of the first cell.
        shape: H, W.
        boxes: [H * W] in EPSG:4326, boxes around the projected corners, row by row.
    """

    def __init__(self, sheet: Sheet, side: int) -> None:
        (row0, col0), (h, w) = sheet.lattice_origin, sheet.geobox.shape
        self.top, self.left = row0 // side, col0 // side
        self.shape = ((row0 + h - 1) // side + 1 - self.top, (col0 + w - 1) // side + 1 - self.left)
        row, col = (a.ravel() for a in np.indices(self.shape))
        affine, p = sheet.geobox.affine, sheet.pixel_m
        x0, y0 = (col + self.left) * side - col0, (row + self.top) * side - row0
        x = affine.c + (x0[:, None] + np.array([0, side, 0, side])) * p  # (K, 4)
        y = affine.f - (y0[:, None] + np.array([0, 0, side, side])) * p
        lon, lat = Transformer.from_crs(sheet.epsg, 4326, always_xy=True).transform(x, y)
        low_high = lon.min(1), lat.min(1), lon.max(1), lat.max(1)
        self.boxes = shapely.box(*low_high)
        block = row // _BLOCK * -(-self.shape[1] // _BLOCK) + col // _BLOCK
        self._order = np.argsort(block, kind="stable")  # cells, block by block
        starts = np.flatnonzero(np.diff(block[self._order], prepend=-1))
        self._blocks = np.split(self._order, starts[1:])
        ends = (np.minimum, np.minimum, np.maximum, np.maximum)
        self._tree = shapely.STRtree(shapely.box(*(
            end.reduceat(v[self._order], starts) for end, v in zip(ends, low_high, strict=True))))

    def under(self, footprint: BaseGeometry) -> tuple[np.ndarray, np.ndarray]:
        """Cells that a footprint touches, and the share of each that it covers.

        Returns:
            [N] indices of ``boxes``, [N] 0 to 1.
        """
        shapely.prepare(footprint)
        whole = self._tree.query(footprint, predicate="covers")
        near = self._tree.query(footprint, predicate="intersects")
        inner, rim = self._of(whole), self._of(np.setdiff1d(near, whole))
        rim = rim[shapely.intersects(footprint, self.boxes[rim])]
        share = np.ones(rim.size)
        cut = ~shapely.covers(footprint, self.boxes[rim])
        boxes = self.boxes[rim[cut]]
        share[cut] = shapely.area(shapely.intersection(boxes, footprint)) / shapely.area(boxes)
        return np.concatenate([inner, rim]), np.concatenate([np.ones(inner.size), share])

    def _of(self, blocks: np.ndarray) -> np.ndarray:
        """Cells of some blocks."""
        return np.concatenate([self._order[:0], *(self._blocks[b] for b in blocks)])


def coverage(
    members: ItemSet, cells: Cells, timeline: Timeline
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per cell: number of items that touch it, expected number of clear steps, and [K, T] expected
    clear observations of each step.

    Items are taken as independent: a step is missed when all of its items miss it. Frames of one
    pass are one observation, however much they overlap.
    """
    items: Sequence[pystac.Item] = members.items
    steps = [timeline.step_of(when(i)) for i in items]
    clear = [1 - min(max(float(i.properties.get("eo:cloud_cover") or 0), 0), 100) / 100
             for i in items]
    k = len(cells.boxes)
    counts = np.zeros(k, int)
    missed, seen = np.ones((timeline.steps, k)), np.zeros((timeline.steps, k))

    @lru_cache(maxsize=64)  # archives state one outline for all images of a tile
    def under(outline: bytes) -> tuple[np.ndarray, np.ndarray]:
        return cells.under(shapely.from_wkb(outline))

    def of(m: int) -> tuple[int, int]:
        step = steps[m]
        return -1 if step is None else step, members.passes[m]

    for (step, _), frames in groupby(sorted(range(len(items)), key=of), key=of):
        expected = np.zeros(k)  # of the pass
        for m in frames:
            at, share = under(shapely.to_wkb(shapely.geometry.shape(items[m].geometry)))
            counts[at] += 1
            missed[step, at] *= 1 - clear[m] * share if step >= 0 else 1
            expected[at] += clear[m] * share
        if step >= 0:
            seen[step] += np.minimum(expected, 1)
    return counts, (1 - missed).sum(0), seen.T
