"""Optical acquisitions: surface reflectance seen through an atmosphere, and its quality band."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.sandbox.canopy import Canopy
from pipeline.sandbox.landscape import Ground
from pipeline.sandbox.spectra import BAND_PASS, surface
from pipeline.sandbox.weather import Sky

S2_FINE = ("B02", "B03", "B04", "B08")
_CLOUD = {"s2": 0.62, "l8": 0.60}


@dataclass(frozen=True)
class Veil:
    """What lies between the ground and the sensor, on one grid.

    Attributes:
        depth: [Y, X] cloud field minus threshold (> 0 is cloud).
        opacity: [Y, X] share of the signal that comes from cloud or haze.
        shade: [Y, X] factor of the illumination (1 = sunlit).
        shadow: [Y, X] bool, cloud shadow on the ground.
        gap: [Y, X] bool, always cloudy (the sandbox's block without Sentinel-2).
    """

    depth: np.ndarray
    opacity: np.ndarray
    shade: np.ndarray
    shadow: np.ndarray
    gap: np.ndarray


def veil(sky: Sky, x: np.ndarray, y: np.ndarray, gap: np.ndarray) -> Veil:
    """The veil over places of the local plane (metres).

    Args:
        sky: of the acquisition.
        x, y: [Y, X] places.
        gap: [Y, X] bool, pixels that are always cloudy.
    """
    depth = np.where(gap, np.float32(1), sky.depth(x, y))
    cloud = np.clip(depth / 0.45, 0, 1) * np.float32(0.96)
    dark = np.clip(sky.shadow_depth(x, y) / 0.3, 0, 1)
    opacity = np.maximum(cloud, sky.hazy(x, y))
    return Veil(depth, opacity.astype(np.float32), (1 - 0.6 * dark).astype(np.float32),
                dark > 0.25, gap)


def block_mean(a: np.ndarray, n: int) -> np.ndarray:
    """Mean of n x n blocks."""
    h, w = a.shape
    return a.reshape(h // n, n, w // n, n).mean(axis=(1, 3), dtype=np.float32)


def observe(
    ground: Ground, state: Canopy, over: Veil, sensor: str, band: str, coarse: int,
    light: float, noise: float, rng: np.random.Generator,
) -> np.ndarray:
    """Surface reflectance as the archive holds it: mixture, shadow, cloud, noise.

    Args:
        ground, state, over: of the 10 m grid.
        sensor, band: which band.
        coarse: 10 m pixels along one side of a pixel of the band; 1 for none.
        light: error of the illumination correction, a factor near 1.
        noise: standard deviation of the additive noise, reflectance.
        rng: of the band.

    Returns:
        [Y / coarse, X / coarse] float32, unit 1.
    """
    rho = surface(ground, state, sensor, band) * (over.shade * np.float32(light))
    centre = BAND_PASS[sensor][band][0]
    bright = np.float32(_CLOUD[sensor] * (1.0 if centre < 1.3 else 0.62))  # ice absorbs in SWIR
    rho = rho + over.opacity * (bright * (np.float32(0.8) + np.float32(0.25) * np.clip(
        over.depth, 0, 1.5)) - rho)
    if coarse > 1:
        rho = block_mean(rho, coarse)
    spread = np.float32(noise) + np.float32(0.012) * np.abs(rho)
    return rho + spread * rng.standard_normal(rho.shape, dtype=np.float32)


def scene_classes(
    ground: Ground, state: Canopy, over: Veil, blind: bool, cirrus: bool
) -> np.ndarray:
    """Sentinel-2 scene classification at 20 m, uint8.

    Args:
        ground, state, over: of the 10 m grid.
        blind: an older processor, that misses thin cloud.
        cirrus: thin cloud is called cirrus (10) rather than medium probability (8).
    """
    depth, opacity = block_mean(over.depth, 2), block_mean(over.opacity, 2)
    green, water = block_mean(state.green, 2), block_mean(state.water, 2)
    paved, shadow = block_mean(state.paved, 2), block_mean(over.shadow.astype(np.float32), 2)
    scl = np.where(green > 0.42, 4, 5).astype(np.uint8)
    scl[paved > 0.45] = 7
    scl[water > 0.5] = 6
    scl[shadow > 0.5] = 3
    thin = (depth > 0.0) & (opacity > (0.22 if blind else 0.08))
    scl[thin] = 10 if cirrus else 8
    scl[opacity > 0.5] = 9
    return scl


# Bits of QA_PIXEL, Landsat Collection 2 (USGS LSDS-1619, table 6-2)
_FILL, _DILATED, _CIRRUS, _CLOUD_BIT, _SHADOW, _CLEAR, _WATER = (
    1 << bit for bit in (0, 1, 2, 3, 4, 6, 7))
_LOW = sum(1 << b for b in (8, 10, 12, 14))  # all four confidences "low"
_HIGH_CLOUD, _HIGH_SHADOW, _HIGH_CIRRUS = 0b10 << 8, 0b10 << 10, 0b10 << 14  # low + these = high


def qa_pixel(state: Canopy, over: Veil, fill: np.ndarray) -> np.ndarray:
    """Landsat Collection 2 QA_PIXEL at 30 m, uint16.

    Args:
        state, over: of the 10 m grid.
        fill: [Y, X] bool at 30 m, no measurement.
    """
    depth, opacity = block_mean(over.depth, 3), block_mean(over.opacity, 3)
    cloud = (depth > 0) & (opacity > 0.10)
    cirrus = cloud & (opacity < 0.2)
    rim = ~cloud & (depth > -0.18)
    shadow = (block_mean(over.shadow.astype(np.float32), 3) > 0.5) & ~cloud
    qa = np.full(depth.shape, _LOW | _CLEAR, np.uint16)
    qa[block_mean(state.water, 3) > 0.5] |= _WATER
    qa[shadow] |= _SHADOW | _HIGH_SHADOW
    qa[rim] |= _DILATED
    qa[cloud] |= _CLOUD_BIT | _HIGH_CLOUD
    qa[cirrus] |= _CIRRUS | _HIGH_CIRRUS
    qa[cloud | rim] &= np.uint16(0xFFFF ^ _CLEAR)
    qa[fill] = _FILL
    return qa


def encode(rho: np.ndarray, scale: float, offset: float) -> np.ndarray:
    """Reflectance -> digital number: ``(rho - offset) / scale`` as uint16; 0 is kept for nodata."""
    dn = np.rint((rho - np.float32(offset)) / np.float32(scale))
    return np.clip(dn, 1, 65535).astype(np.uint16)
