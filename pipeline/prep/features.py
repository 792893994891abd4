"""Composited series -> model input. The ONE path: training samples and map pixels both take it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pipeline.spec.card import SensorCard
from pipeline.spec.cube import Cube

Bands = Mapping[str, np.ndarray]

# Appended to every step, after the features: is there an observation, and the season.
CONTEXT = ("valid", "month_sin", "month_cos")


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Normalised difference, clipped to its range: noise over dark water leaves it otherwise."""
    total = a + b
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(np.abs(total) > 1e-6, (a - b) / total, 0.0)
    return np.where(np.isnan(total), np.nan, np.clip(value, -1, 1)).astype(np.float32)


def _nir(bands: Bands) -> np.ndarray:
    return bands["B08"] if "B08" in bands else bands["nir"]


def _red(bands: Bands) -> np.ndarray:
    return bands["B04"] if "B04" in bands else bands["red"]


def _swir(bands: Bands) -> np.ndarray:
    return bands["B11"] if "B11" in bands else bands["swir16"]


# name -> (bands it needs: Sentinel-2 or Landsat or Sentinel-1 names, formula)
INDICES: dict[str, tuple[tuple[tuple[str, ...], ...], Callable[[Bands], np.ndarray]]] = {
    # cross-polarisation ratio in decibels
    "vh_vv": ((("vh", "vv"),), lambda b: b["vh"] - b["vv"]),
    # Rouse et al. 1974, NASA SP-351
    "ndvi": ((("B08", "B04"), ("nir", "red")), lambda b: _ratio(_nir(b), _red(b))),
    # Gao 1996, doi:10.1016/S0034-4257(96)00067-3 (near and short-wave infrared: vegetation water)
    "ndwi": ((("B08", "B11"), ("nir", "swir16")), lambda b: _ratio(_nir(b), _swir(b))),
    # Badgley et al. 2017, doi:10.1126/sciadv.1602244
    "nirv": (
        (("B08", "B04"), ("nir", "red")),
        lambda b: _nir(b) * _ratio(_nir(b), _red(b)),
    ),
}


def bands_needed(features: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    """Bands that the features are computed from, in the order of ``available``.

    Raises:
        KeyError: a feature is neither a band nor an index over the available bands.
    """
    need: set[str] = set()
    for name in features:
        if name in available:
            need.add(name)
            continue
        choices = INDICES[name][0] if name in INDICES else ()
        need.update(next((c for c in choices if set(c) <= set(available)), (name,)))
    if missing := need - set(available):
        raise KeyError(f"no band or index {sorted(missing)} among {list(available)}")
    return tuple(b for b in available if b in need)


def features(x: np.ndarray, bands: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Raw features of composited series.

    Args:
        x: [N, T, B] float32 in the sensor's unit (dB, reflectance), NaN for gaps.
        bands: name of each of the B bands.
        names: features wanted.

    Returns:
        [N, T, F] float32, NaN for gaps.
    """
    by_name = {name: x[..., k] for k, name in enumerate(bands)}
    return np.stack(
        [by_name[n] if n in by_name else INDICES[n][1](by_name) for n in names], axis=-1
    ).astype(np.float32)


def model_input(
    x: np.ndarray, valid: np.ndarray, months: np.ndarray, bands: Sequence[str], card: SensorCard
) -> np.ndarray:
    """Model input of composited series: z-scored features and context, gaps marked as gaps.

    Args:
        x: [N, T, B] float32 in the sensor's unit, NaN for gaps.
        valid: [N, T] bool, the step has an observation.
        months: [T] or [N, T] month index of each step (``spec.timeline``).
        bands: name of each of the B bands.
        card: features and their mean and standard deviation.

    Returns:
        [N, T, F + 3] float32. A gap is 0 (the mean) in all features with ``valid`` = 0, so that
        a network can tell it from an average observation.
    """
    raw = features(x, bands, card.features)
    seen = valid & np.isfinite(raw).all(-1)  # (N, T)
    z = (raw - np.asarray(card.mean, np.float32)) / np.asarray(card.std, np.float32)
    z = np.where(seen[..., None], z, np.float32(0))
    angle = 2 * np.pi * (np.asarray(months) % 12) / 12
    season = np.stack([np.sin(angle), np.cos(angle)], -1).astype(np.float32)  # (..., T, 2)
    season = np.broadcast_to(season, (*seen.shape, 2))
    return np.concatenate([z, seen[..., None].astype(np.float32), season], axis=-1)


def cube_pixels(cube: Cube) -> tuple[np.ndarray, np.ndarray]:
    """A cube as series: [Y*X, T, B] values and [Y*X, T] validity, row by row."""
    t, b, h, w = cube.x.shape
    x = cube.x.transpose(2, 3, 0, 1).reshape(h * w, t, b)  # (T, B, Y, X) -> (Y*X, T, B)
    valid = cube.valid.transpose(1, 2, 0).reshape(h * w, t)  # (T, Y, X) -> (Y*X, T)
    return x, valid
