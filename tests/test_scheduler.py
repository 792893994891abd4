"""The same map from a cluster of processes, whatever happens to them."""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, KilledWorker, LocalCluster, default_client

from pipeline.infer.cluster import Job, TileTask, _record, connected, run_on_cluster
from pipeline.infer.predict import Predictor
from pipeline.infer.run import Reader, run_tiles
from pipeline.infer.store import RunStore
from pipeline.infer.tile import map_tile
from pipeline.map import command
from pipeline.mapping import MapPlan, make_request, plan_map
from pipeline.spec.errors import BadRequest, DataTrouble
from pipeline.spec.layers import layers_of

TILE_PX = 24

# distributed's own: what a worker that is killed leaves behind
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def made(region: Path, region_aoi: str, untrained: dict[str, Path]) -> MapPlan:
    return plan_map(make_request(
        region_aoi, "s1", period="2023-10", catalog=str(region / "catalog.json"),
        checkpoint=str(untrained["cropland"]), out="unused", tile_px=TILE_PX, device="cpu",
        speed="exact"))


def reader_of(made: MapPlan) -> Reader:
    return Reader(made.items, made.card.sensors, made.request.timeline, made.request.task,
                  made.layers)


def store_of(made: MapPlan, root: Path, resume: bool = False) -> RunStore:
    return RunStore.open(root, {"request": 1}, made.sheets, layers_of(made.request.task), TILE_PX,
                         resume)


def job_of(made: MapPlan, store: RunStore, precision: str = "") -> Job:
    predictor = predictor_of(made)
    return Job(f"map-{store.root.name}-{precision}", reader_of(made), made.card, made.arrays,
               "cpu", "exact", precision or predictor.precision, store.root, made.sheets,
               store.layers, TILE_PX)


def predictor_of(made: MapPlan) -> Predictor:
    return Predictor(made.request.task, made.card, made.arrays, "cpu", "exact")


def pixels(made: MapPlan, store: RunStore) -> list[np.ndarray]:
    return [store.view(s.name, lay.name)[:, :] for s in made.sheets for lay in store.layers]


