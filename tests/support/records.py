"""Plain STAC item records for tests that need no pixels."""

from __future__ import annotations

from typing import Any


def record(name: str, when: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "sentinel-2-l2a",
        "geometry": {"type": "Point", "coordinates": [5, 50]}, "bbox": [5, 50, 5, 50], "links": [],
        "properties": {"datetime": when, **properties},
        "assets": {"B02": {"href": f"https://example.org/{name}.tif"}},
    }
