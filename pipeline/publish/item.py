"""The STAC item of one sheet (STAC 1.1.0; projection, raster, classification, processing, file)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import shapely
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry
from shapely.geometry.polygon import orient

from pipeline.spec.layers import Layer
from pipeline.spec.timeline import Timeline

COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
_SCHEMAS = "https://stac-extensions.github.io"
# raster v1.1.0 and not v2.0.0: it is what readers know today (pystac's extension and GDAL-based
# tools take scale and offset from ``raster:bands``); data_type, nodata and unit are repeated where
# STAC 1.1 has them.
EXTENSIONS = tuple(
    f"{_SCHEMAS}/{name}/schema.json"
    for name in ("projection/v2.0.0", "raster/v1.1.0", "classification/v2.0.0",
                 "processing/v1.2.0", "file/v2.1.0")
)
_ROLES = {"map": ["data"]}


@dataclass(frozen=True)
class MapRecord:
    """What the item says beside what the files themselves tell.

    Attributes:
        id: of the item.
        title, description: for people.
        footprint: mapped area, (multi)polygon in EPSG:4326.
        timeline: months the map was made from; ``datetime`` is its last instant.
        created: when the map was made (UTC).
        software: name -> version.
        lineage: how the map was made, in words.
        expression: the command that makes it again; empty = left out.
        derived_from: hrefs of the input items.
        properties: further properties, with a prefix of their own (``wallmap:...``).
    """

    id: str
    title: str
    description: str
    footprint: BaseGeometry
    timeline: Timeline
    created: datetime
    software: Mapping[str, str]
    lineage: str
    expression: str = ""
    derived_from: tuple[str, ...] = ()
    properties: Mapping[str, Any] = field(default_factory=dict)


def map_item(
    folder: Path, record: MapRecord, geobox: GeoBox, layers: Sequence[Layer], preview: str = ""
) -> dict[str, Any]:
    """STAC item of a sheet, with hrefs relative to ``folder``.

    Args:
        folder: that holds the finished ``<layer.name>.tif``; sizes and checksums are read there.
        record: what else the item says.
        geobox: pixel grid of the layers.
        layers: of ``layers_of``.
        preview: href of the PNG relative to ``folder``; empty = none.

    Returns:
        A JSON object that is valid STAC 1.1.0.
    """
    footprint = geojson(record.footprint)
    assets = {layer.name: cog_asset(folder, layer, geobox) for layer in layers}
    if preview:
        assets["preview"] = {
            "href": _relative(preview), "type": "image/png", "title": "Preview",
            "roles": ["overview"], **file_facts(folder / preview),
        }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(EXTENSIONS),
        "id": record.id,
        "geometry": footprint,
        "bbox": [round(v, 7) for v in record.footprint.bounds],
        "properties": _properties(record, geobox),
        "links": [
            {"rel": "derived_from", "href": href, "type": "application/geo+json"}
            for href in record.derived_from
        ],
        "assets": assets,
    }


def _properties(record: MapRecord, geobox: GeoBox) -> dict[str, Any]:
    last = record.timeline.end - timedelta(seconds=1)  # STAC's intervals are closed
    expression = {"format": "bash", "expression": record.expression}
    return {
        "title": record.title,
        "description": record.description,
        "datetime": _time(last),
        "start_datetime": _time(record.timeline.start),
        "end_datetime": _time(last),
        "created": _time(record.created),
        "gsd": abs(geobox.resolution.x),
        "proj:code": str(geobox.crs),
        "proj:shape": list(geobox.shape),
        "proj:transform": list(geobox.affine)[:6],
        "proj:bbox": list(geobox.boundingbox.bbox),
        "processing:software": dict(record.software),
        "processing:lineage": record.lineage,
        **({"processing:expression": expression} if record.expression else {}),
        **record.properties,
    }


def cog_asset(folder: Path, layer: Layer, geobox: GeoBox) -> dict[str, Any]:
    """STAC asset of ``<layer.name>.tif`` in ``folder``, with size and checksum."""
    band: dict[str, Any] = {
        "data_type": layer.dtype,
        "nodata": layer.nodata,
        **({"unit": layer.unit} if layer.unit else {}),
    }
    raster = {
        **band, "scale": layer.scale, "offset": layer.offset, "sampling": "area",
        "spatial_resolution": abs(geobox.resolution.x),
    }
    asset = {
        "href": f"./{layer.name}.tif",
        "type": COG_TYPE,
        "title": layer.title,
        "roles": _ROLES.get(layer.name, ["metadata"]),
        **band,
        "raster:bands": [raster],
        "proj:shape": list(geobox.shape),
        "proj:transform": list(geobox.affine)[:6],
        **file_facts(folder / f"{layer.name}.tif"),
    }
    if layer.kind == "classes":
        asset["classification:classes"] = [
            {"value": c.code, "name": re.sub(r"[^0-9A-Za-z-_]", "-", c.name), "title": c.name,
             "color_hint": "{:02X}{:02X}{:02X}".format(*c.colour)}
            for c in layer.classes
        ] + [{"value": layer.nodata, "name": "nodata", "title": "no data", "nodata": True}]
    return asset


def file_facts(path: Path) -> dict[str, Any]:
    """Size and checksum of a file, as the file extension has them."""
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {  # multihash: 0x12 = sha2-256, 0x20 = 32 bytes follow
        "file:size": path.stat().st_size, "file:checksum": f"1220{digest}",
    }


def geojson(area: BaseGeometry) -> dict[str, Any]:
    """GeoJSON with 7 decimals (1 cm) and exterior rings counter-clockwise (RFC 7946, 3.1.6)."""
    rounded = shapely.transform(area, lambda xy: xy.round(7))
    parts = [orient(part) for part in shapely.get_parts(rounded)]
    whole = parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    return json.loads(shapely.to_geojson(whole))


def _relative(href: str) -> str:
    return href if href.startswith((".", "/")) else f"./{href}"


def _time(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
