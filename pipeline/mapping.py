"""One map from request to files: check, search, plan, predict, publish."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from tqdm.auto import tqdm

from pipeline.data.aoi import read_aoi
from pipeline.data.checkpoints import load_checkpoint
from pipeline.data.files import atomic_write_json, writable_folder
from pipeline.data.hrefs import scrubbed
from pipeline.data.items import ItemSet, freeze
from pipeline.infer.levels import level_shift
from pipeline.infer.orbits import orbits_of
from pipeline.infer.plan import PlanRow, plan
from pipeline.infer.predict import Predictor
from pipeline.infer.run import Reader, run_tiles
from pipeline.infer.store import RunStore, locked
from pipeline.inputs import find_images, find_layers, foreign, wanted_sensors
from pipeline.prep.adapt import Shift
from pipeline.publish.plan_file import PLAN, choice_json, plan_geojson
from pipeline.publish.sheets import publish
from pipeline.spec.card import CheckpointCard
from pipeline.spec.context import LAYERS
from pipeline.spec.errors import BadRequest, DataTrouble
from pipeline.spec.grid import Sheet, sheets
from pipeline.spec.layers import layers_of
from pipeline.spec.manifest import RunManifest, TileRecord
from pipeline.spec.request import MapRequest, last_season, sensor_order
from pipeline.spec.sensors import SENSORS
from pipeline.spec.tasks import task as task_of
from pipeline.spec.timeline import parse_period

DEFAULT_CATALOG = "planetary-computer"
ADAPTED = "adapted.json"  # in it: the level shifts of the run
STATE = ".run"  # folder in --out that holds the run's state: items, store, records


@dataclass(frozen=True)
class MapPlan:
    """Everything that is known before a pixel is read.

    Attributes:
        request: what was asked for.
        card, arrays: the checkpoint.
        sheets: of the area.
        items: per sensor that may be used.
        refused: sensor -> why it is not used.
        layers: elevation and land cover, where the checkpoint wants them.
        unknown: layer -> why it was not found.
        foreign: sensor -> radiometry of its images that the checkpoint does not accept; their
            levels will be shifted.
        rows: one a tile.
    """

    request: MapRequest
    card: CheckpointCard
    arrays: Mapping[str, np.ndarray]
    sheets: tuple[Sheet, ...]
    items: Mapping[str, ItemSet]
    refused: Mapping[str, str]
    layers: Mapping[str, ItemSet]
    unknown: Mapping[str, str]
    rows: tuple[PlanRow, ...]
    foreign: Mapping[str, str]

    @property
    def inputs(self) -> dict[str, ItemSet]:
        """Items of sensors and layers together."""
        return {**self.items, **self.layers}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON of the plan."""
        return {
            "request": scrubbed(self.request.to_json()),
            "items": {k: len(v.items) for k, v in self.inputs.items()},
            "refused": dict(self.refused),
            "unknown": dict(self.unknown),
            "foreign": dict(self.foreign),
            "tiles": [
                {
                    "sheet": row.sheet.name, "tile": row.tile.name, "reason": row.reason,
                    "choices": [choice_json(c) for c in row.choices],
                }
                for row in self.rows
            ],
        }


def make_request(
    aoi: str,
    sensor: str = "auto",
    *,
    task: str | None = None,
    period: str | None = None,
    catalog: str | None = None,
    checkpoint: str | None = None,
    out: str | None = None,
    tile_px: int = 512,
    device: str = "auto",
    adapt: bool = False,
) -> MapRequest:
    """The validated request: flags win over the AOI file's own properties, these over defaults.

    Raises:
        BadRequest: anything in it cannot be carried out as written.
    """
    sensor_order(sensor)
    area = read_aoi(aoi)
    # a default of the file belongs to the file's task: another task's flags do not inherit them
    own = area.defaults
    same_task = task is None or task == own.get("task", task)
    kind = task_of(task or own.get("task") or "cropland")
    text = period or own.get("period")
    latitude = area.geometry.centroid.y
    timeline = parse_period(text, kind.steps) if text else last_season(kind, latitude)
    folder = out or f"maps/{area.name}-{kind.key}-{sensor.replace(',', '-')}-{str(timeline)[-7:]}"
    return MapRequest(
        aoi=aoi, sensor=sensor, task=kind, timeline=timeline,
        catalog=catalog or own.get("catalog") or DEFAULT_CATALOG,
        checkpoint=checkpoint or (own.get("checkpoint") if same_task else None) or kind.key,
        out=Path(folder), tile_px=tile_px, device=device, adapt=adapt,
    )


def plan_map(request: MapRequest, frozen: Path | None = None) -> MapPlan:
    """Search, check radiometry and rank the sensors of each tile.

    Args:
        request: what was asked for.
        frozen: folder of frozen items: read from there where present, else written there.

    Raises:
        BadRequest: the checkpoint does not fit the request, or no sensor's radiometry fits it.
        DataTrouble: the catalogue cannot be read, or has nothing for the request.
    """
    area = read_aoi(request.aoi).geometry
    card, arrays = load_checkpoint(request.checkpoint)
    wanted = wanted_sensors(request, card)
    # a sliver over a zone's border may hold no pixel centre: no sheet of nothing
    parts = [s for s in sheets(area, request.task.pixel_m)
             if any(s.inside(t.geobox).any() for t in s.tiles(request.tile_px))]
    if not parts:
        raise BadRequest(f"the area is smaller than a pixel of {request.task.pixel_m} m",
                         got=request.aoi, then="draw a larger area")
    found, refused = find_images(request, area, card, wanted, frozen)
    layers, unknown = find_layers(request, area, card, found, frozen)
    rows = plan(parts, request.tile_px, found, card, request.timeline,
                sensor_order(request.sensor), request.mode)
    return MapPlan(request, card, arrays, tuple(parts), found, refused, layers, unknown,
                   tuple(rows), foreign(card, found))


