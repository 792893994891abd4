"""Decoded blocks of image files, held for the neighbours of a tile and for its other dates.

A tile seldom lies on the blocks of a file: without this, four tiles would decode each block. What
failed is never held, and what is held belongs to the file as it was when it was opened. What memory
has no room for, and a later tile needs, lies on disk until then.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS

from pipeline.data.handles import OpenFiles, most_open
from pipeline.data.horizon import Horizon
from pipeline.data.spill import Spill

T = TypeVar("T")

# What a strip of a few tiles needs of a year of radar, and most of it of eleven optical bands; with
# what else a map needs a process stays below 2.5 GiB. Less will do beside a disk.
HELD_BYTES = 672 << 20
_BESIDE_DISK = 3 / 4
_HEADERS = 1 << 14  # of files and overviews
_LOCKS = 256
# Strips and small blocks are decoded and held together, by so many rows, up to so many bytes.
_LEAST_ROWS, _MOST_BYTES = 256, 1 << 24


@dataclass(frozen=True)
class Grid:
    """What the header of a file, or of one of its overviews, says of its first band.

    Attributes:
        crs: as text; empty where the file states none.
        transform, width, height, dtype: of the pixels.
        block: rows and columns that are decoded together.
    """

    crs: str
    transform: Affine
    width: int
    height: int
    dtype: str
    block: tuple[int, int]

    @classmethod
    def of(cls, file: rasterio.DatasetReader) -> Grid:
        """That of an opened file."""
        rows, cols = file.block_shapes[0]
        size = rows * cols * np.dtype(file.dtypes[0]).itemsize
        rows *= max(min(-(-_LEAST_ROWS // rows), _MOST_BYTES // size), 1)
        return cls(_text(file.crs) if file.crs else "", file.transform, file.width,
                   file.height, file.dtypes[0], (rows, cols))


@lru_cache(maxsize=64)  # to find a CRS's code takes longer than to open a file
def _text(crs: CRS) -> str:
    return str(crs.to_string())


class Decoded:
    """What this process has decoded so far; threads may add at once.

    Attributes:
        seconds: of the processor, what GDAL needs to fetch a part of a file included.
        size: bytes of pixels.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.seconds, self.size = 0.0, 0

    def add(self, seconds: float, size: int) -> None:
        """Count a part of a file."""
        with self._lock:
            self.seconds += seconds
            self.size += size


DECODED = Decoded()


class BlockStore:
    """Blocks and headers by least recent use; safe to share between threads.

    A run that says what it is going to read (``expecting``) does not hold what it is done with, and
    lays on disk what it is not: by least recent use alone a wide area's blocks would drive out each
    other before they are needed again.

    Args:
        limit: bytes of pixels held.

    Attributes:
        files: of this machine, left open for their next blocks.
    """

    def __init__(self, limit: int) -> None:
        self._limit = self._most = limit
        self._bytes = 0
        self._blocks: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._headers: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._horizon: Horizon | None = None
        self._next, self._read = 0, set[int]()  # the first window that is not read, later ones
        self._ends: dict[int, list[Hashable]] = {}  # blocks by their last window
        self._awaited = set[Hashable]()  # all of these blocks
        self._spill: Spill | None = None
        self.files = OpenFiles(most_open())
        # of two threads that need one file the second finds what the first has decoded
        self._of_file = [threading.Lock() for _ in range(_LOCKS)]

    def takes(self, grid: Grid) -> bool:
        """Whether blocks of a file are held: one that would drive out all others is not."""
        rows, cols = grid.block
        return rows * cols * np.dtype(grid.dtype).itemsize <= self._limit // 8

    def locked(self, key: Hashable) -> threading.Lock:
        """The lock of a file."""
        return self._of_file[hash(key) % _LOCKS]

    def header(self, key: Hashable, made: Callable[[], T]) -> T:
        """What is held of a file's header, or is made now."""
        with self._lock:
            if key in self._headers:
                self._headers.move_to_end(key)
                return self._headers[key]
        found = made()
        with self._lock:
            self._headers[key] = found
            while len(self._headers) > _HEADERS:
                self._headers.popitem(last=False)
        return found

    def block(self, key: Hashable) -> np.ndarray | None:
        """Pixels of a block, if they are held."""
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
                return self._blocks[key]
            pixels = self._spill.get(key) if self._spill else None
            if pixels is not None:
                self._hold(key, pixels)
            return pixels

    def keep_block(self, key: Hashable, pixels: np.ndarray, grid: Grid, y: int, x: int) -> None:
        """Hold the block of a row and column of blocks."""
        horizon = self._horizon
        last = horizon.last(grid.crs, grid.transform, grid.block, y, x) if horizon else 0
        with self._lock:
            if horizon is not None and horizon is self._horizon and key not in self._awaited:
                self._ends.setdefault(max(last, self._next), []).append(key)
                self._awaited.add(key)
            self._hold(key, pixels)

    def _hold(self, key: Hashable, pixels: np.ndarray) -> None:
        # on disk under the same lock: what was forgotten meanwhile must not come back
        if (before := self._blocks.pop(key, None)) is not None:
            self._bytes -= before.nbytes
        self._bytes += pixels.nbytes
        self._blocks[key] = pixels
        while self._bytes > self._most:
            other, block = self._blocks.popitem(last=False)
            self._bytes -= block.nbytes
            if self._spill and other in self._awaited:
                self._spill.put(other, block)

    @contextmanager
    def expecting(self, windows: Sequence[GeoBox], folder: Path | None = None) -> Iterator[None]:
        """Hold a block only as long as one of these windows that touches it is not ``passed``.

        Args:
            windows: that will be read, about in that order.
            folder: on a disk that has room for what memory has not; None does without.
        """
        self._expect(Horizon(windows), Spill(folder) if folder else None)
        try:
            yield
        finally:
            self._expect(None, None)

    def _expect(self, horizon: Horizon | None, spill: Spill | None) -> None:
        with self._lock:
            if self._spill:
                self._spill.close()
            self._horizon, self._spill, self._next = horizon, spill, 0
            self._most = int(self._limit * _BESIDE_DISK) if spill and spill.usable else self._limit
            self._read.clear()
            self._ends.clear()
            self._awaited.clear()

    def passed(self, number: int) -> None:
        """A window was read, by its number: let go of what no later one touches."""
        with self._lock:
            self._read.add(number)
            while self._next in self._read:
                self._read.remove(self._next)
                for key in self._ends.pop(self._next, ()):
                    self._awaited.discard(key)
                    if (block := self._blocks.pop(key, None)) is not None:
                        self._bytes -= block.nbytes
                    if self._spill:
                        self._spill.drop(key)
                self._next += 1

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._blocks.clear()
            self._headers.clear()
            self._bytes = 0
            if self._spill:
                self._spill.clear()
        self.files.clear()


SHARED = BlockStore(HELD_BYTES)
