"""One map from request to files: check, search, plan, predict, publish."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.aoi import read_aoi
from pipeline.data.checkpoints import load_checkpoint
from pipeline.data.files import (
    atomic_write_json,
    atomic_write_text,
    remove_leftovers,
    writable_folder,
)
from pipeline.data.hrefs import scrubbed
from pipeline.data.items import ItemSet, freeze
from pipeline.infer.plan import PlanRow, plan
from pipeline.infer.predict import Predictor
from pipeline.infer.profile import Profile, bytes_read
from pipeline.infer.store import STAMP, RunStore, locked
from pipeline.inputs import find_images, find_layers, foreign, wanted_sensors
from pipeline.making import NO_SCHEDULER, Way, expected, learn_rates, level_shifts, make_tiles
from pipeline.provenance import card_stamp, identity, items_stamp, software, with_orbits
from pipeline.publish.plan_file import PLAN, choice_json, plan_geojson
from pipeline.publish.sheets import MANIFEST, publish
from pipeline.spec.card import CheckpointCard
from pipeline.spec.context import LAYERS
from pipeline.spec.errors import BadRequest
from pipeline.spec.grid import Sheet, sheets
from pipeline.spec.layers import layers_of
from pipeline.spec.manifest import RunManifest
from pipeline.spec.request import MapRequest, Speed, last_season, sensor_order
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
    adapt: bool = False, speed: Speed = "default",
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
        out=Path(folder), tile_px=tile_px, device=device, adapt=adapt, speed=speed,
    )


def plan_map(
    request: MapRequest, frozen: Path | None = None, profile: Profile | None = None
) -> MapPlan:
    """Search, check radiometry and rank the sensors of each tile.

    Args:
        request: what was asked for.
        frozen: folder of frozen items: read from there where present, else written there.
        profile: counts the seconds.

    Raises:
        BadRequest: the checkpoint does not fit the request, or no sensor's radiometry fits it.
        DataTrouble: the catalogue cannot be read, or has nothing for the request.
    """
    profile = profile or Profile()
    area = read_aoi(request.aoi).geometry
    card, arrays = load_checkpoint(request.checkpoint, student=request.speed == "fast")
    wanted = wanted_sensors(request, card)
    # a sliver over a zone's border may hold no pixel centre: no sheet of nothing
    parts = [s for s in sheets(area, request.task.pixel_m)
             if any(s.inside(t.geobox).any() for t in s.tiles(request.tile_px))]
    if not parts:
        raise BadRequest(f"the area is smaller than a pixel of {request.task.pixel_m} m",
                         got=request.aoi, then="draw a larger area")
    with profile.timed("search"):
        found, refused = find_images(request, area, card, wanted, frozen)
        layers, unknown = find_layers(request, area, card, found, frozen)
    with profile.timed("plan"):
        rows = plan(parts, request.tile_px, found, card, request.timeline,
                    sensor_order(request.sensor), request.mode)
    return MapPlan(request, card, arrays, tuple(parts), found, refused, layers, unknown,
                   tuple(rows), foreign(card, found))


def write_plan(made: MapPlan, price: float | None = None, way: Way | None = None) -> Path:
    """Write the plan as GeoJSON into the folder of the results; returns its path.

    Args:
        made: the plan.
        price: of an hour of this machine.
        way: how the tiles will be made.

    Raises:
        BadRequest: it cannot be written to.
    """
    path = made.request.out / PLAN
    body = plan_geojson(made.rows, made.request.timeline, made.card.metric)
    atomic_write_json(path, {**body, "estimate": expected(made, price, way).to_json()})
    return path


def make_map(
    request: MapRequest, *, resume: bool = False, progress: bool = True,
    carry: Callable[[MapPlan, RunStore], None] | None = None, made: MapPlan | None = None,
    notes: Mapping[str, str] | None = None, workers: int | None = None,
    profile: Profile | None = None, scheduler: str = NO_SCHEDULER,
) -> RunManifest:
    """Make the map of a request, down to verified files.

    Args:
        request: what was asked for.
        resume: keep the tiles that an earlier run of the same request finished.
        progress: show a progress bar.
        carry: called once before the first tile: may put finished tiles into the store.
        made: the plan of the request, where it is known already.
        notes: said of the map in tags, item and manifest, by name.
        workers: tiles that are predicted at once; None = one a core, or one GPU.
        profile: counts what each stage took; it ends up in the manifest, too.
        scheduler: address of a Dask scheduler whose workers make the tiles; ``local``: of one
            started for this run; ``none``: the tiles are made here.

    Returns:
        The manifest, as written; failed tiles are in it.

    Raises:
        BadRequest, DataTrouble: nothing was published; what was there before is untouched.
    """
    started, spent, way = _now(), profile or Profile(), Way(progress, workers, scheduler)
    state = writable_folder(request.out / STATE)
    with locked(state):
        for folder in (request.out, state, state / "items"):  # of a run that was killed
            remove_leftovers(folder)
        resume = resume and (state / STAMP).exists()  # without it what is there is of no run
        made = made or plan_map(request, state / "items" if resume else None, spent)
        predictor = Predictor(request.task, made.card, made.arrays, request.device, request.speed)
        store = RunStore.open(state, identity(made), made.sheets, layers_of(request.task),
                              request.tile_px, resume)
        for key in {*SENSORS, *LAYERS} - set(made.inputs):  # of an earlier run
            (state / "items" / f"{key}.json").unlink(missing_ok=True)
        for key, items in made.inputs.items():
            freeze(state / "items" / f"{key}.json", items)
        shifts = level_shifts(made, state / ADAPTED, resume)
        if carry:
            carry(made, store)
        fresh, begun, size = not store.done(), time.perf_counter(), bytes_read()
        records = make_tiles(made, predictor, store, shifts, way, spent)
        manifest = RunManifest(
            request=scrubbed(request.to_json()), card=card_stamp(made.card),
            items=items_stamp(made), refused=dict(made.refused), unknown=dict(made.unknown),
            tiles=with_orbits(made, records), rules=predictor.rules.to_json(made.items),
            versions=software(), started=started, finished=_now(),
            adapted={k: s.to_json() for k, s in shifts.items()},
            notes={"precision": predictor.precision, **(notes or {})},
        )
        with spent.timed("publish"):
            manifest = publish(request, made.card, made.sheets, store, manifest, made.inputs)
        spent.add("publish", 0.0, manifest.area_px)
        if fresh and not manifest.failed:
            learn_rates(made, way, bytes_read() - size, time.perf_counter() - begun)
        if profile:
            report = profile.to_json(request.task.pixel_m)
            manifest = dataclasses.replace(manifest, profile=report)
            atomic_write_text(request.out / MANIFEST, manifest.to_text())
        return manifest


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
