"""Which of the windows that are still to be read touch a block of an image."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

_BEYOND = 2  # pixels: of a window's smoothing, and of a file's that lie around those that are asked


class Horizon:
    """Windows that are read one after the other; safe to share between threads.

    Args:
        windows: in the order of reading, of one CRS or several.
    """

    def __init__(self, windows: Sequence[GeoBox]) -> None:
        self._lock = threading.Lock()
        self._known: dict[Hashable, int] = {}
        self._to: dict[tuple[str, str], Transformer] = {}
        found: dict[str, list[tuple[float, ...]]] = {}
        for number, window in enumerate(windows):
            box = window.pad(_BEYOND).boundingbox.bbox
            found.setdefault(str(window.crs), []).append((number, *box))
        self._places = {crs: np.array(rows) for crs, rows in found.items()}
        self._count = len(windows)

    def last(
        self, crs: str, transform: Affine, shape: tuple[int, int], row: int, col: int
    ) -> int:
        """Number of the last window that a block may be needed for; -1 where it is for none.

        Args:
            crs, transform: of the image, which is north-up.
            shape: rows and columns of its blocks.
            row, col: of the block.
        """
        key = crs, transform, shape, row, col
        with self._lock:
            if key not in self._known:
                (x0, x1), (y0, y1) = (
                    sorted(first + step * (n * side + edge)
                           for edge in (-_BEYOND, side + _BEYOND))
                    for first, step, n, side in ((transform.c, transform.a, col, shape[1]),
                                                 (transform.f, transform.e, row, shape[0])))
                self._known[key] = max((self._last_of(place, crs, (x0, y0, x1, y1))
                                        for place in self._places), default=-1)
            return self._known[key]

    def _last_of(self, place: str, crs: str, box: tuple[float, float, float, float]) -> int:
        if crs != place:
            if (crs, place) not in self._to:
                self._to[crs, place] = Transformer.from_crs(crs, place, always_xy=True)
            box = self._to[crs, place].transform_bounds(*box)
            if not np.isfinite(box).all():  # the projection cannot tell: keep it
                return self._count - 1
        number, left, bottom, right, top = self._places[place].T
        touched = (left < box[2]) & (right > box[0]) & (bottom < box[3]) & (top > box[1])
        return int(number[touched].max(initial=-1))
