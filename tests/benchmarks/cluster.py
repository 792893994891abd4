"""A map from a cluster: how it scales from one worker process to two, and with a worker killed.

``python -m tests.benchmarks.cluster --region DIR [--side PX] [--namespaces] [--json FILE]``

The job is bound by decoding: the network is a toy. With ``--namespaces`` (as root, with iproute2)
the workers live in network namespaces, each with its own address; one is killed in the middle of
the run, and the map is compared with that of a single process.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.infer.cluster import Job, connected, run_on_cluster
from pipeline.infer.predict import Predictor
from pipeline.infer.profile import machine
from pipeline.infer.run import Reader, run_tiles
from pipeline.infer.store import LOG, RunStore
from pipeline.mapping import MapPlan, make_request, plan_map
from pipeline.spec.layers import layers_of
from tests.benchmarks.region import make, part
from tests.support.toy import save_untrained

NET, PORT = "10.77.0", 28786
GOAL = 1.8
TILE_PX = 256


def planned(region: Path, side: int, folder: Path) -> MapPlan:
    """A square of the region from Sentinel-2, with a toy network."""
    aoi = folder / "part.geojson"
    aoi.write_text(json.dumps(part(region, side)))
    toy = save_untrained(folder / "toy", "cropland")
    return plan_map(make_request(str(aoi), "s2", period="2023-10", device="cpu", speed="exact",
                                 catalog=str(region / "catalog.json"), checkpoint=str(toy),
                                 out=str(folder / "out"), tile_px=TILE_PX))


def opened(made: MapPlan, root: Path) -> tuple[Predictor, Reader, RunStore]:
    """What a run needs."""
    root.mkdir(parents=True, exist_ok=True)
    request = made.request
    return (Predictor(request.task, made.card, made.arrays, "cpu", "exact"),
            Reader(made.items, made.card.sensors, request.timeline, request.task, made.layers),
            RunStore.open(root, {"request": 1}, made.sheets, layers_of(request.task), TILE_PX,
                          False))


def job_of(made: MapPlan, root: Path) -> tuple[Job, RunStore]:
    """A cluster's job, and its store."""
    predictor, reader, store = opened(made, root)
    return Job(f"bench-{root.name}", reader, made.card, made.arrays, "cpu", "exact",
               predictor.precision, root, made.sheets, store.layers, TILE_PX), store


def pixels(made: MapPlan, store: RunStore) -> np.ndarray:
    """All layers."""
    return np.stack([store.view(s.name, lay.name)[:, :] for s in made.sheets
                     for lay in store.layers])


def scaling(made: MapPlan, folder: Path) -> dict[str, float]:
    """Seconds of the tiles with one and with two worker processes of a core each, started
    beforehand. Without the core of its own a single worker would decode on both.

    ``cpu_s`` is the processor time of the busiest worker: beside other programs it still tells how
    well the work is shared, and what sharing it costs.
    """
    found = {}
    for workers in (2, 1, 2):  # the first run brings the files into memory
        job, store = job_of(made, folder / f"workers-{workers}-{len(found)}")
        with connected("local", workers) as client:
            for core, worker in enumerate(sorted(client.scheduler_info()["workers"])):
                client.run(_pin, core, workers=[worker])
            warm = made.rows[:workers]  # processes import what they need
            run_on_cluster(warm, job, store, lambda _: None, client)
            before = client.run(time.process_time)
            begun = time.perf_counter()
            run_on_cluster(made.rows, job, store, lambda _: None, client)
            found[f"workers_{workers}_s"] = round(time.perf_counter() - begun, 2)
            after = client.run(time.process_time)
            found[f"workers_{workers}_cpu_s"] = round(max(after[w] - before[w] for w in after), 2)
    wall, cpu = (found[f"workers_1_{k}"] / found[f"workers_2_{k}"] for k in ("s", "cpu_s"))
    return found | {"speed_up": round(wall, 3), "speed_up_of_processors": round(cpu, 3),
                    "goal": GOAL, "tiles": len(made.rows)}


