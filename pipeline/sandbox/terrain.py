"""Terrain of the simulated world, and what a global land-cover product would make of its covers."""

from __future__ import annotations

import numpy as np

from pipeline.sandbox.noise import smooth

# Codes of ESA WorldCover. By its legend permanent woody crops are shrubs or trees, and land under
# sown fodder is cropland.
_CODE = {
    "winter cereal": 40, "maize": 40, "rapeseed": 40, "sunflower": 40, "alfalfa": 40,
    "pasture": 30, "hay meadow": 30, "dry grassland": 30, "vineyard": 20, "lavender": 20,
    "deciduous forest": 10, "evergreen forest": 10, "shrubland": 20, "water": 80, "built-up": 50,
    "track": 60,
}
_SWAPPED = {40: 30, 30: 40, 10: 20, 20: 10}  # what such products confuse


def ridges(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Ridges (above 0) and hollows about a kilometre apart, standard normal: high ground is the
    dry ground (``Ground.exposure``), so that elevation tells of fuel moisture."""
    return smooth(x, y, 900, seed, 31, octaves=2)


def elevation(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Metres above the geoid, float32, at places of the local plane."""
    hills = smooth(x, y, 4000, seed, 61, octaves=2)
    return (520 + 90 * hills + 35 * ridges(x, y, seed)).astype(np.float32)


def landcover(cover: np.ndarray, names: tuple[str, ...], x: np.ndarray, y: np.ndarray, seed: int,
              wrong: float) -> np.ndarray:
    """WorldCover codes of covers, uint8, mistaken in patches.

    Args:
        cover: [Y, X] codes into ``names``.
        names: of the covers.
        x, y: [Y, X] place in the local plane, metres.
        seed: of the sandbox.
        wrong: patches where a standard normal field exceeds it hold the class that the true one
            is confused with.
    """
    code = np.array([_CODE[name] for name in names], np.uint8)
    mistaken = np.array([_SWAPPED.get(int(c), int(c)) for c in code], np.uint8)
    return np.where(smooth(x, y, 150, seed, 62) > wrong, mistaken[cover], code[cover])
