"""The tiles of a plan on a cluster of Dask workers: one small task a tile.

What all tiles share (items, checkpoint, grid) goes to each worker once, as a plugin, which workers
that join or are started again later get, too. A worker puts its tiles into the run store, which it
must reach by the same path; no two tiles share a chunk. This process alone says which are finished.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pystac
import torch
from distributed import (
    Client,
    Future,
    KilledWorker,
    LocalCluster,
    WorkerPlugin,
    as_completed,
    get_worker,
)
from distributed.comm import get_address_host_port
from distributed.worker import Worker

from pipeline.data.items import ItemSet
from pipeline.infer.plan import Cell, PlanRow
from pipeline.infer.predict import Predictor
from pipeline.infer.profile import Profile
from pipeline.infer.run import Reader, in_strips
from pipeline.infer.store import STAMP, RunStore
from pipeline.infer.tile import failed_tile, map_tile
from pipeline.spec.card import CheckpointCard
from pipeline.spec.cube import Cube
from pipeline.spec.errors import BadRequest, DataTrouble
from pipeline.spec.grid import Sheet, Tile
from pipeline.spec.layers import Layer
from pipeline.spec.machine import cores
from pipeline.spec.manifest import TileRecord
from pipeline.spec.request import Mode, Speed

GPU = "GPU"  # resource that a worker declares for each of its devices
_AHEAD = 2  # tasks that a thread of a worker finds waiting
_PATIENCE = "30s"  # to find the scheduler


@dataclass(frozen=True)
class TileTask:
    """A row of the plan without what the job holds: a few hundred bytes."""

    sheet: str
    tile: Tile
    cells: tuple[Cell, ...]
    reason: str
    mode: Mode

    @classmethod
    def of(cls, row: PlanRow) -> TileTask:
        """That of a row."""
        return cls(row.sheet.name, row.tile, tuple(row.cells), row.reason, row.mode)

    def row(self, sheets: Sequence[Sheet]) -> PlanRow:
        """The row again."""
        sheet = next(s for s in sheets if s.name == self.sheet)
        return PlanRow(sheet, self.tile, self.cells, self.reason, self.mode)


@dataclass
class Job(WorkerPlugin):
    """All that the tiles of a run share.

    Attributes:
        name: of the plugin.
        reader: of cubes.
        card, arrays: the checkpoint.
        device, speed: as in the request.
        precision: that the network must be computed in: workers of another kind are refused.
        root, sheets, layers, tile_px: of the run store.
    """

    name: str
    reader: Reader
    card: CheckpointCard
    arrays: Mapping[str, np.ndarray]
    device: str
    speed: Speed
    precision: str
    root: Path
    sheets: tuple[Sheet, ...]
    layers: tuple[Layer, ...]
    tile_px: int

    def setup(self, worker: Worker) -> None:
        """Called on the worker, once; what is costly waits for the first tile."""
        self._lock = threading.Lock()
        self._opened: tuple[Predictor, RunStore] | None = None

    def opened(self) -> tuple[Predictor, RunStore]:
        """The network and the store, on a worker.

        Raises:
            BadRequest: the worker does not reach the store, or computes in another precision.
        """
        with self._lock:
            if self._opened is None:
                if not (self.root / STAMP).exists():
                    raise BadRequest("a worker does not reach the run's folder", got=self.root,
                                     then="put --out on a disk that all workers share")
                predictor = Predictor(self.reader.task, self.card, self.arrays, self.device,
                                      self.speed)
                if predictor.precision != self.precision:
                    raise BadRequest("a worker's processor computes in another precision",
                                     got=predictor.precision, allowed=self.precision,
                                     then="try --speed exact, which all can")
                if predictor.device.type == "cpu":
                    torch.set_num_threads(1)  # a worker's threads have a tile each
                store = RunStore(self.root, self.sheets, self.layers, self.tile_px)
                self._opened = predictor, store
            return self._opened


def run_on_cluster(
    rows: Sequence[PlanRow],
    job: Job,
    store: RunStore,
    finished: Callable[[TileRecord], None],
    client: Client,
    profile: Profile | None = None,
) -> list[TileRecord]:
    """``run_tiles`` on the workers of a cluster.

    A tile whose worker dies is done again by another; one that costs several workers their life is
    recorded as failed. Ctrl-C leaves a store that can be resumed.

    Args:
        rows: the plan.
        job: what they share.
        store: of the results.
        finished: called after each tile, also for those found in the store.
        client: of the cluster.
        profile: counts what each stage took.
    """
    records = store.done()
    for row in rows:
        if row.key in records:
            finished(records[row.key])
    workers = client.scheduler_info(n_workers=-1)["workers"]
    todo = _by_worker(in_strips([row for row in rows if row.key not in records]), list(workers))
    slots = {GPU: 1} if any(w["resources"].get(GPU) for w in workers.values()) else None
    done, running = as_completed(loop=client.loop), dict[Future, PlanRow]()

    def submit(n: int) -> None:
        """Give the next tiles to the cluster; the scheduler is not told of all at once."""
        for row, worker in itertools.islice(todo, n):
            # a hint, which a task that needs a device cannot have: it would be given to any worker
            # once the one that was meant is gone
            task = client.submit(
                _map_tile, job.name, TileTask.of(row), key=f"{job.name}/{row.key}", pure=False,
                resources=slots, workers=None if slots else worker, allow_other_workers=not slots)
            running[task] = row
            done.add(task)

    client.register_plugin(dataclasses.replace(job, reader=_lean(job.reader)), name=job.name)
    try:
        submit(sum(w["nthreads"] for w in workers.values()) * _AHEAD)
        for task in done:
            record = _record(running.pop(task), task, store)
            store.log(record)
            records[record.key] = record
            if profile:
                profile.add_tile(record)
            finished(record)
            submit(1)
    finally:
        with suppress(OSError, TimeoutError):  # where nobody is left to tell
            client.cancel(list(running))
            client.unregister_worker_plugin(job.name)
    return [records[row.key] for row in rows]


def _record(row: PlanRow, task: Future, store: RunStore) -> TileRecord:
    """Of a task that has ended."""
    try:
        return task.result()
    except KilledWorker:
        record, arrays = failed_tile(row, store.layers, "several workers died of this tile; "
                                     "try a smaller --tile-size")
        store.put(row.tile, arrays, row.sheet.name)  # one may have died after it put its pixels
        return record
    except futures.CancelledError:
        raise DataTrouble("the cluster has gone away",
                          then="repeat the command with --resume") from None


@contextmanager
def connected(scheduler: str, workers: int | None) -> Iterator[Client]:
    """A client of the scheduler at an address, or (``local``) of one started for the block.

    It is not made Dask's default: other computations of the process would be sent to the cluster,
    and wait for ever where it could not be reached.

    Raises:
        BadRequest: it is not an address.
        DataTrouble: nothing answers, or there are no workers: they may be back later.
    """
    if scheduler == "local":
        with (
            LocalCluster(n_workers=workers or cores(), threads_per_worker=1, memory_limit=0,
                         dashboard_address="127.0.0.1:0") as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client
        return
    try:
        get_address_host_port(scheduler)  # a client that fails at this cannot be closed
        client = Client(scheduler, timeout=_PATIENCE, set_as_default=False)
    except ValueError as error:
        raise BadRequest("--scheduler is not an address", got=f"{scheduler}: {error}",
                         allowed="tcp://HOST:PORT, local, none", then="try --scheduler local"
                         ) from None
    except OSError as error:
        raise DataTrouble("no scheduler answers", got=f"{scheduler}: {error}",
                          then="start one with `dask scheduler`, or try --scheduler local"
                          ) from None
    with client:
        if not client.scheduler_info()["workers"]:
            raise DataTrouble("the scheduler has no workers", got=scheduler,
                              then=f"start some with `dask worker {scheduler}`")
        yield client


def _map_tile(name: str, task: TileTask) -> TileRecord:
    """On a worker: map a tile and put it into the store."""
    job: Job = get_worker().plugins[name]  # type: ignore[assignment]
    predictor, store = job.opened()
    row = task.row(job.sheets)
    nothing: futures.Future[tuple[Cube, float] | None] = futures.Future()
    nothing.set_result(None)  # that was read ahead
    record, arrays = map_tile(row, nothing, job.reader, predictor, job.layers)
    store.put(row.tile, arrays, task.sheet)
    return record


def _by_worker(
    rows: Sequence[PlanRow], workers: Sequence[str]
) -> Iterator[tuple[PlanRow, str]]:
    """Rows with the worker that had better do them: each gets a part of the area, since neighbours
    need the same blocks of the images, which it then holds."""
    size = -(-len(rows) // max(len(workers), 1))
    parts = [[(row, worker) for row in rows[k * size : (k + 1) * size]]
             for k, worker in enumerate(workers)]
    return (pair for turn in itertools.zip_longest(*parts) for pair in turn if pair is not None)


def _lean(reader: Reader) -> Reader:
    """The reader with items that hold what is read, and no links to their catalogues."""
    items, layers = ({k: _bare(v) for k, v in found.items()}
                     for found in (reader.items, reader.layers))
    return dataclasses.replace(reader, items=items, layers=layers, composited=None)


def _bare(items: ItemSet) -> ItemSet:
    return ItemSet(items.sensor, items.catalog, tuple(
        pystac.Item.from_dict(i.to_dict(transform_hrefs=False) | {"links": []},
                              preserve_dict=False) for i in items.items), items.skipped)