def _pin(core: int) -> None:
    """Keep all threads of this process, and those that they start, on one core."""
    core = sorted(os.sched_getaffinity(os.getppid()))[core]
    for task in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


@contextmanager
def namespaces(count: int) -> Iterator[list[str]]:
    """Network namespaces on a bridge, with the addresses NET.2, NET.3, ...; the host is NET.1."""

    def ip(*words: str, check: bool = True) -> None:
        subprocess.run(["ip", *words], check=check, capture_output=True)

    names = [f"wallmap{k}" for k in range(count)]
    try:
        ip("link", "add", "wallmap", "type", "bridge")
        ip("addr", "add", f"{NET}.1/24", "dev", "wallmap")
        ip("link", "set", "wallmap", "up")
        for k, name in enumerate(names):
            ip("netns", "add", name)
            ip("link", "add", f"wm{k}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"wm{k}", "master", "wallmap", "up")
            ip("-n", name, "addr", "add", f"{NET}.{k + 2}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name, check=False)
        ip("link", "del", "wallmap", check=False)


@contextmanager
def process(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own session, ended with all it started."""
    started = subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        yield started
    finally:
        if started.poll() is None:
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def killed(made: MapPlan, folder: Path) -> dict[str, Any]:
    """Two workers with their own addresses, one killed after a third of the tiles."""
    predictor, reader, store = opened(made, folder / "single")
    run_tiles(made.rows, reader, predictor, store, lambda _: None)
    wanted = pixels(made, store)
    python = sys.executable
    with ExitStack() as stack:
        names = stack.enter_context(namespaces(2))
        stack.enter_context(process(python, "-m", "distributed.cli.dask_scheduler", "--host",
                                    f"{NET}.1", "--port", str(PORT), "--no-dashboard"))
        workers = [stack.enter_context(process(
            "ip", "netns", "exec", name, python, "-m", "distributed.cli.dask_worker",
            f"tcp://{NET}.1:{PORT}", "--nthreads", "1", "--no-nanny", "--no-dashboard",
            "--memory-limit", "0")) for name in names]
        job, shared = job_of(made, folder / "shared")
        with connected_when_ready(f"tcp://{NET}.1:{PORT}", 2) as client:
            addresses = sorted(client.scheduler_info()["workers"])
            done: list[str] = []

            def finished(record: Any) -> None:
                done.append(record.key)
                if len(done) == max(len(made.rows) // 3, 1):
                    os.killpg(workers[0].pid, signal.SIGKILL)

            records = run_on_cluster(made.rows, job, shared, finished, client)
    lines = (folder / "shared" / LOG).read_text().splitlines()
    return {"tiles": len(made.rows), "workers": addresses, "killed": 1,
            "failed": sum(r.status == "failed" for r in records), "logged": len(lines),
            "bit_identical": bool((pixels(made, shared) == wanted).all())}


@contextmanager
def connected_when_ready(address: str, workers: int) -> Iterator[Any]:
    """A client, once so many workers are there."""
    from distributed import Client

    with Client(address, timeout="60s") as client:
        client.wait_for_workers(workers, timeout=120)
        yield client


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and print."""
    p = argparse.ArgumentParser(prog="python -m tests.benchmarks.cluster", description=__doc__)
    p.add_argument("--region", type=Path, required=True, help="folder; made when missing")
    p.add_argument("--side", type=int, default=2048, help="pixels of the part that is mapped")
    p.add_argument("--namespaces", action="store_true", help="workers with their own addresses")
    p.add_argument("--json", type=Path, metavar="FILE")
    args = p.parse_args(argv)
    region = make(args.region)
    with tempfile.TemporaryDirectory() as folder:
        made = planned(region, args.side, Path(folder))
        found: dict[str, Any] = {"machine": machine(), "scaling": scaling(made, Path(folder))}
        if args.namespaces:
            found["killed"] = killed(made, Path(folder))
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    main()
