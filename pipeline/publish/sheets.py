"""Run store -> verified files: COGs, previews and STAC items of all sheets, then the manifest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import shapely
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

from pipeline.data.files import atomic_write_json, atomic_write_text
from pipeline.data.items import ItemSet
from pipeline.infer.store import RunStore
from pipeline.prep.adapt import Shift
from pipeline.publish.cog import write_cog
from pipeline.publish.item import MapRecord, map_item
from pipeline.publish.preview import SheetPreview, write_preview
from pipeline.publish.promote import open_stage, promote
from pipeline.spec.card import CheckpointCard
from pipeline.spec.context import LAYERS
from pipeline.spec.errors import DataTrouble
from pipeline.spec.grid import Sheet
from pipeline.spec.layers import NO_SENSOR, OUTSIDE, Layer, layers_of
from pipeline.spec.manifest import RunManifest
from pipeline.spec.request import MapRequest
from pipeline.spec.sensors import SENSORS

MANIFEST = "manifest.json"
_WINDOW = 2048  # pixels of the store looked at together
_AT_ONCE = 4  # layers that are written at once: most of a COG is made on a single thread


def publish(
    request: MapRequest,
    card: CheckpointCard,
    sheets: Sequence[Sheet],
    store: RunStore,
    manifest: RunManifest,
    items: Mapping[str, ItemSet],
) -> RunManifest:
    """Write and verify all files of a run, then rename them into place.

    A single sheet's files lie in ``request.out``, several sheets' in a folder each.

    Args:
        request, card, manifest: what was done; they end up in tags, item and manifest.
        items: per sensor, and per layer of elevation and land cover.
        sheets: of the area.
        store: of the results.

    Returns:
        The manifest with its list of files, as written.

    Raises:
        BadRequest: the folder cannot be written to.
        DataTrouble: the disk is full, or a file does not read back as it was written.
    """
    folders = {s.name: request.out if len(sheets) == 1 else request.out / s.name for s in sheets}
    for sheet in sheets:
        _check_store(sheet, store, manifest)
    stages: dict[str, Path] = {}
    try:
        return _publish(request, card, sheets, store, manifest, items, folders, stages)
    finally:
        for stage in stages.values():
            shutil.rmtree(stage, ignore_errors=True)


def _publish(
    request: MapRequest, card: CheckpointCard, sheets: Sequence[Sheet], store: RunStore,
    manifest: RunManifest, items: Mapping[str, ItemSet], folders: Mapping[str, Path],
    stages: dict[str, Path],
) -> RunManifest:
    tags = _tags(request, card, manifest, items)
    layers = layers_of(request.task)
    for sheet in sheets:
        stage = stages[sheet.name] = open_stage(folders[sheet.name])

        def write(layer: Layer, sheet: Sheet = sheet, stage: Path = stage) -> None:
            write_cog(stage / f"{layer.name}.tif", store.view(sheet.name, layer.name),
                      sheet.geobox, layer, tags)

        with ThreadPoolExecutor(min(os.cpu_count() or 1, _AT_ONCE)) as pool:
            for _ in pool.map(write, layers):  # what one raises is raised here
                pass
        _preview(stage / "preview.png", [stage], request, manifest)
    before = _published(request.out)
    # from here on the folder changes: no manifest stands beside files that it does not describe
    (request.out / MANIFEST).unlink(missing_ok=True)
    if len(sheets) > 1:
        _preview(request.out / "preview.png", list(stages.values()), request, manifest)
    names = [*(f"{layer.name}.tif" for layer in layers), "preview.png", "item.json"]
    for sheet in sheets:
        stage = stages[sheet.name]
        record = _record(request, card, sheet, manifest, items, tags)
        item = map_item(stage, record, sheet.geobox, layers, "preview.png")
        atomic_write_json(stage / "item.json", item)
        promote(stage, folders[sheet.name], names)
    files = [str((folders[s.name] / n).relative_to(request.out)) for s in sheets for n in names]
    if len(sheets) > 1:
        files.append("preview.png")
    for name in before - set(files):
        (request.out / name).unlink(missing_ok=True)  # of an earlier map with other sheets
    done = dataclasses.replace(manifest, files=tuple(files))
    atomic_write_text(request.out / MANIFEST, done.to_text())
    return done


def _published(out: Path) -> set[str]:
    """Files of the map that is in the folder, as its manifest lists them."""
    try:
        names = json.loads((out / MANIFEST).read_text())["files"]
        return {str(n) for n in names if (out / str(n)).resolve().is_relative_to(out.resolve())}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _check_store(sheet: Sheet, store: RunStore, manifest: RunManifest) -> None:
    """A store that does not hold the pixels that the records speak of is not published.

    Raises:
        DataTrouble: pixels are missing (a power cut, a damaged disk).
    """
    view = store.view(sheet.name, "sensor")
    height, width = view.shape
    found = 0
    for row in range(0, height, _WINDOW):
        for col in range(0, width, _WINDOW):
            codes = view[row : row + _WINDOW, col : col + _WINDOW]
            found += int(((codes != NO_SENSOR) & (codes != OUTSIDE)).sum())
    stated = sum(sum(t.mapped_px.values()) for t in manifest.tiles if t.sheet == sheet.name)
    if found != stated:
        raise DataTrouble(f"the run store of {sheet.name} is damaged",
                          got=f"{found} pixels with a value, the records state {stated}",
                          then="type the command again without --resume")


def _preview(
    path: Path, stages: Sequence[Path], request: MapRequest, manifest: RunManifest
) -> None:
    subtitle = (f"{request.timeline}   sensor {request.sensor}   "
                f"{manifest.mapped_share:.1%} of the area mapped")
    write_preview(path, [SheetPreview(stage) for stage in stages], request.task,
                  request.task.title, subtitle)


def _tags(
    request: MapRequest, card: CheckpointCard, manifest: RunManifest,
    items: Mapping[str, ItemSet],
) -> dict[str, str]:
    """What a COG says of itself when it has lost its folder."""
    every = "".join(f"{key}:{found.fingerprint};" for key, found in sorted(items.items()))
    return {
        "TASK": request.task.key,
        "SENSOR": request.sensor,
        "PERIOD": str(request.timeline),
        "CHECKPOINT": card.name,
        "CARD_SHA256": card.sha256,
        "ITEMS_SHA256": hashlib.sha256(every.encode()).hexdigest(),
        "SOURCES": _sources(manifest, manifest.items),
        "FEATURE_PATH": card.feature_path,
        "QUALITY": "; ".join(f"{name}: {rule}" for name, rule in manifest.rules.items()),
        "SMOOTHING_PX": ", ".join(f"{k} {request.task.smooth_px(k)}" for k in items
                                  if k in SENSORS),
        **({"ADAPTED": "; ".join(f"{key} {Shift(**shift)}"
                                 for key, shift in manifest.adapted.items())}
           if manifest.adapted else {}),
        **{name.upper(): text for name, text in manifest.notes.items()},
        "SOFTWARE": f"wallmap {manifest.versions.get('wallmap', 'unknown')}",
    }


def _record(
    request: MapRequest, card: CheckpointCard, sheet: Sheet, manifest: RunManifest,
    items: Mapping[str, ItemSet], tags: Mapping[str, str],
) -> MapRecord:
    task, last = request.task, str(request.timeline)[-7:]
    used = sorted({t.sensor for t in manifest.tiles if t.sheet == sheet.name and t.sensor})
    tiles = [t for t in manifest.tiles if t.sheet == sheet.name]
    mapped = sum(sum(t.mapped_px.values()) for t in tiles)
    hrefs = [link.href for found in items.values() for i in found.items for link in i.links
             if link.rel == "self" and isinstance(link.target, str)]
    return MapRecord(
        id=f"{task.key}-{request.sensor.replace(',', '-')}-{last}-{sheet.name}",
        title=f"{task.title}, {last}",
        description=f"{task.title} from {', '.join(used) or 'no sensor'}, {request.timeline}, "
        f"UTM zone {sheet.zone}{'N' if sheet.north else 'S'}, {task.pixel_m} m",
        footprint=_lonlat(sheet),
        timeline=request.timeline,
        created=datetime.fromisoformat(manifest.finished),
        software=dict(manifest.versions),
        lineage=_lineage(card, manifest),
        derived_from=tuple(hrefs),
        properties={"wallmap:task": task.key, "wallmap:sensor": request.sensor,
                    "wallmap:card_sha256": card.sha256,
                    "wallmap:items_sha256": tags["ITEMS_SHA256"],
                    "wallmap:mapped_share": manifest.mapped_share,  # of the run's whole area
                    "wallmap:sheet_mapped_share": mapped / max(sum(t.area_px for t in tiles), 1),
                    "wallmap:adapted": {k: dict(s) for k, s in manifest.adapted.items()},
                    "wallmap:quality": manifest.quality,
                    "wallmap:quality_rules": dict(manifest.rules),
                    **{f"wallmap:{name}": text for name, text in manifest.notes.items()}},
    )


def _lineage(card: CheckpointCard, manifest: RunManifest) -> str:
    """What the map was computed from and by, in a line."""
    layers = [key for key in manifest.items if key in LAYERS]
    place = f"; place features of {_sources(manifest, layers)}" if layers else ""
    images = _sources(manifest, [key for key in manifest.items if key not in LAYERS])
    return (f"monthly composites of {images}{place}; {card.method} with {card.encoder} encoders, "
            f"checkpoint {card.name} ({card.sha256[:12]})")


def _sources(manifest: RunManifest, keys: Iterable[str]) -> str:
    return ", ".join(sorted({s for key in keys for s in manifest.items[key]["sources"]}))


def _lonlat(sheet: Sheet) -> BaseGeometry:
    """A sheet's area in EPSG:4326."""
    back = Transformer.from_crs(sheet.epsg, 4326, always_xy=True).transform
    outline = shapely.make_valid(shapely.transform(sheet.area, back, interleaved=False))
    parts = [p for p in shapely.get_parts(outline) if p.geom_type in ("Polygon", "MultiPolygon")]
    return shapely.union_all(parts)
