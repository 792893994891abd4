"""Random numbers that depend on a place, not on a grid: any grid samples one and the same world."""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# Standard deviation of smoothed uniform lattice noise: sqrt(1/12) * E[(1-s)^2 + s^2] with
# s = 3t^2 - 2t^3, whose expectation is 26/35 along each of the two axes.
_LATTICE_STD = np.sqrt(1 / 12) * 26 / 35


def mix(*keys: np.ndarray | int) -> np.ndarray:
    """64-bit hash of integers (SplitMix64's finaliser, Steele et al. 2014,
    doi:10.1145/2714064.2660195, applied key by key), broadcast over arrays."""
    state = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for key in keys:
            part = np.asarray(key)
            part = part if part.dtype == np.uint64 else part.astype(np.int64).view(np.uint64)
            z = (state ^ part) + _GOLDEN
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = z ^ (z >> np.uint64(31))
    return state


def uniform(*keys: np.ndarray | int) -> np.ndarray:
    """Numbers in [0, 1), a pure function of the keys."""
    return (mix(*keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def chance(*keys: int) -> float:
    """One number in [0, 1)."""
    return float(uniform(*keys)[0])


def smooth(
    x: np.ndarray, y: np.ndarray, scale_m: float, *keys: int, octaves: int = 1
) -> np.ndarray:
    """Smooth random field: value noise with mean 0 and standard deviation 1, within about +-2.3.

    Args:
        x, y: place in the local plane, metres, same shape.
        scale_m: lattice spacing of the first octave; each further one has half of it.
        keys: what the field is a function of, besides the place.
        octaves: number of octaves, amplitudes halving.

    Returns:
        float32, the shape of ``x``.
    """
    total = np.zeros(np.shape(x), np.float32)
    weight = 0.0
    for k in range(octaves):
        total += 0.5**k * _lattice(x, y, scale_m / 2**k, *keys, k)
        weight += 0.25**k
    return total / np.float32(np.sqrt(weight))


def _lattice(x: np.ndarray, y: np.ndarray, step: float, *keys: int) -> np.ndarray:
    u, v = x / step, y / step
    i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    s, t = (_ease((a - b).astype(np.float32)) for a, b in ((u, i), (v, j)))
    i0, j0 = i.min(), j.min()
    cols, rows = np.arange(i0, i.max() + 2), np.arange(j0, j.max() + 2)
    nodes = uniform(*keys, cols[None, :], rows[:, None]).astype(np.float32)
    nodes = (nodes - np.float32(0.5)) / np.float32(_LATTICE_STD)
    flat = nodes.ravel()
    at = (j - j0) * cols.size + (i - i0)
    low = flat[at] * (1 - s) + flat[at + 1] * s
    high = flat[at + cols.size] * (1 - s) + flat[at + cols.size + 1] * s
    return low * (1 - t) + high * t


def _ease(t: np.ndarray) -> np.ndarray:
    return t * t * (3 - 2 * t)
