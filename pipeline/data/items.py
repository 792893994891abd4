"""ItemSet: the images of one sensor that a search found, and their frozen form on disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import shapely
import shapely.geometry
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pyproj.exceptions import CRSError
from shapely.geometry.base import BaseGeometry

from pipeline.data.files import atomic_write_json
from pipeline.data.hrefs import scrubbed, shown
from pipeline.data.rasters import ImageFile
from pipeline.data.sources import assets_needed, coarsest_m, source_of
from pipeline.data.web import trusted_hosts
from pipeline.spec.errors import DataTrouble
from pipeline.spec.sensors import sensor
from pipeline.spec.source import Source

SCHEMA = 2

# Two looks at one place from one satellite are an orbit (about 100 minutes) apart or more.
_SAME_PASS = timedelta(minutes=30)

# Footprints are straight lines in degrees where the image's edge is straight in metres: an image
# may reach this far (degrees) beyond its stated outline. It is read anyway, and finds nothing.
_FOOTPRINT_SLACK = 0.05
_BEND = 0.02  # of an image's size; a Sentinel-1 frame at 60 degrees bends by 0.01
_PIXEL_SLACK = 0.001  # degrees, for outlines taken from the pixel grid itself
_EPSG = re.compile(r"(?i)epsg:\d{4,6}")  # other texts may be programs for PROJ


@dataclass(frozen=True)
class ItemSet:
    """Images of one sensor, or tiles of one layer.

    Attributes:
        sensor: sensor key, or layer of ``spec.context``.
        catalog: what was searched (URL or path).
        items: deduplicated, by time then id; absolute, unsigned hrefs; only assets that the
            source table names.
        skipped: id and reason of every image that was found and left out.
    """

    sensor: str
    catalog: str
    items: tuple[pystac.Item, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of what the images are (not of where their files lie)."""
        body = [
            [i.collection_id, i.id, as_floats(i.properties),
             sorted((k, shown(a.href).rsplit("/", 1)[-1]) for k, a in i.assets.items())]
            for i in self.items
        ]
        text = json.dumps([self.sensor, body], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """Row of the source table of each item."""
        rows = tuple(source_of(item, self.sensor) for item in self.items)
        return tuple(row for row in rows if row is not None)

    @cached_property
    def passes(self) -> tuple[int, ...]:
        """Pass number of each item: neighbouring frames and tiles of one overflight share it."""
        return pass_numbers(self.items)

    def usable(self, bands: Sequence[str]) -> ItemSet:
        """The items that have all assets that these bands (and the clear mask) need."""
        keep, skipped = [], list(self.skipped)
        for item, source in zip(self.items, self.sources, strict=True):
            needed = assets_needed(source, tuple(bands))
            if needed is None:
                absent = [b for b in bands if b not in source.assets]
                skipped.append((item.id, f"{source.key} has no {', '.join(absent)}"))
            elif missing := [key for key in needed if key not in item.assets]:
                skipped.append((item.id, f"lacks asset {', '.join(missing)}"))
            else:
                keep.append(item)
        if len(keep) == len(self.items):
            return self  # with what it has worked out already
        return ItemSet(self.sensor, self.catalog, tuple(keep), tuple(skipped))

    def bands(self) -> tuple[str, ...]:
        """Bands that every source of the items gives, in the sensor's order."""
        names = sensor(self.sensor).band_names
        return tuple(b for b in names if all(b in source.assets for source in self.sources))

    def file(self, index: int, key: str) -> ImageFile:
        """What is known of the file of an item's asset."""
        item, asset = self.items[index], self.items[index].assets[key]
        source = self.sources[index]
        return ImageFile(
            asset.href, item.id, source.signer,
            str(asset.extra_fields.get("file:checksum") or ""), trusted_hosts(self.catalog),
            coarsest_m(source, key),
        )

    def touching(self, geobox: GeoBox) -> tuple[int, ...]:
        """Indices of the items whose footprint may overlap a window."""
        return self.touching_each([geobox])[0]

    def touching_each(self, windows: Sequence[GeoBox]) -> list[tuple[int, ...]]:
        """``touching`` of many windows at once."""
        outlines = np.empty(len(windows), object)
        for crs, group in groupby(range(len(windows)), key=lambda k: str(windows[k].crs)):
            index = list(group)
            pixel = np.array([windows[k].resolution.x for k in index])
            bounds = np.array([windows[k].boundingbox.bbox for k in index])
            edges = shapely.segmentize(shapely.box(*bounds.T), pixel * 100)
            outlines[index] = shapely.transform(edges, _to_degrees(crs), interleaved=False)
        west, south, east, north = shapely.bounds(outlines).T
        across = east - west > 180  # its edge pixels lie across the antimeridian: ask all around
        outlines[across] = shapely.box(-180, south[across], 180, north[across])
        window, item = self._footprints.query(outlines, predicate="intersects")
        order = np.lexsort((item, window))
        ends = np.cumsum(np.bincount(window, minlength=len(windows)))
        found = np.split(item[order], ends[:-1])
        return [tuple(one.tolist()) for one in found[: len(windows)]]

    @cached_property
    def _footprints(self) -> shapely.STRtree:
        return shapely.STRtree([footprint(item) for item in self.items])


@lru_cache(maxsize=64)
def _to_degrees(crs: str) -> Callable[..., Any]:
    return Transformer.from_crs(crs, 4326, always_xy=True).transform


def as_floats(value: Any) -> Any:
    """JSON with whole numbers as floats: tables of items cannot tell 0 from 0.0."""
    if isinstance(value, dict):
        return {k: as_floats(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_floats(v) for v in value]
    return float(value) if type(value) is int and abs(value) < 2**53 else value


def footprint(item: pystac.Item) -> BaseGeometry:
    """Outline of an image in EPSG:4326: of the pixel grid that the item states, if that holds the
    item's geometry; else both with some slack (width and height are sometimes stated swapped)."""
    stated = shapely.make_valid(shapely.geometry.shape(item.geometry))
    grid = _grid_outline(item)
    if grid is None:
        return stated.buffer(_FOOTPRINT_SLACK)
    west, south, east, north = grid.bounds
    bend = _BEND * max(east - west, north - south)  # of the geometry's straight edges
    if grid.buffer(bend).covers(stated):
        return grid.buffer(_PIXEL_SLACK)
    return (stated | grid).buffer(_FOOTPRINT_SLACK)


def _grid_outline(item: pystac.Item) -> BaseGeometry | None:
    """Outline of the pixel grid that the item states; None where it states none that makes sense,
    or one across the antimeridian."""
    for fields in (item.properties, *(asset.extra_fields for asset in item.assets.values())):
        code = fields.get("proj:code", item.properties.get("proj:code"))
        shape, transform = fields.get("proj:shape"), fields.get("proj:transform")
        if not (code and shape and transform):
            continue
        try:
            if not _EPSG.fullmatch(str(code)):
                return None
            a, b, c, d, e, f = (float(v) for v in transform[:6])
            height, width = (float(v) for v in shape)
            to_lonlat = Transformer.from_crs(code, 4326, always_xy=True)
        except (TypeError, ValueError, KeyError, OverflowError, CRSError):
            return None
        # an edge that is straight in metres is curved in degrees: nine points a side
        edge = np.linspace(0, 1, 9)
        with np.errstate(all="ignore"):  # what is too large for a float, or none, is refused below
            col = width * np.concatenate([edge, np.ones(9), edge[::-1], np.zeros(9)])
            row = height * np.concatenate([np.zeros(9), edge, np.ones(9), edge[::-1]])
            lon, lat = to_lonlat.transform(a * col + b * row + c, d * col + e * row + f)
        if not (np.abs(lon) <= 360).all() or not (np.abs(lat) <= 90).all() or np.ptp(lon) >= 180:
            return None
        outline = shapely.Polygon(np.column_stack([lon, lat]))
        return outline if outline.is_valid else None
    return None


def when(item: pystac.Item) -> datetime:
    """Acquisition time (UTC); the middle of the period of a composite."""
    if item.datetime is not None:
        return item.datetime
    common = item.common_metadata
    start, end = common.start_datetime, common.end_datetime
    if start is None or end is None:
        raise ValueError(f"{item.id} has neither datetime nor start_datetime and end_datetime")
    return start + (end - start) / 2


def pass_numbers(items: Sequence[pystac.Item]) -> tuple[int, ...]:
    """Pass number of each item: same platform, less than half an hour after the one before.

    Relative orbits and UTC dates are not used: archives leave the first out, and an overflight
    near the date line crosses midnight. Composites of a period are each a pass of their own.
    """
    order = sorted(range(len(items)), key=lambda k: (_platform(items[k]), when(items[k])))
    numbers, number = [0] * len(items), -1
    before: tuple[str, datetime] | None = None
    for k in order:
        platform, time, single = _platform(items[k]), when(items[k]), items[k].datetime is None
        if before is None or single or before[0] != platform or time - before[1] > _SAME_PASS:
            number += 1
        numbers[k] = number
        before = None if single else (platform, time)
    return tuple(numbers)


def _platform(item: pystac.Item) -> str:
    properties = item.properties
    return str(properties.get("platform") or properties.get("constellation") or "").lower()


def freeze(path: str | os.PathLike[str], items: ItemSet) -> None:
    """Write an ItemSet as a GeoJSON FeatureCollection, atomically.

    Addresses are written without their queries, which may be tokens by any name. Where these are
    needed to read the files, ``thaw`` has nothing, and the catalogue is searched again.
    """
    hrefs = [asset.href for item in items.items for asset in item.assets.values()]
    body = {
        "type": "FeatureCollection",
        "schema": SCHEMA,
        "sensor": items.sensor,
        "catalog": items.catalog,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": scrubbed(hrefs) == hrefs,
        "skipped": [list(pair) for pair in items.skipped],
        "features": [i.to_dict(transform_hrefs=False) for i in items.items],
    }
    atomic_write_json(Path(path), scrubbed(body))


def thaw(path: str | os.PathLike[str]) -> ItemSet | None:
    """The ItemSet that ``freeze`` wrote; None where its files cannot be read without the queries
    of their addresses.

    Raises:
        DataTrouble: missing, truncated, or of another version.
    """
    try:
        body = json.loads(Path(path).read_text(encoding="utf-8"))
        if body["schema"] != SCHEMA:
            raise ValueError(f"schema {body['schema']}")
        if not body["complete"]:
            return None
        return ItemSet(
            body["sensor"], body["catalog"],
            tuple(pystac.Item.from_dict(f, preserve_dict=False) for f in body["features"]),
            tuple((str(i), str(reason)) for i, reason in body["skipped"]),
        )
    except (OSError, ValueError, KeyError, TypeError, pystac.STACError) as error:
        raise DataTrouble(
            "the frozen item list cannot be read", got=f"{path}: {error}",
            then="delete it and run again without --resume to search anew",
        ) from None
