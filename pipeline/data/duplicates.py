"""Reprocessed images: of several versions of one acquisition the newest is kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pystac

from pipeline.data.items import when
from pipeline.data.sources import SOURCES, source_of

_BASELINE_TAIL = re.compile(r"_N\d\d\.\d\d$")
_STRIP_START = re.compile(r"_S(\d{8}T\d{6})_")
_TIERS = ("RT", "T2", "T1")  # Landsat: real time, then tier 2, then tier 1 geometry


def newest(
    items: Sequence[pystac.Item], sensor: str
) -> tuple[list[pystac.Item], list[tuple[str, str]]]:
    """Keep the newest version of each acquisition.

    One acquisition is one datatake and tile (Sentinel-2), platform, date, path and row (Landsat),
    or platform and start second (others). The highest processing baseline wins, then the better
    tier, then the latest generation, then the source row that stands first.

    Args:
        items: of one sensor, each with a row in the source table.
        sensor: sensor key.

    Returns:
        The items kept, and (id, reason) of the others.
    """
    groups: dict[tuple[str, ...], list[pystac.Item]] = {}
    for item in items:
        groups.setdefault(acquisition(item), []).append(item)
    kept: list[pystac.Item] = []
    dropped: list[tuple[str, str]] = []
    for versions in groups.values():
        best = max(_baseline(v) for v in versions)
        # Two data strips of one datatake may each hold a part of a tile: both are needed.
        winners: dict[str, pystac.Item] = {}
        for item in sorted((v for v in versions if _baseline(v) == best),
                           key=lambda v: _rank(v, sensor)):
            winners[_strip(item)] = item  # the last one is the newest
        chosen = list(winners.values())
        kept += chosen
        for item in versions:
            if not any(item is winner for winner in chosen):
                winner = winners.get(_strip(item), chosen[-1])
                dropped.append((item.id, f"superseded by {winner.id}"))
    return kept, dropped


def acquisition(item: pystac.Item) -> tuple[str, ...]:
    """What names an acquisition: all versions of it share this."""
    p = item.properties
    platform = str(p.get("platform") or p.get("constellation") or "").lower().replace("_", "-")
    if datatake := p.get("s2:datatake_id"):
        return (_BASELINE_TAIL.sub("", str(datatake)), _tile(p))
    if "landsat:wrs_path" in p:
        date = when(item).date().isoformat()
        return (platform, date, str(p["landsat:wrs_path"]), str(p.get("landsat:wrs_row")))
    start = item.common_metadata.start_datetime or when(item)
    return (platform, start.strftime("%Y%m%dT%H%M%S"), _tile(p), item.collection_id or "")


def _tile(p: dict[str, Any]) -> str:
    """MGRS tile without prefix, as providers spell it differently; empty when not stated."""
    code = str(p.get("s2:mgrs_tile") or p.get("grid:code") or "")
    return code.removeprefix("MGRS-").removeprefix("T")


def _strip(item: pystac.Item) -> str:
    """Sensing start of the data strip, where the item names one."""
    found = _STRIP_START.search(str(item.properties.get("s2:datastrip_id", "")))
    return found[1] if found else ""


def _baseline(item: pystac.Item) -> tuple[int, ...]:
    text = str(item.properties.get("s2:processing_baseline", ""))
    return tuple(int(part) for part in text.split(".")) if re.fullmatch(r"\d+\.\d+", text) else ()


def _rank(item: pystac.Item, sensor: str) -> tuple[int, datetime, int, datetime, str]:
    p = item.properties
    tier = str(p.get("landsat:collection_category", ""))
    made = _time(p.get("s2:generation_time") or p.get("landsat:product_generated"), item)
    row = source_of(item, sensor)
    place = -SOURCES.index(row) if row else -len(SOURCES)
    published = _time(p.get("updated") or p.get("created"), item)
    return (_TIERS.index(tier) if tier in _TIERS else -1, made, place, published, item.id)


def _time(text: Any, item: pystac.Item) -> datetime:
    """A metadata time; the acquisition's own when it is not stated or not a time."""
    try:
        parsed = datetime.fromisoformat(str(text))
    except ValueError:
        return when(item)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=when(item).tzinfo)
