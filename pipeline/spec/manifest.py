"""What a run did, tile by tile: the record that outlives it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["mapped", "nodata", "failed"]


@dataclass(frozen=True)
class TileRecord:
    """One tile.

    Attributes:
        sheet, tile: names.
        status: ``mapped`` (at least one pixel), ``nodata`` (nothing usable) or ``failed``.
        sensor: that made most of the mapped pixels (``s1+s2``: both together); empty when none
            did.
        reason: why that sensor, or why nothing.
        area_px: pixels of the tile inside the area.
        planned_px: of these, pixels that the plan gave to each sensor (``s1+s2``: to both
            together).
        mapped_px: of these, pixels with a value, per sensor that made them.
        observations: mean number of observations of the area's pixels, per sensor that was read.
        quality: pixels with a value, per quality class (``quality.tif``).
        orbits: passes of radar that touch the tile, per direction and relative orbit.
        seconds: wall time per stage.
    """

    sheet: str
    tile: str
    status: Status
    sensor: str
    reason: str
    area_px: int
    planned_px: Mapping[str, int] = field(default_factory=dict)
    mapped_px: Mapping[str, int] = field(default_factory=dict)
    observations: Mapping[str, float] = field(default_factory=dict)
    quality: Mapping[str, int] = field(default_factory=dict)
    orbits: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.sheet}/{self.tile}"


@dataclass(frozen=True)
class RunManifest:
    """The record of a run (``manifest.json``).

    Attributes:
        request: the request, as JSON.
        card: name, sha256 and feature path of the checkpoint.
        items: per sensor, and per layer of elevation and land cover: number, fingerprint,
            sources, images per platform, skipped items with reasons.
        refused: sensors not used at all, with the reason.
        unknown: layers that the checkpoint would use and that were not found, with the reason:
            the map was made as if nothing was known of the place.
        tiles: one record each.
        rules: what makes a pixel's quality class, in words.
        adapted: per sensor whose images were brought to the checkpoint's radiometry: how
            (``prep.adapt.Shift``).
        notes: whatever else is said of the map, by name (the tier of a refresh).
        files: published files, relative to the manifest.
        versions: of the code and the libraries that touch pixels.
        started, finished: ISO 8601, UTC.
        profile: what each stage took, where it was asked for.
    """

    request: Mapping[str, Any]
    card: Mapping[str, str]
    items: Mapping[str, Mapping[str, Any]]
    refused: Mapping[str, str]
    tiles: tuple[TileRecord, ...]
    unknown: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, str] = field(default_factory=dict)
    adapted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    started: str = ""
    finished: str = ""
    profile: Mapping[str, Any] = field(default_factory=dict)

    @property
    def area_px(self) -> int:
        return sum(t.area_px for t in self.tiles)

    @property
    def mapped_px(self) -> int:
        return sum(sum(t.mapped_px.values()) for t in self.tiles)

    @property
    def mapped_share(self) -> float:
        """Share of the area's pixels that have a value."""
        return self.mapped_px / max(self.area_px, 1)

    @property
    def quality(self) -> dict[str, float]:
        """Share of the mapped pixels in each quality class that occurs."""
        count: Counter[str] = Counter()
        for tile in self.tiles:
            count.update(tile.quality)
        return {name: n / max(self.mapped_px, 1) for name, n in count.items()}

    @property
    def failed(self) -> tuple[TileRecord, ...]:
        return tuple(t for t in self.tiles if t.status == "failed")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON object, with totals."""
        return {
            **vars(self),
            "tiles": [dict(vars(t)) for t in self.tiles],
            "totals": {
                "area_px": self.area_px, "mapped_px": self.mapped_px,
                "mapped_share": self.mapped_share, "tiles": len(self.tiles),
                "failed": len(self.failed), "quality": self.quality,
            },
        }

    def to_text(self) -> str:
        """``to_json`` as text, a line a tile: some hundred bytes each, and quickly written."""
        body = self.to_json()
        tiles = body.pop("tiles")
        head = json.dumps(body, indent=2, ensure_ascii=False, allow_nan=False)
        lines = ",\n".join(json.dumps(t, ensure_ascii=False, allow_nan=False) for t in tiles)
        return f'{head[:-2]},\n  "tiles": [\n{lines}\n]\n}}\n'
