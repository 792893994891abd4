"""An image file read block by block: each is decoded once for all that ask for a part of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, product
from typing import TypeVar

import numpy as np
import rasterio
from rasterio.windows import Window

from pipeline.data.block_store import DECODED, BlockStore, Grid
from pipeline.data.intact import Raw, check_blocks

T = TypeVar("T")


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
            store.keep_block((self.key, self.level, y, x), block, self.grid, y, x)
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
