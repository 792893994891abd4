"""From ten tiles to a hundred thousand: planning, the run's own cost a tile, peak memory.

``python -m tests.benchmarks.scale [--region DIR] [--last N] [--json FILE]``
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import shapely
import shapely.affinity
import torch
from stac_geoparquet import arrow

from pipeline.data.items import ItemSet
from pipeline.data.search import search
from pipeline.infer.orbits import orbits_of
from pipeline.infer.plan import Cell, Choice, PlanRow, plan
from pipeline.infer.predict import Prediction
from pipeline.infer.profile import machine
from pipeline.infer.run import run_tiles
from pipeline.infer.store import LOG, RunStore
from pipeline.sandbox.items import COLLECTION
from pipeline.spec.cube import Cube
from pipeline.spec.grid import Sheet, sheets, window
from pipeline.spec.layers import layers_of
from pipeline.spec.manifest import RunManifest, TileRecord
from pipeline.spec.tasks import CROPLAND
from pipeline.spec.timeline import Timeline
from tests.benchmarks import apart, vast
from tests.benchmarks.region import make, part
from tests.support.stac_server import StacServer
from tests.support.toy import save_untrained, sensor_card, toy_card

YEAR = Timeline(2023 * 12, 12)
TINY = 16  # pixels of a side of a simulated tile
SIZES = (1_000, 10_000, 100_000)
PARTS = (1_400, 4_600)  # pixels: 9 to 16, and 81 to 100 tiles
TILE_PX = 512


def fake_items(sensor: str, n: int, seed: int) -> ItemSet:
    """Images whose outlines are all different: archives repeat theirs, and are planned faster."""
    rng = np.random.default_rng(seed)
    width, height = (1.4, 1.0) if sensor == "s2" else (3.4, 2.0)
    items = []
    for k in range(n):
        lon, lat = rng.uniform(2.2, 9.8), rng.uniform(45, 50.2)
        x = lon + np.array([-0.5, 0.5, 0.5, -0.5]) * width + np.array([0.25, 0.25, -0.25, -0.25])
        y = lat + np.array([-0.5, -0.5, 0.5, 0.5]) * height
        outline = shapely.Polygon(np.column_stack([x, y]))
        more: dict[str, Any] = {"platform": f"{sensor}-{k % 2}"}
        if sensor == "s2":
            more["eo:cloud_cover"] = float(rng.uniform(0, 100))
        else:
            more |= {"sat:orbit_state": "ascending", "sat:relative_orbit": k % 4}
        when = datetime(2023, 1, 1, tzinfo=UTC) + timedelta(minutes=int(rng.integers(0, 525_600)))
        items.append(pystac.Item(f"{sensor}-{k}", shapely.geometry.mapping(outline),
                                 list(outline.bounds), when, more))
    return ItemSet(sensor, "fake", tuple(items))


def planning(tiles: int, images: int) -> dict[str, float]:
    """Seconds of processor to plan so many tiles of 512 pixels from so many images."""
    side = 5.12e3 * tiles**0.5 / 111_320
    area = shapely.affinity.scale(shapely.Point(4.5, 47.5).buffer(1, quad_segs=64),
                                  side * 0.75, side * 0.55)
    card = toy_card(CROPLAND, {k: sensor_card(CROPLAND, k, (0.5, s))
                               for k, s in (("s1", 0.85), ("s2", 0.95))})
    items = {"s1": fake_items("s1", images // 2, 1), "s2": fake_items("s2", images // 2, 2)}
    begun = time.process_time()
    rows = plan(sheets(area, 10), 512, items, card, YEAR, ())
    planned = time.process_time()
    orbits_of(items["s1"], [row.tile.geobox for row in rows])
    return {"tiles": len(rows), "images": images, "plan_s": round(planned - begun, 2),
            "orbits_s": round(time.process_time() - planned, 2)}


def searching(region: Path, images: int) -> dict[str, float]:
    """Seconds to find so many images of one sensor: over an API on this machine, 250 a page, and
    in a stac-geoparquet file."""
    area = shapely.box(2.2, 45, 9.8, 50.2)
    with StacServer(region, page=250) as server, tempfile.TemporaryDirectory() as folder:
        pattern = next(i for i in server.items if i["collection"] == COLLECTION["s2"])
        server.items = [_renamed(pattern, item) for item in fake_items("s2", images, 3).items]
        table = Path(folder) / "items.parquet"
        arrow.to_parquet(arrow.parse_stac_items_to_arrow(server.items), table)
        took: dict[str, float] = {}
        for name, place in (("api", server.url), ("parquet", str(table))):
            begun = time.perf_counter()
            found = search(place, "s2", area, YEAR)
            took[f"{name}_s"] = _since(begun)
            assert len(found.items) == images, (name, len(found.items))
    return {"images": images, **took}


def _renamed(pattern: dict[str, Any], item: pystac.Item) -> dict[str, Any]:
    """An item of the archive's kind at another item's place and time."""
    assert item.datetime is not None
    when = item.datetime.strftime("%Y-%m-%dT%H:%M:%SZ")
    named = {key: item.id for key in ("s2:datatake_id", "s2:granule_id", "s2:product_uri")
             if key in pattern["properties"]}
    assets = {key: asset | {"href": f"https://archive.example/{item.id}/{key}.tif"}
              for key, asset in pattern["assets"].items()}
    return pattern | {"id": item.id, "geometry": item.geometry, "bbox": item.bbox, "assets": assets,
                      "properties": pattern["properties"] | named | {"datetime": when}}


class _Reader:
    """Constant cubes."""

    def __call__(self, row: PlanRow, sensor: str) -> tuple[Cube, float]:
        grid = row.tile.geobox.pad(CROPLAND.smooth_px(sensor) // 2)
        x = np.ones((12, 2, *grid.shape), np.float32)
        return Cube(sensor, ("vv", "vh"), YEAR, grid, x, np.ones((12, *grid.shape), np.uint8)), 0.0


class _Predictor:
    """Constant classes."""

    task, device = CROPLAND, torch.device("cpu")
    card, halted = toy_card(CROPLAND), threading.Event()

    def __call__(self, sensor: str, cube: Cube, wanted: np.ndarray) -> Prediction:
        score = np.full((2, *wanted.shape), 0.5, np.float32)
        return Prediction(score, np.full(wanted.shape, 12), np.zeros(wanted.shape, np.float32))

    def encode(
        self, sensor: str, score: np.ndarray, steps: np.ndarray, index: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        one = np.ones(steps.shape, np.uint8)
        return one, 50 * one, one


def simulate(tiles: int, last: int, folder: Path) -> dict[str, Any]:
    """The last tiles of a run of tiny tiles: all that a tile costs but reading and the network.

    Args:
        tiles: of the run.
        last: so many of them are made, the others are found finished.
        folder: of the run.

    Returns:
        Milliseconds of processor and of wall a tile, memory, and the costs of resuming and of the
        manifest.
    """
    side = int(tiles**0.5)
    edge = side * TINY * 10
    grid = window((500_000, 5_300_000, 500_000 + edge, 5_300_000 + edge), 32631, 10)
    sheet = Sheet(31, True, grid, shapely.box(*grid.boundingbox.bbox))
    choices = (Choice("s1", 1, 12.0, 0.9),)
    why = "s1: best expected weighted F1, 12.0 of 12 steps expected (weighted F1 0.835)"
    rows = [PlanRow(sheet, tile, (Cell(slice(None), slice(None), choices),), why)
            for tile in sheet.tiles(TINY)]

    def opened(resume: bool) -> RunStore:
        return RunStore.open(folder, {"request": 1}, [sheet], layers_of(CROPLAND), TINY, resume)

    opened(False)
    made = TileRecord(sheet.name, "", "mapped", "s1", why, TINY**2, {"s1": TINY**2},
                      {"s1": TINY**2}, {"s1": 61.0}, {"good": TINY**2}, {}, {"read": 1.0})
    with (folder / LOG).open("w") as log:
        for row in rows[:-last]:
            record = dataclasses.replace(made, tile=row.tile.name)
            log.write(json.dumps(dataclasses.asdict(record)) + "\n")
    begun = time.perf_counter()
    store = opened(True)
    assert len(store.done()) == len(rows) - last
    found = {"tiles": len(rows), "resume_s": _since(begun)}
    marks: list[tuple[float, float]] = []

    def finished(record: TileRecord) -> None:
        marks.append((time.process_time(), time.perf_counter()))

    records = run_tiles(rows, _Reader(), _Predictor(), store, finished)  # type: ignore[arg-type]
    cpu, wall = (np.diff([m[k] for m in marks[-last:]]) * 1e3 for k in (0, 1))
    found |= {"cpu_ms_per_tile": round(float(cpu.mean()), 2),
              "median_ms_per_tile": round(float(np.median(wall)), 2)}
    begun = time.perf_counter()
    text = RunManifest({}, {}, {}, {}, tuple(records)).to_text()
    return found | {"manifest_s": _since(begun), "manifest_mb": round(len(text) / 1e6, 1),
                    "resident_mib": _resident() >> 20}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _since(begun: float) -> float:
    return round(time.perf_counter() - begun, 2)


def real_runs(region: Path, sensors: Sequence[str] = ("s1", "s2")) -> list[dict[str, Any]]:
    """Peak memory and time a tile of real runs at the default tile size: some ten, a hundred and a
    thousand tiles of one region. The network is a toy: it takes little memory anyway, and much
    time."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        toy = save_untrained(Path(folder) / "toy", "cropland")
        areas = [Path(folder) / f"{side}.json" for side in PARTS]
        for area, side in zip(areas, PARTS, strict=True):
            area.write_text(json.dumps(part(region, side)))
        for sensor in sensors:
            for area in (*areas, region / "aoi.geojson"):
                run = [sys.executable, "-m", "pipeline.map", "--aoi", str(area), "--sensor", sensor,
                       "--catalog", str(region / "catalog.json"), "--period", "2023-10", "--json",
                       "--checkpoint", str(toy), "--device", "cpu", "--quiet", "--profile",
                       "--out", f"{folder}/map"]
                done = subprocess.run(run, capture_output=True, text=True,
                                      env=apart(Path(folder)))
                if done.returncode:
                    raise SystemExit(done.stderr)
                made = json.loads(done.stdout)
                wall = made["profile"]["wall"]
                found.append({"sensor": sensor, "tiles": len(made["tiles"]),
                              "mapped": made["totals"]["mapped_share"],
                              "peak_mib": made["profile"]["peak_memory_mib"],
                              # a whole tile's; tiles at the edge are parts of one
                              "ms_per_tile": round(1e3 * wall["seconds"] * TILE_PX**2
                                                   / wall["pixels"])})
                shutil.rmtree(f"{folder}/map")
    return found


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and print."""
    p = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__)
    p.add_argument("--json", type=Path, metavar="FILE")
    p.add_argument("--last", type=int, default=1000, help="tiles made in each simulated run")
    p.add_argument("--region", type=Path, help="folder of the large region; made when missing. "
                   "Without it no real runs are measured")
    args = p.parse_args(argv)
    found: dict[str, Any] = {"machine": machine(), "planning": planning(10_000, 2_000)}
    found["simulated"] = []
    for tiles in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            last = min(args.last, tiles // 2)
            found["simulated"].append(simulate(tiles, last, Path(folder)))
    if args.region:
        region = make(args.region)
        found["searching"] = searching(region, 2_000)
        found["runs"] = real_runs(vast.make(region))
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    main()
