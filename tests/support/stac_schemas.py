"""STAC 1.1.0's schemas as they ship with pystac: validation without a network."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pystac
from referencing import Registry, Resource


def faults(entry: dict[str, Any]) -> list[str]:
    """What the core schema of its kind finds wrong with an item, collection or catalogue."""
    return [f"{'/'.join(map(str, e.path))}: {e.message}"[:300]
            for e in _validator(entry["type"]).iter_errors(entry)]


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
