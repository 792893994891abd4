"""Records of a catalogue are foreign input: what an item must be before anything is made of it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import shapely
import shapely.geometry
from pystac.utils import datetime_to_str, str_to_datetime

MAX_ITEM = 1 << 22  # characters of JSON: fifty times the largest item seen
MAX_ID = 256
MAX_VERTICES = 100_000  # of an outline
_TIMES = ("datetime", "start_datetime", "end_datetime", "created", "updated")


def checked(record: dict[str, Any]) -> dict[str, Any]:
    """The record, with its times in one spelling.

    Raises:
        ValueError, TypeError, RecursionError, OverflowError, shapely.errors.ShapelyError: not a
            valid item, in words where that is likely to be met.
    """
    # strict JSON: no NaN, no half of a character, nothing too deep
    size = len(json.dumps(record, allow_nan=False, ensure_ascii=False, default=str).encode())
    if size > MAX_ITEM:
        raise ValueError(f"it is too large ({size} bytes)")
    name, properties = record.get("id"), record.get("properties")
    if not (isinstance(name, str) and 0 < len(name) <= MAX_ID and name.isprintable()):
        raise ValueError(f"its id is not a line of up to {MAX_ID} characters")
    if not isinstance(properties, dict) or not isinstance(record.get("assets"), dict):
        raise ValueError("its properties or assets are not an object")
    if not isinstance(record.get("collection"), str):
        raise ValueError("it names no collection")
    cover = properties.get("eo:cloud_cover")
    if cover is not None and not _is_number(cover):
        raise ValueError(f"its cloud cover is {str(cover)[:40]!r}")
    for key in _TIMES:
        if properties.get(key) is not None:
            properties[key] = datetime_to_str(str_to_datetime(str(properties[key])))
    _check_outline(record.get("geometry"))
    return record


def _is_number(value: Any) -> bool:
    return (isinstance(value, int | float) and not isinstance(value, bool)
            and math.isfinite(value))


def _check_outline(geometry: Any) -> None:
    if geometry is None:
        raise ValueError("it has no geometry")
    with np.errstate(all="ignore"):  # what is too large for a float is refused below
        xy = shapely.get_coordinates(shapely.geometry.shape(geometry))
    if len(xy) > MAX_VERTICES:
        raise ValueError(f"its outline has {len(xy)} vertices")
    if not len(xy) or not (np.abs(xy) <= (360, 90)).all():
        raise ValueError("its outline is empty, or not in degrees")
