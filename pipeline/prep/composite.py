"""Acquisitions -> monthly composites, pixel by pixel; then read pixels -> map pixels.

Everything is done in strips of rows that fit into a processor's cache, with the same few operations
for all pixels: a composite costs little more than looking at its images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from pipeline.prep.network import as_codes, as_values, bits_where, middle_two

_STRIP_PX = 1 << 15  # pixels: 16-bit numbers of a month stay in the second-level cache
_NAN_BITS = np.float32(np.nan).view(np.uint32)

Images = Sequence[np.ndarray] | np.ndarray  # [N] of [Y, X]
Composite = tuple[np.ndarray, np.ndarray]  # values, NaN for gaps; number of observations, uint8


def strips(shape: Sequence[int]) -> Iterator[slice]:
    """Rows of an image, a few at a time."""
    height, width = shape
    step = max(_STRIP_PX // max(width, 1), 1)
    return (slice(row, min(row + step, height)) for row in range(0, height, step))


def median(values: Images, passes: Sequence[int] | np.ndarray) -> Composite:
    """Median of one step's images [Y, X] float32, NaN where there is no observation.

    Of an even number it is the mean of the middle two.
    """
    gaps = [bits_where(np.isnan(v), np.dtype(np.uint32)) for v in values]
    codes, gaps = merge_passes([as_codes(v) for v in values], gaps, passes)
    low, high = (as_values(c) for c in middle_two(codes, gaps))
    return _finished((low + high) * np.float32(0.5), gaps)


def median_of_numbers(
    numbers: Images, gaps: Images, passes: Sequence[int] | np.ndarray,
    scale: np.float32, offset: np.float32,
) -> Composite:
    """``median`` of images [Y, X] uint16 that have one scale and offset: bit for bit that of the
    scaled values, since scaling keeps their order, and the middle two are scaled before they are
    averaged.

    Args:
        numbers: as stored.
        gaps: uint16, all bits set where there is no observation, else 0.
        passes: of the images.
        scale, offset: value = number * scale + offset; the scale is positive.
    """
    codes, gaps = merge_passes(numbers, gaps, passes)
    low, high = middle_two(codes, gaps)
    value = low * scale + offset
    if high is not low:
        value = (value + (high * scale + offset)) * np.float32(0.5)
    return _finished(value, gaps)


def mean(values: Images, passes: Sequence[int] | np.ndarray) -> Composite:
    """Mean of one step's images [Y, X] float32, NaN where there is no observation, summed in
    float64."""
    gaps = [bits_where(np.isnan(v), np.dtype(np.uint32)) for v in values]
    bits, gaps = merge_passes([v.view(np.uint32) for v in values], gaps, passes)
    total = np.zeros(values[0].shape)
    for image, gap in zip(bits, gaps, strict=True):
        total += (image & ~gap).view(np.float32)  # 0.0 where there is none
    n = _counted(gaps)
    return _finished((total / np.maximum(n, 1)).astype(np.float32), gaps)


def merge_passes(
    codes: Images, gaps: Images, passes: Sequence[int] | np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Acquisitions of the same pass (overlapping tiles, neighbouring frames) become one.

    Args:
        codes: N arrays of unsigned numbers, or of the bits of others.
        gaps: as in ``middle_two``; items of one pass in order of preference.
        passes: [N] pass number of each acquisition.

    Returns:
        Codes and gaps of each pass, by ascending number: the first that is there of each pixel.
    """
    merged, missing = [], []
    for first, *rest in _groups(tuple(passes)):
        code, gap = codes[first], gaps[first]
        for other in rest:
            code = code ^ ((code ^ codes[other]) & gap)
            gap = gap & gaps[other]
        merged.append(code)
        missing.append(gap)
    return merged, missing


@lru_cache(maxsize=1024)  # the same for all strips and bands
def _groups(passes: tuple[int, ...]) -> list[list[int]]:
    """Acquisitions of each pass, by ascending number."""
    return [[k for k, p in enumerate(passes) if p == number] for number in sorted(set(passes))]


def aggregate(values: np.ndarray, factor: int) -> np.ndarray:
    """Mean of the valid pixels of each ``factor`` x ``factor`` block of the last two axes.

    Reflectance and linear power may be averaged; call it before decibels.
    """
    if factor == 1:
        return values
    blocks = _blocks(values, factor)
    there = ~np.isnan(blocks)
    n = there.sum((-3, -1))
    total = np.where(there, blocks, 0).sum((-3, -1), dtype=np.float64)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan).astype(np.float32)


def aggregate_count(count: np.ndarray, factor: int) -> np.ndarray:
    """Observations of a block: the most that any of its pixels has."""
    return count if factor == 1 else _blocks(count, factor).max(axis=(-3, -1))


def _counted(gaps: Sequence[np.ndarray]) -> np.ndarray:
    """Number of images that are there, pixel by pixel."""
    n = np.full_like(gaps[0], len(gaps))
    for gap in gaps:
        n += gap  # all bits set is -1
    return n


def _finished(values: np.ndarray, gaps: Sequence[np.ndarray]) -> Composite:
    """Values with NaN where all images are gaps, and the number of images that are none."""
    n = _counted(gaps)
    nothing = bits_where(n == 0, np.dtype(np.uint32))
    bits = values.view(np.uint32)
    bits ^= (bits ^ _NAN_BITS) & nothing
    return values, np.minimum(n, 255).astype(np.uint8)


def _blocks(values: np.ndarray, factor: int) -> np.ndarray:
    *lead, h, w = values.shape
    return values.reshape(*lead, h // factor, factor, w // factor, factor)
