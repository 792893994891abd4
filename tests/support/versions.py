"""Versions of a map made by hand: as ``pipeline.map`` and a refresh leave them, without either."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from pipeline.publish.cog import write_cog
from pipeline.publish.item import MapRecord, map_item
from pipeline.refresh.result import ByteCounts, Check, RefreshResult, TileCounts
from pipeline.spec.layers import layers_of
from pipeline.spec.tasks import task as task_of
from pipeline.spec.timeline import parse_period

NOW = datetime(2023, 11, 5, 3, tzinfo=UTC)
PIXEL_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082")


def write_version(
    folder: Path, values: np.ndarray, sure: np.ndarray, *, task: str = "cropland",
    sheet: str = "utm31n", origin: tuple[float, float] = (600_000, 5_600_000),
    links: tuple[str, ...] = ("https://example.com/items/a",), checkpoint: str = "nowhere",
    sha256: str = "ab" * 32,
) -> Path:
    """A version of one sheet with these codes of map and confidence; its folder."""
    kind = task_of(task)
    layers = layers_of(kind)
    shape = values.shape
    box = GeoBox(shape, Affine(kind.pixel_m, 0, origin[0], 0, -kind.pixel_m, origin[1]), 32631)
    has = values != kind.nodata
    codes = {
        "map": values, "confidence": np.where(has, sure, layers[1].nodata),
        "sensor": np.where(has, 1, 0), "observations": np.where(has, 9, 0),
        "quality": np.where(has, 1, 0),
    }
    for layer in layers:
        write_cog(folder / f"{layer.name}.tif", codes[layer.name].astype(layer.dtype), box, layer,
                  {"PERIOD": "2022-11:2023-10"})
    (folder / "preview.png").write_bytes(PIXEL_PNG)
    record = MapRecord(
        id=f"{task}-s1-2023-10-{sheet}", title=kind.title, description="A test",
        footprint=shapely.box(4.41, 50.53, 4.42, 50.54),
        timeline=parse_period("2022-11:2023-10", 12, NOW), created=NOW,
        software={"wallmap": "0.1.0"}, lineage="s1 composites", derived_from=links,
        properties={"wallmap:task": task},
    )
    item = map_item(folder, record, box, layers, "preview.png")
    (folder / "item.json").write_text(json.dumps(item))
    files = [*(f"{layer.name}.tif" for layer in layers), "preview.png", "item.json"]
    manifest = {
        "request": {"task": task, "sensor": "s1", "period": "2022-11:2023-10",
                    "checkpoint": checkpoint, "catalog": "sandbox"},
        "card": {"name": "toy", "sha256": sha256, "feature_path": "1"},
        "tiles": [{"sheet": sheet, "tile": "0_0"}], "files": files, "started": "", "finished": "",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def result(**changes: object) -> RefreshResult:
    """A published refresh."""
    base: dict[str, object] = {
        "region": "demo", "task": "cropland", "sensor": "s1", "status": "published",
        "now": "2023-11-05T03:00:00Z", "version": "20231105T030000Z",
        "previous": "20231104T030000Z", "tier": "provisional", "reason": "3 tiles have new scenes",
        "period": "2022-11:2023-10", "window_closed": True,
        "tiles": TileCounts(400, 3, 397, 0, {"new scene": 3}),
        "bytes": ByteCounts(3_000_000, 397_000_000), "seconds": 12.5,
        "checks": (Check("coverage", True, "98.0 %", "at least 95.0 %"),),
        "coverage": 0.98, "class_shares": {"other": 0.6, "cropland": 0.4},
        "items": {"s1": 120}, "card": {"name": "toy", "sha256": "ab" * 32},
    }
    return RefreshResult(**{**base, **changes})  # type: ignore[arg-type]
