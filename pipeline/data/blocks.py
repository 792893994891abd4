"""Decoded blocks of image files, held for the neighbours of a tile and for its other dates.

A tile seldom lies on the blocks of a file: without this, four tiles would decode each block. What
failed is never held, and what is held belongs to the file as it was when it was opened.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import groupby, product
from typing import Any, TypeVar

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window

from pipeline.data.handles import OpenFiles, most_open
from pipeline.data.intact import Raw, check_blocks

T = TypeVar("T")

# Two rows of blocks of a year of ten bands over a few tiles; with what else a map needs a process
# stays below 2.5 GiB.
HELD_BYTES = 768 << 20
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

    Args:
        limit: bytes of pixels held.

    Attributes:
        files: of this machine, left open for their next blocks.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._blocks: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._headers: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()
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
            return self._blocks.get(key)

    def keep_block(self, key: Hashable, pixels: np.ndarray) -> None:
        """Hold a block."""
        with self._lock:
            self._bytes += pixels.nbytes
            self._blocks[key] = pixels
            while self._bytes > self._limit:
                self._bytes -= self._blocks.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._blocks.clear()
            self._headers.clear()
            self._bytes = 0
        self.files.clear()


@dataclass(frozen=True)
class HeldFile:
    """An image, or an overview of it, whose file is opened only for what is not held of it.

    Attributes:
        opened: gives the opened file, or the overview of that index.
        sound: raises what went wrong while GDAL was reading and did not say.
        raw: bytes of the file, to compare its blocks with their checksums; None where they cannot
            be had (buckets).
        store: of blocks; None holds nothing.
        key: of the file as it is now; None where that cannot be known, and nothing is held.
        level: index of the overview; None is the image itself.
        together: neighbouring blocks are best asked for at once.
    """

    opened: Callable[[int | None], rasterio.DatasetReader]
    sound: Callable[[], None]
    raw: Raw | None = None
    store: BlockStore | None = None
    key: Hashable = None
    level: int | None = None
    together: bool = False

    @cached_property
    def grid(self) -> Grid:
        """Its header."""
        return self._known("grid", lambda: Grid.of(self.opened(self.level)))

    @cached_property
    def overviews(self) -> tuple[int, ...]:
        """Factors of the image's overviews, finest first."""
        return self._known("overviews", lambda: tuple(self.opened(self.level).overviews(1)))

    def overview(self, level: int) -> HeldFile:
        """One of its overviews."""
        return replace(self, level=level)

    def read(self, window: Window) -> np.ndarray:
        """[Y, X] pixels of a window that lies within; they may be those that are held: do not
        write into them."""
        if self.store is None or self.key is None or not self.store.takes(self.grid):
            return self._pixels(window)
        rows, cols = (slice(start, stop) for start, stop in window.toranges())
        down, across = (range(part.start // side, -(-part.stop // side))
                        for part, side in zip((rows, cols), self.grid.block, strict=True))
        with self.store.locked(self.key):
            held = self._blocks(self.store, down, across)
        high, wide = self.grid.block
        out = np.empty((window.height, window.width), self.grid.dtype)
        for (y, x), block in held.items():
            top, left = y * high - rows.start, x * wide - cols.start
            part = block[max(-top, 0) : window.height - top, max(-left, 0) : window.width - left]
            if len(held) == 1:
                return part
            top, left = max(top, 0), max(left, 0)
            out[top : top + part.shape[0], left : left + part.shape[1]] = part
        return out

    def _known(self, what: str, made: Callable[[], T]) -> T:
        """Something of the header, held if it may be."""
        def checked() -> T:
            found = made()
            self.sound()
            return found

        if self.store is None or self.key is None:
            return checked()
        return self.store.header((self.key, self.level, what), checked)

    def _blocks(
        self, store: BlockStore, down: range, across: range
    ) -> dict[tuple[int, int], np.ndarray]:
        """Blocks by row and column, decoded where they are not held."""
        held = {at: block for at in product(down, across)
                if (block := store.block((self.key, self.level, *at))) is not None}
        missing = [(y, tuple(x for x in across if (y, x) not in held)) for y in down]
        for columns, lines in groupby(missing, key=lambda line: line[1]):
            ys = [y for y, _ in lines]
            for xs in _runs(columns):
                held |= self._decoded(store, ys, xs)
        return held

    def _decoded(
        self, store: BlockStore, ys: Sequence[int], xs: Sequence[int]
    ) -> dict[tuple[int, int], np.ndarray]:
        """A rectangle of blocks: from the web asked for at once, from disk each into its own
        memory."""
        if not self.together and len(ys) * len(xs) > 1:
            return {at: block for y, x in product(ys, xs)
                    for at, block in self._decoded(store, [y], [x]).items()}
        high, wide = self.grid.block
        top, left = ys[0] * high, xs[0] * wide
        pixels = self._pixels(Window(
            left, top, min((xs[-1] + 1) * wide, self.grid.width) - left,
            min((ys[-1] + 1) * high, self.grid.height) - top))
        found = {}
        for y, x in product(ys, xs):
            part = pixels[(y - ys[0]) * high :, (x - xs[0]) * wide :][:high, :wide]
            block = part.copy() if len(ys) * len(xs) > 1 else part  # not a view of all of them
            block.flags.writeable = False
            store.keep_block((self.key, self.level, y, x), block)
            found[y, x] = block
        return found

    def _pixels(self, window: Window) -> np.ndarray:
        """What the file holds there, and nothing else."""
        file = self.opened(self.level)
        begun = time.thread_time()
        pixels = file.read(1, window=window)
        DECODED.add(time.thread_time() - begun, pixels.nbytes)
        self.sound()
        if self.raw is not None:
            check_blocks(file, window, pixels, self.raw)
        return pixels


def _runs(numbers: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive numbers, together."""
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        yield [number for _, number in run]


SHARED = BlockStore(HELD_BYTES)
