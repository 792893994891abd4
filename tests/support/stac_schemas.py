"""Validation without a network: STAC 1.1.0's schemas as they ship with pystac, and what the
classification extension demands, whose schema no installed package carries."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pystac
from referencing import Registry, Resource

CLASSIFICATION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
# its README, version 2.0.0: fields of a class object
_CLASSES = {
    "type": "array", "minItems": 1, "uniqueItems": True,
    "items": {
        "type": "object", "required": ["value", "name"],
        "properties": {
            "value": {"type": "integer"},
            "name": {"type": "string", "pattern": "^[0-9A-Za-z_-]+$"},
            "title": {"type": "string"}, "description": {"type": "string"},
            "color_hint": {"type": "string", "pattern": "^[0-9A-F]{6}$"},
            "nodata": {"type": "boolean"}, "percentage": {"type": "number"},
            "count": {"type": "integer"},
        },
    },
}


def faults(entry: dict[str, Any]) -> list[str]:
    """What is wrong with an item, collection or catalogue, by the core schema of its kind and the
    classification extension."""
    return [f"{'/'.join(map(str, e.path))}: {e.message}"[:300]
            for e in _validator(entry["type"]).iter_errors(entry)] + _classification(entry)


def _classification(entry: dict[str, Any]) -> list[str]:
    places = {f"assets/{k}": a for k, a in entry.get("assets", {}).items()}
    places |= {f"item_assets/{k}": a for k, a in entry.get("item_assets", {}).items()}
    places |= {f"{place}/{kind}/{n}": band for place, asset in [*places.items()]
               for kind in ("bands", "raster:bands") for n, band in enumerate(asset.get(kind, ()))}
    places["properties"] = entry.get("properties", {})
    fields = [(f"{place}/{name}", name, value) for place, holder in places.items()
              for name, value in holder.items() if name.startswith("classification:")]
    wrong = [f"{place}: no such field" for place, name, _ in fields
             if name != "classification:classes"]
    for place, _, value in fields:
        wrong += [f"{place}: {e.message}"[:300]
                  for e in jsonschema.Draft7Validator(_CLASSES).iter_errors(value)]
        values = [c.get("value") for c in value if isinstance(c, dict)]
        if len(set(values)) < len(values):
            wrong.append(f"{place}: a value stands for two classes")
    if bool(fields) != (CLASSIFICATION in entry.get("stac_extensions", ())):
        wrong.append(f"stac_extensions: the fields and {CLASSIFICATION} go together")
    return wrong


@cache
def _validator(kind: str) -> jsonschema.Draft7Validator:
    title = {"Feature": "STAC Item", "Collection": "STAC Collection Specification",
             "Catalog": "STAC Catalog Specification"}[kind]
    root = Path(pystac.__file__).parent / "validation" / "jsonschemas"
    found = [json.loads(p.read_text()) for p in root.rglob("*.json")]
    registry = Registry().with_resources(  # one $id there lacks its dot
        (s["$id"].rstrip("#").replace("commonjson", "common.json"), Resource.from_contents(s))
        for s in found
    )
    (schema,) = (s for s in found if "/v1.1.0/" in s["$id"] and s["title"] == title)
    return jsonschema.Draft7Validator(schema, registry=registry)