def write_plan(made: MapPlan) -> Path:
    """Write the plan as GeoJSON into the folder of the results; returns its path.

    Raises:
        BadRequest: it cannot be written to.
    """
    path = made.request.out / PLAN
    atomic_write_json(path, plan_geojson(made.rows, made.request.timeline, made.card.metric))
    return path


def make_map(
    request: MapRequest, *, resume: bool = False, progress: bool = True
) -> RunManifest:
    """Make the map of a request, down to verified files.

    Args:
        request: what was asked for.
        resume: keep the tiles that an earlier run of the same request finished.
        progress: show a progress bar.

    Returns:
        The manifest, as written; failed tiles are in it.

    Raises:
        BadRequest, DataTrouble: nothing was published; what was there before is untouched.
    """
    started = _now()
    state = writable_folder(request.out / STATE)
    with locked(state):
        made = plan_map(request, state / "items" if resume else None)
        predictor = Predictor(request.task, made.card, made.arrays, request.device)
        store = RunStore.open(state, _identity(made), made.sheets, layers_of(request.task),
                              request.tile_px, resume)
        for layer in LAYERS:  # of an earlier run
            (state / "items" / f"{layer}.json").unlink(missing_ok=True)
        for key, items in made.inputs.items():
            freeze(state / "items" / f"{key}.json", items)
        shifts = _shifts(made, state / ADAPTED, resume)
        records = _run(made, predictor, store, shifts, progress)
        _check_records(records)
        manifest = RunManifest(
            request=scrubbed(request.to_json()), card=_card_stamp(made.card),
            items=_items_stamp(made),
            refused=dict(made.refused), unknown=dict(made.unknown),
            tiles=_with_orbits(made, records), rules=predictor.rules.to_json(made.items),
            versions=_versions(), started=started, finished=_now(),
            adapted={k: s.to_json() for k, s in shifts.items()},
        )
        return publish(request, made.card, made.sheets, store, manifest, made.inputs)


def _shifts(made: MapPlan, kept: Path, resume: bool) -> dict[str, Shift]:
    """Level shifts of the sensors that need one: estimated once, and kept for ``--resume``."""
    if resume and kept.exists():
        return {k: Shift(**s) for k, s in json.loads(kept.read_text()).items()}
    shifts = {
        key: level_shift(made.items[key], made.card.sensors[key], made.sheets, made.request.task,
                         made.request.timeline)
        for key in made.foreign
    }
    atomic_write_json(kept, {k: s.to_json() for k, s in shifts.items()})
    return shifts


def _run(
    made: MapPlan, predictor: Predictor, store: RunStore, shifts: Mapping[str, Shift],
    progress: bool,
) -> list[TileRecord]:
    reader = Reader(made.items, made.card.sensors, made.request.timeline, made.request.task,
                    made.layers, shifts)
    with tqdm(total=len(made.rows), desc="mapping", unit="tile", disable=not progress) as bar:

        def finished(record: TileRecord) -> None:
            bar.set_postfix_str(f"{record.key} {record.sensor or record.status}")
            bar.update()

        return run_tiles(made.rows, reader, predictor, store, finished)


def _check_records(records: list[TileRecord]) -> None:
    """A map without a single pixel is not published."""
    if any(r.status == "mapped" for r in records):
        return
    if failed := [r for r in records if r.status == "failed"]:
        raise DataTrouble(f"all {len(failed)} tiles with data failed, the first: "
                          f"{failed[0].key}: {failed[0].reason}",
                          then="repeat the command with --resume")
    raise DataTrouble("no pixel of the area has enough clear observations", got=records[0].reason,
                      then="try --sensor auto, another --period, or look at --dry-run")


def _identity(made: MapPlan) -> dict[str, Any]:
    """What makes two runs the same run."""
    request = {k: v for k, v in scrubbed(made.request.to_json()).items() if k != "checkpoint"}
    area = "".join(shapely.to_wkb(s.area, hex=True) for s in made.sheets)
    return {
        **request, "area": hashlib.sha256(area.encode()).hexdigest(),
        "card": made.card.sha256, "feature_path": made.card.feature_path,
        "items": {k: v.fingerprint for k, v in made.inputs.items()},
    }


def _with_orbits(made: MapPlan, records: Sequence[TileRecord]) -> tuple[TileRecord, ...]:
    """The records with the orbits that radar saw each tile from."""
    tiles = {row.key: row.tile.geobox for row in made.rows}
    for key, items in made.items.items():
        if SENSORS[key].kind == "sar":
            seen = orbits_of(items, [tiles[r.key] for r in records])
            records = [dataclasses.replace(r, orbits=o) for r, o in zip(records, seen, strict=True)]
    return tuple(records)


def _card_stamp(card: CheckpointCard) -> dict[str, str]:
    return {"name": card.name, "sha256": card.sha256, "feature_path": card.feature_path}


def _items_stamp(made: MapPlan) -> dict[str, dict[str, Any]]:
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


def _versions() -> dict[str, str]:
    found = {}
    for name in ("wallmap", "torch", "numpy", "rasterio", "odc-stac", "xarray", "zarr"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that is not installed
            found[name] = "unknown"
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

