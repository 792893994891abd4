"""Sorting networks over whole arrays: the middle of a stack without sorting each pixel.

A sort of each pixel branches on its values; a network (Batcher 1968, odd-even mergesort,
doi:10.1145/1468075.1468121) is the same few minima and maxima for all pixels, at the speed of the
caches. Gaps cost no index of each pixel's own: they are given the highest and the lowest number in
turn, and so leave the middle of the other values in the middle of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

_SIGN = np.uint32(1 << 31)

Comparator = tuple[int, int, bool, bool]  # wires, and whether minimum and maximum are wanted


def middle_two(
    codes: Sequence[np.ndarray], gaps: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper middle of each pixel's values without gaps; they are one of an odd number.

    Args:
        codes: N arrays of one shape and unsigned type.
        gaps: N arrays of that type: all bits set where the value does not count, else 0.

    Returns:
        Two arrays; anything where all are gaps.
    """
    odd = np.zeros_like(codes[0])  # all bits set where an odd number of values were gaps
    rows = []
    for code, gap in zip(codes, gaps, strict=True):
        rows.append((code | gap) ^ (gap & odd))
        odd ^= gap
    n, half = len(rows), len(rows) // 2
    if n == 1:
        return rows[0], rows[0]
    sort(rows, (half - 1, half))
    # where a gap has no counterpart, the middle lies half a place further down
    below, middle = rows[half - 1], rows[half]
    other = middle ^ ((middle ^ below) & odd)
    return (other, middle) if n % 2 else (below, other)


def sort(rows: list[np.ndarray], wanted: tuple[int, ...]) -> None:
    """Sort arrays against each other, pixel by pixel, in place.

    Args:
        rows: N arrays, which are overwritten.
        wanted: places that must be right afterwards; the others hold anything.
    """
    spare = np.empty_like(rows[0])
    for i, j, low, high in network(len(rows), wanted):
        a, b = rows[i], rows[j]
        if low and high:
            np.minimum(a, b, out=spare)
            np.maximum(a, b, out=b)
            rows[i], spare = spare, a
        elif low:
            np.minimum(a, b, out=a)
        else:
            np.maximum(a, b, out=b)


@lru_cache(maxsize=256)
def network(n: int, wanted: tuple[int, ...]) -> tuple[Comparator, ...]:
    """Batcher's network of ``n`` wires without what the wanted places do not depend on."""
    pairs = []
    p = 1
    while p < n:
        k = p
        while k >= 1:
            pairs += [
                (i + j, i + j + k)
                for j in range(k % p, n - k, 2 * k) for i in range(min(k, n - j - k))
                if (i + j) // (2 * p) == (i + j + k) // (2 * p)
            ]
            k //= 2
        p *= 2
    needed, kept = set(wanted), []
    for i, j in reversed(pairs):
        if i in needed or j in needed:
            kept.append((i, j, i in needed, j in needed))
            needed |= {i, j}
    return tuple(reversed(kept))


def bits_where(flags: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """All bits set where a flag is, else 0."""
    return np.negative(flags.view(np.uint8).astype(dtype))


def as_codes(values: np.ndarray) -> np.ndarray:
    """uint32 numbers in the order of float32 values."""
    bits = values.view(np.uint32)
    return bits ^ ((bits.view(np.int32) >> 31).view(np.uint32) | _SIGN)


def as_values(codes: np.ndarray) -> np.ndarray:
    """The float32 values of ``as_codes``."""
    return (codes ^ (((codes >> np.uint32(31)) - np.uint32(1)) | _SIGN)).view(np.float32)