@pytest.fixture(scope="module")
def here(made: MapPlan, tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """The pixels that this process maps."""
    store = store_of(made, tmp_path_factory.mktemp("here"))
    run_tiles(made.rows, reader_of(made), predictor_of(made), store, lambda _: None)
    return pixels(made, store)


def test_a_tile_that_costs_workers_their_life_leaves_no_pixels(
    made: MapPlan, tmp_path: Path
) -> None:
    """One of them died after it had put the tile's pixels."""

    class Ended:
        def result(self) -> None:
            raise KilledWorker("tile", None, 3)

    store = store_of(made, tmp_path)
    row = next(r for r in made.rows if r.sheet.inside(r.tile.geobox).any())
    inside = row.sheet.inside(row.tile.geobox)
    store.put(row.tile, {lay.name: np.full(inside.shape, 1, lay.dtype) for lay in store.layers},
              row.sheet.name)
    record = _record(row, Ended(), store)
    assert (record.status, record.area_px, record.mapped_px) == ("failed", inside.sum(), {})
    for layer in store.layers:
        pixels = store.view(row.sheet.name, layer.name)[row.tile.rows, row.tile.cols]
        assert (pixels[~inside] == layer.nodata).all()
        assert set(np.unique(pixels[inside])) <= {0, layer.nodata}


def test_a_worker_killed_changes_no_pixel(
    made: MapPlan, here: list[np.ndarray], tmp_path: Path
) -> None:
    """Two processes, one of them killed in the middle of the run; then a resumed run."""
    store = store_of(made, tmp_path)
    assert len(made.rows) > 6
    seen: list[str] = []
    with connected("local", 2) as client:
        pids = list(client.run(os.getpid).values())
        assert len(set(pids)) == 2
        assert os.getpid() not in pids

        def finished(record) -> None:
            seen.append(record.key)
            if len(seen) == 3:
                os.kill(pids[0], signal.SIGKILL)

        records = run_on_cluster(made.rows, job_of(made, store), store, finished, client)
        assert sorted(seen) == sorted(r.key for r in records)
        assert [r.key for r in records] == [row.key for row in made.rows]
        assert {r.status for r in records} <= {"mapped", "nodata"}
        for got, wanted in zip(pixels(made, store), here, strict=True):
            np.testing.assert_array_equal(got, wanted)

        # what was done is done: nothing is given to the cluster again
        again = run_on_cluster(made.rows, job_of(made, store), store_of(made, tmp_path, True),
                               lambda _: None, client)
        assert again == records

        # a worker that computes otherwise is refused, and what was stored stays
        (tmp_path / "other").mkdir()
        fresh = store_of(made, tmp_path / "other")
        with pytest.raises(BadRequest, match="another precision"):
            run_on_cluster(made.rows, job_of(made, fresh, "float8"), fresh, lambda _: None, client)
        assert fresh.done() == {}

        # Ctrl-C: what was finished is kept, the rest is done by a run in this process
        def stopped(record) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_on_cluster(made.rows, job_of(made, fresh), fresh, stopped, client)
    fresh = store_of(made, tmp_path / "other", True)
    assert len(fresh.done()) == 1
    run_tiles(made.rows, reader_of(made), predictor_of(made), fresh, lambda _: None)
    for got, wanted in zip(pixels(made, fresh), here, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_a_device_has_one_tile_at_a_time(
    made: MapPlan, here: list[np.ndarray], tmp_path: Path, monkeypatch
) -> None:
    """Workers that declare a GPU get a tile for each, however many threads they have."""
    lock, now, most = threading.Lock(), 0, 0

    def counted(*args):
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        try:
            return map_tile(*args)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr("pipeline.infer.cluster.map_tile", counted)
    store = store_of(made, tmp_path)
    with (
        LocalCluster(n_workers=1, processes=False, protocol="tcp://", host="127.0.0.1",
                     threads_per_worker=4, resources={"GPU": 1},
                     dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        records = run_on_cluster(made.rows, job_of(made, store), store, lambda _: None, client)
    assert len(records) == len(made.rows)
    assert most == 1
    for got, wanted in zip(pixels(made, store), here, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_a_task_is_small_and_tells_nothing(made: MapPlan) -> None:
    """The graph holds tiles; items, weights and addresses travel beside it, once."""
    for row in made.rows:
        task = TileTask.of(row)
        content = pickle.dumps(task)
        assert len(content) < 4000
        assert b"http" not in content
        assert b"/" + str(made.request.catalog).rsplit("/", 2)[1].encode() not in content
        back = task.row(made.sheets)
        assert (back.key, tuple(back.cells), back.reason) == (row.key, tuple(row.cells), row.reason)


def test_the_command_line_with_a_scheduler_of_its_own(
    region: Path, region_aoi: str, untrained: dict[str, Path], tmp_path: Path, capsys, monkeypatch
) -> None:
    """Its rates are what the next dry run goes by."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*more: str) -> dict:
        assert command(["--aoi", region_aoi, "--sensor", "s1", "--period", "2023-10", "--catalog",
                        str(region / "catalog.json"), "--checkpoint", str(untrained["cropland"]),
                        "--out", str(tmp_path / "map"), "--tile-size", "48", "--json", "--quiet",
                        *more]) == 0
        return json.loads(capsys.readouterr().out)

    before = run("--dry-run")["estimate"]
    assert (before["runs"], before["seconds"], before["bytes"]) == (0, None, None)
    report = run("--scheduler", "local", "--workers", "1", "--profile")
    assert report["totals"]["failed"] == 0
    assert set(report["profile"]["stages"]) >= {"search", "plan", "read", "predict", "publish"}
    assert (tmp_path / "map" / "utm31n" / "map.tif").exists()
    assert report["profile"]["elsewhere"]
    assert run("--dry-run")["estimate"]["runs"] == 0  # the run was a cluster's
    local = ("--dry-run", "--scheduler", "local", "--workers")
    assert run(*local, "2")["estimate"]["runs"] == 0  # of one worker
    after = run(*local, "1", "--price", "2")["estimate"]
    assert (after["runs"], after["bytes"], after["other_sensor_or_catalog"]) == (1, None, False)
    assert after["image_pixels"] == before["image_pixels"] > 0
    assert after["cost"] == pytest.approx(after["seconds"] / 1800, rel=0.02, abs=1e-4)
    plan = json.loads((tmp_path / "map" / "plan.geojson").read_text())
    assert plan["estimate"] | {"cost": 0, "price_per_hour": 2.0} == after | {"cost": 0}


def test_what_cannot_be_reached_is_said_in_one_line(monkeypatch) -> None:
    monkeypatch.setattr("pipeline.infer.cluster._PATIENCE", "1s")
    with pytest.raises(DataTrouble, match="no scheduler answers"), \
            connected("tcp://127.0.0.1:9", None):
        pass
    for address in ("nonsense://a", "http://x", "::::"):
        with pytest.raises(BadRequest, match="not an address"), connected(address, None):
            pass
    with pytest.raises(ValueError, match="No client"):  # that other computations would wait for
        default_client()
