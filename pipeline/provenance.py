"""What a map was made from and by: identity of a run, stamps of its manifest."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import shapely

from pipeline.data.hrefs import scrubbed
from pipeline.infer.orbits import orbits_of
from pipeline.infer.predict import precision_of
from pipeline.spec.card import CheckpointCard
from pipeline.spec.manifest import TileRecord
from pipeline.spec.sensors import SENSORS

if TYPE_CHECKING:
    from pipeline.mapping import MapPlan


def identity(made: MapPlan) -> dict[str, Any]:
    """What makes two runs the same run."""
    request = {k: v for k, v in scrubbed(made.request.to_json()).items() if k != "checkpoint"}
    area = "".join(shapely.to_wkb(s.area, hex=True) for s in made.sheets)
    return {
        **request, "area": hashlib.sha256(area.encode()).hexdigest(),
        "card": made.card.sha256, "feature_path": made.card.feature_path,
        "precision": precision_of(made.request.speed, made.request.device),
        "items": {k: v.fingerprint for k, v in made.inputs.items()},
    }


def with_orbits(made: MapPlan, records: Sequence[TileRecord]) -> tuple[TileRecord, ...]:
    """The records with the orbits that radar saw each tile from."""
    tiles = {row.key: row.tile.geobox for row in made.rows}
    for key, items in made.items.items():
        if SENSORS[key].kind == "sar":
            seen = orbits_of(items, [tiles[r.key] for r in records])
            records = [dataclasses.replace(r, orbits=o) for r, o in zip(records, seen, strict=True)]
    return tuple(records)


def card_stamp(card: CheckpointCard) -> dict[str, str]:
    return {"name": card.name, "sha256": card.sha256, "feature_path": card.feature_path}


def items_stamp(made: MapPlan) -> dict[str, dict[str, Any]]:
    return {
        key: {
            "catalog": items.catalog, "count": len(items.items),
            "fingerprint": items.fingerprint,
            "sources": sorted({source.key for source in items.sources}),
            "platforms": dict(sorted(Counter(
                str(i.properties.get("platform", "not stated")) for i in items.items).items())),
            "skipped": [list(pair) for pair in items.skipped],
        }
        for key, items in made.inputs.items()
    }


def software() -> dict[str, str]:
    """Versions of the code and the libraries that touch pixels."""
    found = {}
    for name in ("wallmap", "torch", "numpy", "rasterio", "odc-stac", "xarray", "zarr"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that is not installed
            found[name] = "unknown"
    return found
