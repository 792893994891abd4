"""A whole map against the slowest of its stages run alone on the same data.

``python -m tests.benchmarks.stages --region DIR [--side PX] [--json FILE]``

Alone, with a thread a core each: GDAL's decoding of the same blocks; the network on as many pixels
(timed on a part of them, per pixel); the COGs written from arrays in memory. The goal: the whole
run takes at most 1.25 times as long as the slowest of these. Without a GPU all stages share the
cores, so that no run can be faster than all of them one after the other, on all cores: ``of sum``
is the run beside that. Processor seconds (``cpu``) tell the same where other work inflates times.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.windows import Window, from_bounds

from pipeline.data.checkpoints import load_checkpoint
from pipeline.data.rasters import GDAL_OPTIONS
from pipeline.infer.predict import Predictor
from pipeline.infer.profile import machine, rates
from pipeline.prep.features import bands_needed
from pipeline.publish.cog import write_cog
from pipeline.sandbox.items import COLLECTION
from pipeline.spec.grid import window
from pipeline.spec.layers import layers_of
from pipeline.spec.machine import cores
from pipeline.spec.sensors import SENSORS
from pipeline.spec.tasks import CROPLAND
from tests.benchmarks import apart
from tests.benchmarks.reading import TILE_PX, Composites, job
from tests.benchmarks.region import make, part

GOAL = 1.25
SAMPLE_PX = 1 << 18  # that the network is timed on
# what a stage is at best; none of "read", which also composites and waits
LIMITS = {"decode": "decode", "composite": "look", "predict": "network", "publish": "write"}


def whole(region: Path, aoi: Path, sensor: str, out: Path, more: Sequence[str]) -> dict[str, Any]:
    """The command line's own run: its manifest, and the seconds of the process."""
    run = [sys.executable, "-m", "pipeline.map", "--aoi", str(aoi), "--sensor", sensor, "--catalog",
           str(region / "catalog.json"), "--period", "2023-10", "--out", str(out), "--json",
           "--quiet", "--profile", "--device", "cpu", *more]
    begun, used = time.perf_counter(), _cpu_of_children()
    done = subprocess.run(run, capture_output=True, text=True, env=apart(out.parent))
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout) | {"process_s": time.perf_counter() - begun,
                                      "cpu_s": _cpu_of_children() - used}


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def files_of(region: Path, sensor: str, bands: Sequence[str]) -> Iterator[Path]:
    """Image files that a map of the sensor reads: superseded versions are left out by name."""
    newest: dict[str, Path] = {}
    for page in sorted((region / COLLECTION[sensor]).glob("*/*.json")):
        newest[json.loads(page.read_text())["properties"]["datetime"]] = page
    for page in newest.values():
        assets = json.loads(page.read_text())["assets"]
        keys = [*bands, "SCL"] if sensor == "s2" else bands
        yield from (page.parent / assets[key]["href"] for key in keys)


