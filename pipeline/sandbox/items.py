"""STAC items in the shape of Planetary Computer's, with one property more: ``sandbox:seed``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import shapely
from odc.geo.geobox import GeoBox

from pipeline.sandbox.geo import footprint
from pipeline.sandbox.params import SandboxParams
from pipeline.sandbox.properties import item_id, l8_properties, s1_properties, s2_properties
from pipeline.sandbox.schedule import Product

_EXTENSION = "https://stac-extensions.github.io/{}/schema.json"
COLLECTION = {"s1": "sentinel-1-rtc", "s2": "sentinel-2-l2a", "l8": "landsat-c2-l2"}


def item(
    params: SandboxParams, p: Product, grid: GeoBox, assets: Mapping[str, Any],
    cover: Mapping[str, float],
) -> dict[str, Any]:
    """The item as a JSON object; hrefs are relative to its own folder.

    Args:
        params: of the sandbox.
        p: what was acquired.
        grid: 10 m grid of the scene.
        assets: from ``s1_assets``, ``s2_assets`` or ``l8_assets``.
        cover: shares of pixels, percent: ``cloud`` and, for Sentinel-2, one per scene class.
    """
    describe = {"s1": s1_properties, "s2": s2_properties, "l8": l8_properties}[p.sensor]
    properties, extensions = describe(params, p, grid, cover)
    outline = footprint(grid)
    collection = COLLECTION[p.sensor]
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": item_id(p, grid),
        "collection": collection, "geometry": shapely.geometry.mapping(outline),
        "bbox": list(outline.bounds),
        "properties": {**properties, "sandbox:seed": params.seed},
        "links": [
            {"rel": "root", "href": "../../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../collection.json", "type": "application/json"},
            {"rel": "collection", "href": "../collection.json", "type": "application/json"},
        ],
        "assets": dict(assets),
        "stac_extensions": [e if e.startswith("https:") else _EXTENSION.format(e)
                            for e in extensions],
    }
