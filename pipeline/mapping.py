"""One map from request to files: check, search, plan, predict, publish."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from tqdm.auto import tqdm

from pipeline.data.aoi import Aoi, read_aoi
from pipeline.data.checkpoints import load_checkpoint
from pipeline.data.files import writable_folder
from pipeline.data.items import ItemSet, freeze, thaw
from pipeline.data.search import search
from pipeline.infer.plan import PlanRow, plan
from pipeline.infer.predict import Predictor
from pipeline.infer.run import Reader, run_tiles
from pipeline.infer.store import RunStore, locked
from pipeline.prep.features import bands_needed
from pipeline.publish.sheets import publish
from pipeline.spec.card import CheckpointCard
from pipeline.spec.errors import BadRequest, DataTrouble, NothingFound
from pipeline.spec.grid import Sheet, sheets
from pipeline.spec.layers import layers_of
from pipeline.spec.manifest import RunManifest, TileRecord
from pipeline.spec.request import MapRequest, last_season, sensor_order
from pipeline.spec.sensors import SENSORS
from pipeline.spec.tasks import task as task_of
from pipeline.spec.timeline import parse_period

DEFAULT_CATALOG = "planetary-computer"
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
        rows: one a tile.
    """

    request: MapRequest
    card: CheckpointCard
    arrays: Mapping[str, np.ndarray]
    sheets: tuple[Sheet, ...]
    items: Mapping[str, ItemSet]
    refused: Mapping[str, str]
    rows: tuple[PlanRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON of the plan."""
        return {
            "request": self.request.to_json(),
            "items": {k: len(v.items) for k, v in self.items.items()},
            "refused": dict(self.refused),
            "tiles": [
                {
                    "sheet": row.sheet.name, "tile": row.tile.name, "reason": row.reason,
                    "choices": [
                        {"sensor": c.sensor, "items": c.items,
                         "expected_steps": round(c.expected_steps, 3),
                         "score": round(c.score, 4)}
                        for c in row.choices
                    ],
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
        out=Path(folder), tile_px=tile_px, device=device,
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
    area = read_aoi(request.aoi)
    card, arrays = load_checkpoint(request.checkpoint)
    wanted = _wanted_sensors(request, card)
    # a sliver over a zone's border may hold no pixel centre: no sheet of nothing
    parts = [s for s in sheets(area.geometry, request.task.pixel_m)
             if any(s.inside(t.geobox).any() for t in s.tiles(request.tile_px))]
    if not parts:
        raise BadRequest(f"the area is smaller than a pixel of {request.task.pixel_m} m",
                         got=request.aoi, then="draw a larger area")
    found, refused = _find_items(request, area, card, wanted, frozen)
    rows = plan(parts, request.tile_px, found, card, request.timeline,
                sensor_order(request.sensor))
    return MapPlan(request, card, arrays, tuple(parts), found, refused, tuple(rows))


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
        for key, items in made.items.items():
            freeze(state / "items" / f"{key}.json", items)
        records = _run(made, predictor, store, progress)
        _check_records(records)
        manifest = RunManifest(
            request=request.to_json(), card=_card_stamp(made.card), items=_items_stamp(made),
            refused=dict(made.refused), tiles=tuple(records), versions=_versions(),
            started=started, finished=_now(),
        )
        return publish(request, made.card, made.sheets, store, manifest, made.items)


def _run(
    made: MapPlan, predictor: Predictor, store: RunStore, progress: bool
) -> list[TileRecord]:
    features = {key: entry.features for key, entry in made.card.sensors.items()}
    task = made.request.task
    reader = Reader(made.items, features, made.request.timeline, task.aggregate,
                    task.smooth_px)
    with tqdm(total=len(made.rows), desc="mapping", unit="tile", disable=not progress) as bar:

        def finished(record: TileRecord) -> None:
            bar.set_postfix_str(f"{record.key} {record.sensor or record.status}")
            bar.update()

        return run_tiles(made.rows, reader, predictor, store, finished)


def _wanted_sensors(request: MapRequest, card: CheckpointCard) -> tuple[str, ...]:
    """Sensors to search for: those asked for must be on the card, ``auto`` takes all of it."""
    if card.task != request.task.key or card.steps != request.task.steps:
        raise BadRequest("the checkpoint is for another task", got=card.task,
                         allowed=request.task.key, then=f"try --checkpoint {request.task.key}")
    asked = sensor_order(request.sensor)
    if lacking := [key for key in asked if key not in card.sensors]:
        raise BadRequest(f"the checkpoint {card.name} has no such sensor", got=lacking[0],
                         allowed=", ".join(card.sensors),
                         then=f"try --sensor {next(iter(card.sensors))}")
    return asked or tuple(card.sensors)


def _find_items(
    request: MapRequest, area: Aoi, card: CheckpointCard, wanted: tuple[str, ...],
    frozen: Path | None,
) -> tuple[dict[str, ItemSet], dict[str, str]]:
    """Usable items per sensor, and the sensors that are refused with the reason."""
    found: dict[str, ItemSet] = {}
    refused: dict[str, str] = {}
    errors: list[Exception] = []
    for key in wanted:
        try:
            path = frozen / f"{key}.json" if frozen else None
            items = (thaw(path) if path and path.exists()
                     else search(request.catalog, key, area.geometry, request.timeline))
            bands = bands_needed(card.sensors[key].features, SENSORS[key].band_names)
            items = items.usable(bands)
            _check_usable(card, items)
            found[key] = items
        except (BadRequest, NothingFound) as error:
            refused[key] = str(error)
            errors.append(error)
    if not found:
        raise errors[0]
    return found, refused


def _check_usable(card: CheckpointCard, items: ItemSet) -> None:
    """Refuse images without the bands, or whose pixel values mean something else than those that
    the checkpoint learned from."""
    if not items.items:
        name, why = items.skipped[-1]
        raise NothingFound(f"no {items.sensor} image has the bands that {card.name} needs",
                           got=f"{name}: {why}", then="try another --catalog or --checkpoint")
    accepts = card.sensors[items.sensor].accepts
    sources = {source.key: source.radiometry for source in items.sources}
    if bad := {key: what for key, what in sources.items() if what not in accepts}:
        source, got = next(iter(bad.items()))
        raise BadRequest(
            f"{source} gives {items.sensor} as another radiometry than the checkpoint "
            f"{card.name} was trained on",
            got=got, allowed=", ".join(accepts),
            then="use another --catalog, or sample your training points from this one with "
            "python -m pipeline.sample and train again",
        )


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
    request = {k: v for k, v in made.request.to_json().items() if k != "checkpoint"}
    area = "".join(shapely.to_wkb(s.area, hex=True) for s in made.sheets)
    return {
        **request, "area": hashlib.sha256(area.encode()).hexdigest(),
        "card": made.card.sha256, "feature_path": made.card.feature_path,
        "items": {k: v.fingerprint for k, v in made.items.items()},
    }


def _card_stamp(card: CheckpointCard) -> dict[str, str]:
    return {"name": card.name, "sha256": card.sha256, "feature_path": card.feature_path}


def _items_stamp(made: MapPlan) -> dict[str, dict[str, Any]]:
    return {
        key: {
            "catalog": items.catalog, "count": len(items.items),
            "fingerprint": items.fingerprint,
            "sources": sorted({source.key for source in items.sources}),
            "skipped": [list(pair) for pair in items.skipped],
        }
        for key, items in made.items.items()
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