def decode(files: Sequence[Path], bounds: tuple[float, float, float, float]) -> dict[str, float]:
    """Decode the blocks of files that bounds (metres) touch, a thread a core."""

    def one(path: Path) -> int:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(path) as file:
            at = from_bounds(*bounds, transform=file.transform)
            block, size = file.block_shapes[0][0], 0
            rows = int(at.row_off) // block * block, min(int(at.row_off + at.height), file.height)
            for row in range(rows[0], rows[1], block):  # whole rows of blocks, each once
                left = int(at.col_off) // block * block
                right = min(-(-int(at.col_off + at.width) // block) * block, file.width)
                read = file.read(1, window=Window(left, row, right - left,
                                                  min(block, file.height - row)))
                size += read.nbytes
            return size

    begun, used = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(cores()) as pool:
        size = sum(pool.map(one, files))
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "cpu_s": time.process_time() - used, "bytes": size,
            "mb_per_s": size / 1e6 / seconds}


def look(region: Path, sensor: str, bands: tuple[str, ...], pixels: int) -> dict[str, float]:
    """A bare look at the memory that composites are made of: of one tile, for that many pixels."""
    one = dataclasses.replace(job(region, sensor, 1, cores()), bands=bands)
    made, used = Composites(one), []
    for _ in range(3):
        begun = time.process_time()
        made.looked_at(one, None)
        used.append(time.process_time() - begun)
    return {"cpu_s": min(used) * pixels / TILE_PX**2}


def network(sensor: str, pixels: int, speed: str) -> dict[str, float]:
    """The branch on standardised noise, a thread a core; seconds for that many pixels."""
    card, arrays = load_checkpoint(CROPLAND.key, student=speed == "fast")
    predictor = Predictor(CROPLAND, card, arrays, "cpu", speed)  # type: ignore[arg-type]
    feed = predictor.feed(sensor)
    shape = (card.steps, card.sensors[sensor].channels)
    planes = np.random.default_rng(0).normal(size=(*shape, feed.block)).astype(np.float32)
    torch.set_num_threads(1)
    feed(planes.transpose(2, 0, 1))
    turns = max(SAMPLE_PX // feed.block // cores(), 1)

    def one(_: int) -> None:
        for _ in range(turns):
            feed(planes.transpose(2, 0, 1))

    begun, used = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(one, range(cores())))
    seconds, part = time.perf_counter() - begun, turns * cores() * feed.block / pixels
    return {"seconds": seconds / part, "cpu_s": (time.process_time() - used) / part,
            "px_per_s": part * pixels / seconds}


def write(out: Path) -> dict[str, float]:
    """Write the layers of a map again, from memory."""
    layers = layers_of(CROPLAND)
    seconds = used = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for layer in layers:
            with rasterio.open(out / f"{layer.name}.tif") as file:
                pixels, crs, bounds = file.read(1), file.crs.to_epsg(), file.bounds
            begun, before = time.perf_counter(), time.process_time()
            write_cog(Path(folder) / f"{layer.name}.tif", pixels,
                      window(tuple(bounds), crs, CROPLAND.pixel_m), layer, {})
            seconds += time.perf_counter() - begun
            used += time.process_time() - before
    return {"seconds": seconds, "cpu_s": used}


def measure(region: Path, side: int | None, sensor: str, speed: str) -> dict[str, Any]:
    """One sensor: the run, each stage alone, and the ratio of the goal."""
    with tempfile.TemporaryDirectory() as folder:
        out, aoi = Path(folder) / "map", region / "aoi.geojson"
        if side:
            aoi = Path(folder) / "part.geojson"
            aoi.write_text(json.dumps(part(region, side)))
        card, _ = load_checkpoint(CROPLAND.key)
        bands = bands_needed(card.sensors[sensor].features, SENSORS[sensor].band_names)
        files = list(files_of(region, sensor, bands))
        made = whole(region, aoi, sensor, out, ["--speed", speed])
        with rasterio.open(out / "map.tif") as file:
            bounds, shape = tuple(file.bounds), file.shape
        pixels = made["totals"]["mapped_px"]
        alone = {"decode": decode(files, bounds), "network": network(sensor, pixels, speed),
                 "write": write(out)}
    looked = look(region, sensor, bands, made["profile"]["stages"]["read"]["pixels"])
    slowest = max(alone, key=lambda key: alone[key]["seconds"])
    wall = made["process_s"]  # imports and all
    ratio = wall / alone[slowest]["seconds"]
    of_sum = wall / sum(stage["seconds"] for stage in alone.values())
    of_cpu = made["cpu_s"] / sum(stage["cpu_s"] for stage in alone.values())
    return {"sensor": sensor, "speed": speed, "shape": list(shape), "pixels": pixels,
            "files": len(files), "profile": made["profile"], "alone": alone, "look": looked,
            "slowest": slowest, "wall_s": wall, "cpu_s": made["cpu_s"],
            "ratio": ratio, "of_sum": of_sum, "of_cpu": of_cpu, "goal": GOAL}


def rows(found: dict[str, Any]) -> Iterator[str]:
    """Lines of the tables."""
    yield (f"{'':<8}{'wall':>9}{'decode':>9}{'network':>9}{'write':>9}{'ratio':>7}{'of sum':>8}"
           f"{'of cpu':>8}  goal {GOAL}")
    for run in found["runs"]:
        alone = "".join(f"{run['alone'][k]['seconds']:>9.1f}"
                        for k in ("decode", "network", "write"))
        yield (f"{run['sensor']:<8}{run['wall_s']:>9.1f}{alone}{run['ratio']:>7.2f}"
               f"{run['of_sum']:>8.2f}{run['of_cpu']:>8.2f}  "
               f"slowest alone: {run['slowest']}, {run['shape'][1]} x {run['shape'][0]} px, "
               f"peak {run['profile']['peak_memory_mib']} MiB")
    for run in found["runs"]:
        yield ""
        yield (f"{run['sensor']:<11}{'seconds':>9}{'px/s':>12}{'MB/s':>9}{'km2/h':>11}"
               f"{'% of limit':>12}")
        stages = run["profile"]["stages"]
        bare = run["alone"]["decode"]
        size = bare["bytes"] / 1e6 / bare["cpu_s"]
        yield f"{'(decode)':<11}{bare['cpu_s']:>9.2f}{'':>12}{size:>9.1f}{'':>11}{'100 %':>12}"
        for name, stage in {**stages, "wall": run["profile"]["wall"]}.items():
            best = {**run["alone"], "look": run["look"]}.get(LIMITS.get(name, ""))
            part = f"{best['cpu_s'] / stage['seconds']:.0%}" if best else ""
            px, mb, km2 = rates(stage)
            yield f"{name:<11}{stage['seconds']:>9.2f}{px:>12}{mb:>9}{km2:>11}{part:>12}"
        yield ("(decode): GDAL alone. Its seconds, and those of decode and composite, are of the "
               "processor;\nthose of others are of all their threads, which wait for a core, too."
               "\nlimit: processor seconds of the same work alone, of composite: of a bare look at "
               "the same memory")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and print."""
    p = argparse.ArgumentParser(prog="python -m tests.benchmarks.stages", description=__doc__)
    p.add_argument("--region", type=Path, required=True, help="folder; made when missing")
    p.add_argument("--side", type=int, help="pixels of a part of it; default: all")
    p.add_argument("--sensors", default="s1,s2")
    p.add_argument("--speed", default="default")
    p.add_argument("--json", type=Path, metavar="FILE")
    args = p.parse_args(argv)
    region = make(args.region)
    found = {"machine": machine(), "runs": [measure(region, args.side, sensor, args.speed)
                                            for sensor in args.sensors.split(",")]}
    print("\n".join(rows(found)))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    main()
