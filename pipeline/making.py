"""The tiles of a map, in this process or on a cluster; and what it will cost to make them."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from pipeline.data.files import atomic_write_json
from pipeline.data.hrefs import scrubbed
from pipeline.infer.estimate import (
    Estimate,
    Kind,
    Run,
    estimate,
    rates_file,
    recall,
    remember,
    work_of,
)
from pipeline.infer.lanes import lanes_for
from pipeline.infer.levels import level_shift
from pipeline.infer.predict import Predictor, pick_device
from pipeline.infer.profile import Profile, machine
from pipeline.infer.run import Reader, run_tiles
from pipeline.infer.store import RunStore
from pipeline.prep.adapt import Shift
from pipeline.prep.features import bands_needed
from pipeline.spec.errors import BadRequest, DataTrouble
from pipeline.spec.machine import cores
from pipeline.spec.manifest import TileRecord
from pipeline.spec.sensors import SENSORS

if TYPE_CHECKING:
    from pipeline.mapping import MapPlan

NO_SCHEDULER = "none"  # the tiles are made in this process


@dataclass(frozen=True)
class Way:
    """How the tiles are made; no pixel depends on it.

    Attributes:
        progress: show a progress bar.
        workers: tiles that are predicted at once; None = one a core, or one GPU.
        scheduler: address of a Dask scheduler, ``local`` or ``none``.
    """

    progress: bool = True
    workers: int | None = None
    scheduler: str = NO_SCHEDULER


def level_shifts(made: MapPlan, kept: Path, resume: bool) -> dict[str, Shift]:
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


def make_tiles(
    made: MapPlan, predictor: Predictor, store: RunStore, shifts: Mapping[str, Shift], way: Way,
    profile: Profile,
) -> list[TileRecord]:
    """Records of all tiles, once they are in the store.

    Raises:
        BadRequest, DataTrouble: not one pixel could be mapped, or the run cannot go on.
    """
    reader = Reader(made.items, made.card.sensors, made.request.timeline, made.request.task,
                    made.layers, shifts, partial(profile.add, "composite"))
    with tqdm(total=len(made.rows), desc="mapping", unit="tile", disable=not way.progress) as bar:

        def finished(record: TileRecord) -> None:
            bar.set_postfix_str(f"{record.key} {record.sensor or record.status}")
            bar.update()

        if way.scheduler != NO_SCHEDULER:
            profile.elsewhere = True
            records = _elsewhere(made, reader, predictor, store, finished, way, profile)
        else:
            lanes = lanes_for(made.request.task, max(_bands(made).values()), made.request.tile_px,
                              predictor.device, way.workers)
            records = run_tiles(made.rows, reader, predictor, store, finished, lanes, profile)
    _check(records)
    return records


def _elsewhere(
    made: MapPlan, reader: Reader, predictor: Predictor, store: RunStore,
    finished: Callable[[TileRecord], None], way: Way, profile: Profile,
) -> list[TileRecord]:
    try:
        from pipeline.infer import cluster
    except ImportError:
        raise BadRequest("--scheduler needs the package distributed",
                         then="pip install 'wallmap[cluster]'") from None
    request = made.request
    job = cluster.Job(
        f"map-{uuid.uuid4().hex[:8]}", reader, made.card, made.arrays, request.device,
        request.speed, predictor.precision, store.root.resolve(), made.sheets, store.layers,
        store.tile_px)
    with cluster.connected(way.scheduler, way.workers) as client:
        return cluster.run_on_cluster(made.rows, job, store, finished, client, profile)


def _check(records: list[TileRecord]) -> None:
    """A map without a single pixel is not published."""
    if any(r.status == "mapped" for r in records):
        return
    if failed := [r for r in records if r.status == "failed"]:
        raise DataTrouble(f"all {len(failed)} tiles with data failed, the first: "
                          f"{failed[0].key}: {failed[0].reason}",
                          then="repeat the command with --resume")
    raise DataTrouble("no pixel of the area has enough clear observations", got=records[0].reason,
                      then="try --sensor auto, another --period, or look at --dry-run")


def expected(made: MapPlan, price: float | None = None, way: Way | None = None) -> Estimate:
    """Bytes, time and cost of a plan, from the rates that were measured on this machine.

    Args:
        made: the plan.
        price: of an hour of the machine.
        way: how the tiles will be made.
    """
    return estimate(_work(made), _kind(made, way or Way()), recall(rates_file()), price)


def learn_rates(made: MapPlan, way: Way, size: int, seconds: float) -> None:
    """Keep what a whole run took.

    Args:
        made: its plan.
        way: how its tiles were made.
        size: bytes that this process read: of a cluster's tiles nobody counts them.
        seconds: from the first tile to the published files.
    """
    counted = size if way.scheduler == NO_SCHEDULER else 0
    remember(rates_file(), Run(_kind(made, way), _work(made), counted, seconds))


def _work(made: MapPlan) -> float:
    return work_of(made.rows, _bands(made), made.request.task.aggregate)


def _bands(made: MapPlan) -> dict[str, int]:
    """Bands that are read of each sensor, a quality band counting as one."""
    return {key: len(bands_needed(made.card.sensors[key].features, SENSORS[key].band_names))
            + (SENSORS[key].kind == "optical") for key in made.items}


def _kind(made: MapPlan, way: Way) -> Kind:
    request, card = scrubbed(made.request.to_json()), made.card
    asked = made.request.device
    # a device that is not there is no matter for a plan
    device = pick_device(asked).type if asked == "auto" else asked
    options = json.dumps(card.options, sort_keys=True, default=str).encode()
    network = f"{card.method} {card.encoder} {hashlib.sha256(options).hexdigest()[:8]}"
    return Kind(machine(), request["task"], request["sensor"], request["catalog"], device,
                made.request.speed, network, scrubbed(way.scheduler), _workers(way, device))


def _workers(way: Way, device: str) -> int:
    """How many there will be; 0 of a cluster, which has its own."""
    if way.scheduler not in (NO_SCHEDULER, "local"):
        return 0
    return way.workers or (cores() if device == "cpu" or way.scheduler == "local" else 1)
