"""Composited series -> model input. The ONE path: training samples and map pixels both take it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pipeline.spec.card import SensorCard
from pipeline.spec.context import CONTEXT as CONTEXT
from pipeline.spec.cube import Cube

Bands = Mapping[str, np.ndarray]


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
        x: [N, T, B], or images [N, T, B, H, W], float32 in the sensor's unit (dB, reflectance),
            NaN for gaps.
        bands: name of each of the B bands.
        names: features wanted.

    Returns:
        [N, T, F] or [N, T, F, H, W] float32, NaN for gaps.
    """
    by_name = {name: x[:, :, k] for k, name in enumerate(bands)}
    return np.stack([_feature(name, by_name) for name in names], axis=2)


def _feature(name: str, by_name: Bands) -> np.ndarray:
    """A band or an index over bands, float32."""
    values = by_name[name] if name in by_name else INDICES[name][1](by_name)
    return values.astype(np.float32, copy=False)


def observed(raw: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Where all features are there: (N, T) bool, of images (N, T, H, W).

    Args:
        raw: of ``features``.
        valid: (N, T) bool, the step has an observation.
    """
    image = (1,) * (raw.ndim - 3)
    return valid.reshape(*valid.shape, *image) & np.isfinite(raw).all(2)


def model_input(
    x: np.ndarray, valid: np.ndarray, months: np.ndarray, bands: Sequence[str], card: SensorCard,
    static: np.ndarray | None = None,
) -> np.ndarray:
    """Model input of composited series: z-scored features and context, gaps marked as gaps.

    Args:
        x: [N, T, B], or images [N, T, B, H, W], float32 in the sensor's unit, NaN for gaps.
        valid: [N, T] bool, the step has an observation.
        months: [T] or [N, T] month index of each step (``spec.timeline``).
        bands: name of each of the B bands.
        card: features and context, and their mean and standard deviation.
        static: [N, S] place features of ``card.static`` in their units, NaN where unknown; None
            when nothing is known of the place.

    Returns:
        [N, T, C] float32: features, ``card.context``, and with ``card.static`` the place features
        and one channel that says whether they are known. A gap is 0 (the mean) in all features
        with ``valid`` = 0, so that a network can tell it from an average observation. Of images
        [N, T, C, H, W], where a single missing pixel is 0, too, and context fills its channel.
    """
    planes = input_planes(np.moveaxis(x, 0, 2), valid.T, np.asarray(months).T, bands, card, static)
    return np.ascontiguousarray(np.moveaxis(planes, 2, 0))


def input_planes(
    x: np.ndarray, valid: np.ndarray, months: np.ndarray, bands: Sequence[str], card: SensorCard,
    static: np.ndarray | None = None,
) -> np.ndarray:
    """``model_input`` with pixels last, as a cube has them: several times faster there.

    Args:
        x: [T, B, N], or images [T, B, N, H, W].
        valid: [T, N].
        months: [T] or [T, N].
        bands, card, static: as of ``model_input``.

    Returns:
        [T, C, N] or [T, C, N, H, W] float32.
    """
    by_name = {name: x[:, k] for k, name in enumerate(bands)}
    raw = [_feature(name, by_name) for name in card.features]  # each [T, N] or [T, N, H, W]
    image = (1,) * (x.ndim - 3)  # axes of the pixels of images
    there = np.broadcast_to(valid.reshape(*valid.shape, *image), raw[0].shape).copy()
    for values in raw:
        there &= np.isfinite(values)
    extra = len(card.static) + 1 if card.static else 0
    count = len(raw) + len(card.context) + extra
    planes = np.empty((x.shape[0], count, *x.shape[2:]), np.float32)
    for k, (values, mean, std) in enumerate(zip(raw, card.mean, card.std, strict=True)):
        planes[:, k] = np.where(there, (values - np.float32(mean)) / np.float32(std), np.float32(0))
    seen = np.asarray(there.any((2, 3)) if image else there)  # [T, N]
    angle = 2 * np.pi * (np.asarray(months).reshape(len(seen), -1) % 12) / 12  # [T, 1] or [T, N]
    channels = {"valid": seen, "month_sin": np.sin(angle), "month_cos": np.cos(angle)}
    for k, name in enumerate(card.context, len(raw)):
        planes[:, k] = channels[name].reshape(*channels[name].shape, *image)
    if extra:
        place = _place(static, card, seen.shape[1])
        planes[:, -extra:] = place.reshape(*place.shape, *image)
    return planes


def _place(static: np.ndarray | None, card: SensorCard, n: int) -> np.ndarray:
    """[S + 1, N] z-scored place features and whether all are known; zero where not."""
    raw = np.full((n, len(card.static)), np.nan, np.float32) if static is None else static
    z = ((raw - np.asarray(card.static_mean, np.float32))
         / np.asarray(card.static_std, np.float32)).astype(np.float32)
    known = np.isfinite(z).all(1, keepdims=True)
    z = np.where(known, z, np.float32(0))
    return np.concatenate([z, known.astype(np.float32)], axis=1).T


def cube_planes(cube: Cube) -> tuple[np.ndarray, np.ndarray]:
    """A cube for ``input_planes``: [T, B, Y*X] values and [T, Y*X] validity, row by row."""
    t, b, h, w = cube.x.shape
    return cube.x.reshape(t, b, h * w), cube.valid.reshape(t, h * w)
