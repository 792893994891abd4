"""Whether compressed blocks came through whole, by the checksum that their format carries.

A zlib stream, which is what TIFF calls deflate, ends with the Adler-32 sum of what was packed (RFC
1950, section 2.2). libtiff stops as soon as it has its pixels and does not look at it, so that a
flipped bit passes for a value. LERC checks a sum of its own; LZW, ZSTD as libtiff writes it, and
what is not compressed have none: there only the checksum that an item states can tell.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import rasterio
from rasterio.windows import Window

from pipeline.data.remote import Changed

Raw = Callable[[int, int], bytes]  # bytes of a file: from where on, and how many


def check_blocks(file: rasterio.DatasetReader, window: Window, pixels: np.ndarray, raw: Raw
                 ) -> None:
    """Compare decoded blocks with their checksums.

    Pixels are packed again as far as the sum needs it, which is far less work than unpacking; only
    a block that they do not tell all of is unpacked a second time.

    Args:
        file: opened, perhaps at an overview.
        window: of it, on whole pixels.
        pixels: (H, W) of the first band there, as the file holds them.
        raw: its bytes.

    Raises:
        Changed: a block is not what its checksum says.
    """
    packing = file.tags(ns="IMAGE_STRUCTURE")
    if packing.get("COMPRESSION") != "DEFLATE":
        return
    high, wide = file.block_shapes[0]
    samples = file.count if packing.get("INTERLEAVE") == "PIXEL" else 1
    size = high * wide * samples * pixels.dtype.itemsize
    for (y, x), first, length in _streams(file, window):
        top, left = y * high - window.row_off, x * wide - window.col_off
        inside = top >= 0 and left >= 0 and samples == 1
        block = pixels[top : top + high, left : left + wide] if inside else pixels[:0]
        stated = int.from_bytes(raw(first + length - 4, 4), "big")
        if block.shape == (high, wide) and _sum(block, packing.get("PREDICTOR")) == stated:
            continue
        if not _is_whole(raw(first, length), size):
            raise Changed(f"its block in row {y}, column {x} is not what its checksum says")


def _streams(
    file: rasterio.DatasetReader, window: Window
) -> Iterator[tuple[tuple[int, int], int, int]]:
    """Row and column, first byte and length of each block of a window that the file holds."""
    spans = (range(start // side, -(-stop // side)) for (start, stop), side
             in zip(window.toranges(), file.block_shapes[0], strict=True))
    for y, x in product(*spans):
        first, length = (file.get_tag_item(f"BLOCK_{what}_{x}_{y}", "TIFF", bidx=1)
                         for what in ("OFFSET", "SIZE"))
        if first and length:
            yield (y, x), int(first), int(length)


def _sum(block: np.ndarray, predictor: str | None) -> int:
    """Adler-32 of a block before it was packed (TIFF 6.0, section 14, and Technical Note 3)."""
    if predictor == "2":  # each value less its left neighbour, in the integers of its size
        values = block.view(f"u{block.dtype.itemsize}")
        out = values.copy()
        out[:, 1:] -= values[:, :-1]
    elif predictor == "3":  # bytes of a row, highest first, less the one before
        order = block.astype(block.dtype.newbyteorder(">")).view("u1")
        values = order.reshape(len(block), -1, block.dtype.itemsize).swapaxes(1, 2)
        values = values.reshape(len(block), -1)
        out = values.copy()
        out[:, 1:] -= values[:, :-1]
    else:
        out = block
    return zlib.adler32(out.tobytes())


def _is_whole(stream: bytes, size: int) -> bool:
    """Whether a zlib stream of up to so many bytes unpacks, its checksum included."""
    inflate = zlib.decompressobj()
    try:
        inflate.decompress(stream, size + 1)
    except zlib.error:
        return False
    return inflate.eof
