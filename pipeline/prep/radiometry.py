"""Digital numbers -> physical values, by the Source's row. One module for all sensors and archives.

Optical archives give surface reflectance (unit 1), radar archives linear power: the unit that may
be averaged (decibels may not). The mask comes first, then the offset: a valid DN may become 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.spec.source import Source

# Sentinel-2 products carry BOA_ADD_OFFSET = -1000 DN from processing baseline 04.00 on
# (ESA, Sentinel-2 Products Specification Document, issue 14.9, 2022-01-25).
S2_OFFSET_SINCE = (4, 0)
S2_OFFSET = -0.1

# Red reflectance of the darkest hundredth of an image's vegetation: 0.00 to 0.06 in 57 scenes of
# 2017-2018 over Flanders, hazy ones too. With the offset missing or subtracted twice it leaves
# these bounds.
DARK_VEGETATION = (-0.03, 0.1)
_ENOUGH_VEGETATION = 500  # pixels; fewer may all be of one dry field


def scaling(
    source: Source, properties: Mapping[str, Any], asset: Mapping[str, Any]
) -> tuple[float, float]:
    """Scale and offset of one asset of one item: value = DN * scale + offset.

    Args:
        source: the row of the archive.
        properties: of the item.
        asset: the asset's fields (``raster:bands`` is read for the ``raster-bands`` rule).

    Raises:
        ValueError: the metadata that the row's rule needs is missing or malformed.
    """
    if source.offset_rule == "s2-baseline":
        text = str(properties.get("s2:processing_baseline", ""))
        try:
            major, minor = (int(part) for part in text.split("."))
        except ValueError:
            raise ValueError(f"s2:processing_baseline is {text!r}, wanted NN.NN") from None
        return source.scale, S2_OFFSET if (major, minor) >= S2_OFFSET_SINCE else 0.0
    if source.offset_rule == "raster-bands":
        try:
            if "raster:bands" in asset:
                band = asset["raster:bands"][0]
                return float(band["scale"]), float(band["offset"])
            band = {**asset, **(asset.get("bands") or [{}])[0]}  # STAC 1.1
            return float(band["raster:scale"]), float(band["raster:offset"])
        except (KeyError, IndexError, TypeError, ValueError):
            raise ValueError("raster:bands scale and offset are missing") from None
    return source.scale, source.offset


def offset_doubt(vegetation: np.ndarray, clear: int, source: Source, offset: float) -> str:
    """What an image's own pixels say against its offset; empty when nothing.

    Stated offsets have been wrong (flags of harmonised archives, dates of reprocessed scenes). A
    baseline that knows of no offset is believed, and so is any where vegetation is sparse: that of
    dry lands may be as bright.

    Args:
        vegetation: (P,) red reflectance of clear vegetation, the offset added.
        clear: number of clear pixels of any kind.
        source: the row of the archive.
        offset: that was added.
    """
    if vegetation.size < _ENOUGH_VEGETATION:
        return ""
    low, high = DARK_VEGETATION
    k = vegetation.size // 100
    darkest = float(np.partition(vegetation, k)[k])
    if offset < 0 and darkest < low:
        return f"red of vegetation is {darkest:.3f}: the offset seems to be subtracted already"
    unsure = source.offset_rule != "s2-baseline" and vegetation.size >= clear / 2
    if offset == 0 and unsure and darkest >= high:
        return f"red of vegetation is {darkest:.3f} or more: the offset seems to be still in it"
    return ""


def to_physical(
    dn: np.ndarray, source: Source, scale: np.ndarray | float, offset: np.ndarray | float
) -> np.ndarray:
    """Physical values of digital numbers, float32, NaN where there is no measurement.

    Args:
        dn: as stored, any shape and dtype; NaN counts as nodata.
        source: the row of the archive.
        scale, offset: of ``scaling``, broadcastable to ``dn``.

    Returns:
        Reflectance (unit 1) or linear backscatter power, the shape of ``dn``.
    """
    # Damaged bytes can decode to signalling NaNs and to numbers near the end of the type's range:
    # what overflows is no measurement, and not worth a warning in the middle of a run.
    with np.errstate(invalid="ignore", over="ignore"):
        missing = (dn == source.nodata) | ~np.isfinite(dn)
        value = dn.astype(np.float32)
        if source.twos_complement:
            value = np.where(value > 32767, value - 65536, value)
        if source.unit == "dn20log10":
            # dB = 20 log10(DN) + offset, hence power = DN^2 * 10^(offset / 10)
            missing |= value <= 0
            value = np.square(value) * np.power(10.0, np.asarray(offset, np.float32) / 10)
        else:
            value = value * np.asarray(scale, np.float32) + np.asarray(offset, np.float32)
            if source.unit == "dB":
                value = np.power(np.float32(10), value / 10)
            elif source.unit == "linear":
                missing |= value <= 0  # borders and noise-subtracted pixels: no logarithm exists
        value = value.astype(np.float32, copy=False)
        return np.where(missing | ~np.isfinite(value), np.float32(np.nan), value)


def to_db(power: np.ndarray) -> np.ndarray:
    """Decibels of linear power; NaN stays NaN."""
    with np.errstate(invalid="ignore"):
        return (10 * np.log10(power)).astype(np.float32)
