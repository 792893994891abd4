"""An archive that grows: the sandbox's items as a catalogue of what was there on a given day."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from pipeline.sandbox.geo import footprint

TODAY = "today.json"
_VIEW = "view"  # folder of the day's collections, below the archive
_LATENCY = {"sentinel-1-rtc": 0.4, "sentinel-2-l2a": 0.3, "landsat-c2-l2": 9.0}  # days
_REPROCESSED = timedelta(days=60)  # made so much later than seen: another version
_GRID = 6  # pixels of 10 m: edges that pixels of 20, 30 and 60 m share


@dataclass(frozen=True)
class Entry:
    """One item: where it lies (relative to the archive), and from when until when."""

    path: str
    collection: str
    seen: datetime
    comes: datetime
    goes: datetime | None = None
    again: bool = False  # a later version of a scene

    @property
    def id(self) -> str:
        return Path(self.path).stem


class Archive:
    """A static catalogue on disk whose items come and go.

    Args:
        folder: with ``catalog.json``; the day's view is written beside it, as links resolve only
            within the catalogue's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.collections = [p.parent.name for p in sorted(folder.glob("*/collection.json"))]
        entries = [self._entry(p) for p in sorted(folder.glob("*/*/*.json"))]
        self.entries = {e.id: e for e in entries if e is not None}

    def _entry(self, path: Path) -> Entry | None:
        item = json.loads(path.read_text())
        collection, told = path.parent.parent.name, item["properties"]
        if item.get("type") != "Feature" or path.parent.name == _VIEW:
            return None
        text = told.get("datetime") or told.get("start_datetime")
        seen = datetime.fromisoformat(text)
        seen = seen if seen.tzinfo else seen.replace(tzinfo=UTC)
        made = told.get("s2:generation_time")
        again = made is not None and datetime.fromisoformat(made) - seen > _REPROCESSED
        static = collection not in _LATENCY and collection.startswith(("cop", "esa"))
        comes = datetime.min.replace(tzinfo=UTC) if static else seen + timedelta(
            days=_LATENCY.get(collection, 0.5))
        if again:
            comes = datetime.max.replace(tzinfo=UTC)  # until told otherwise
        return Entry(str(path.relative_to(self.folder)), collection, seen, comes, None, again)

    def there(self, now: datetime) -> list[Entry]:
        """What the catalogue lists at a time."""
        return [e for e in self.entries.values()
                if e.comes <= now and (e.goes is None or now < e.goes)]

    def comes(self, name: str, when: datetime) -> None:
        """From when on an item is listed."""
        self.entries[name] = replace(self.entries[name], comes=when)

    def goes(self, name: str, when: datetime) -> None:
        """From when on an item is listed no more."""
        self.entries[name] = replace(self.entries[name], goes=when)

    def view(self, now: datetime, broken: bool = False) -> Path:
        """Write the catalogue of a time; returns its path. A broken one is cut short."""
        folder = self.folder / _VIEW
        folder.mkdir(exist_ok=True)
        for name in self.collections:
            told = json.loads((self.folder / name / "collection.json").read_text())
            told["links"] = [{"rel": "item", "href": f"../{e.path}"} for e in self.there(now)
                             if e.collection == name]
            _put(folder / f"{name}.json", json.dumps(told))
        top = {"type": "Catalog", "id": "archive", "stac_version": "1.0.0",
               "description": "growing",
               "links": [{"rel": "child", "href": f"./{_VIEW}/{name}.json"}
                         for name in self.collections]}
        text = json.dumps(top)
        _put(self.folder / TODAY, text[: len(text) // 2] if broken else text)
        return self.folder / TODAY

    def edit(self, name: str, **properties: Any) -> None:
        """Change properties of an item."""
        path = self.folder / self.entries[name].path
        item = json.loads(path.read_text())
        item["properties"] |= properties
        _put(path, json.dumps(item))

    def crop(self, name: str, rows: tuple[float, float], cols: tuple[float, float] = (0, 1)
             ) -> None:
        """Keep only a part of a scene: shares of its height, from the north, and of its width."""
        path = self.folder / self.entries[name].path
        item = json.loads(path.read_text())
        outline: GeoBox | None = None
        for asset in item["assets"].values():
            file = path.parent / asset["href"]
            if file.suffix.lower() not in (".tif", ".tiff"):
                continue
            grid = _crop_file(file, rows, cols)
            asset["proj:shape"], asset["proj:transform"] = list(grid.shape), list(grid.affine)[:6]
            asset.pop("proj:bbox", None)
            if outline is None or grid.resolution.x < outline.resolution.x:
                outline = grid
        assert outline is not None
        whole = footprint(outline)
        item["geometry"], item["bbox"] = shapely.geometry.mapping(whole), list(whole.bounds)
        for key in ("proj:shape", "proj:transform", "proj:bbox"):
            item["properties"].pop(key, None)
        _put(path, json.dumps(item))


def _crop_file(file: Path, rows: tuple[float, float], cols: tuple[float, float]) -> GeoBox:
    with rasterio.open(file) as whole:
        unit = max(round(_GRID * 10 / whole.res[0]), 1)
        (top, bottom), (left, right) = (
            sorted(round(share * n / unit) * unit for share in pair)
            for pair, n in ((rows, whole.height), (cols, whole.width)))
        window = Window(left, top, max(min(right, whole.width) - left, unit),
                        max(min(bottom, whole.height) - top, unit))
        profile = {"driver": "GTiff", "count": 1, "dtype": whole.dtypes[0],
                   "nodata": whole.nodata, "crs": whole.crs, "compress": "deflate",
                   "transform": Affine(whole.res[0], 0, whole.bounds.left + left * whole.res[0],
                                       0, -whole.res[1], whole.bounds.top - top * whole.res[1]),
                   "height": window.height, "width": window.width}
        values, crs = whole.read(1, window=window), whole.crs.to_epsg()
    part = file.with_suffix(".part")
    with rasterio.open(part, "w", **profile) as out:
        out.write(values, 1)
    os.replace(part, file)
    return GeoBox(values.shape, profile["transform"], crs)


def names(entries: Iterable[Entry]) -> set[str]:
    """Ids of entries."""
    return {e.id for e in entries}


def _put(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    os.replace(part, path)
