"""From image files to monthly composites, stage by stage, beside GDAL's bare decode of the same
blocks, and of a bare look at the same memory.

    python -m tests.benchmarks.reading [--region DIR] [--tiles N] [--threads N] [--json FILE]

Rounds are interleaved and the best of each row counts: load inflates all, trust the ratio. MB are
of decoded pixels, each block once; pixels are of the map. The old composite is a sort of float32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import rasterio
import shapely.geometry
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from pipeline.data.block_store import SHARED
from pipeline.data.items import ItemSet
from pipeline.data.load import load_cube, recipe_of
from pipeline.data.rasters import GDAL_OPTIONS
from pipeline.data.recipe import Member, Recipe
from pipeline.data.search import search
from pipeline.data.stacks import images_of
from pipeline.infer.profile import machine
from pipeline.prep.composite import strips
from pipeline.spec.grid import sheets
from pipeline.spec.sensors import SENSORS
from pipeline.spec.timeline import Timeline, parse_period
from tests.benchmarks.region import make

TILE_PX = 512
BARE = "bare GDAL decode, each block once"
COMPOSITE, LOOK = "composite", "bare look at the same memory"
PERIOD = "2023-10"


@dataclass(frozen=True)
class Job:
    """Tiles of one sensor to be read."""

    items: ItemSet
    tiles: tuple[GeoBox, ...]
    bands: tuple[str, ...]
    timeline: Timeline
    threads: int

    def recipe(self, tile: GeoBox) -> Recipe:
        """Which image goes where."""
        return recipe_of(self.items, images_of(self.items, tile, self.bands), self.timeline, 1)


@dataclass(frozen=True)
class Row:
    """One way: seconds of the clock and of the processor, and bytes of pixels decoded."""

    wall: float
    cpu: float
    size: int


def job(region: Path, sensor: str, side: int, threads: int) -> Job:
    """``side`` x ``side`` tiles that lie within the region."""
    area = shapely.geometry.shape(json.loads((region / "aoi.geojson").read_text())["geometry"])
    period = parse_period(PERIOD, 12)
    items = search(str(region / "catalog.json"), sensor, area, period)
    whole = [t for t in sheets(area, 10)[0].tiles(TILE_PX) if t.geobox.shape == (TILE_PX, TILE_PX)]
    ix, iy = min(t.ix for t in whole), min(t.iy for t in whole)
    tiles = tuple(t.geobox for t in whole if t.ix < ix + side and t.iy < iy + side)
    return Job(items, tiles, SENSORS[sensor].band_names, period, threads)


def blocks(job: Job) -> list[tuple[str, list[Window]]]:
    """Blocks of every file that the tiles touch."""
    left, bottom, right, top = (
        f(t.boundingbox.bbox[k] for t in job.tiles) for k, f in enumerate((min, min, max, max)))
    found = []
    for item, source in zip(job.items.items, job.items.sources, strict=True):
        for key in (*source.assets.values(), *([source.mask_asset] if source.mask else [])):
            with rasterio.open(item.assets[key].href) as file:
                part = file.window(left, bottom, right, top).round_offsets().round_lengths()
                part = part.intersection(Window(0, 0, file.width, file.height))
                found.append((item.assets[key].href, [
                    w for _, w in file.block_windows(1) if rasterio.windows.intersect(w, part)]))
    return found


def bare(job: Job, files: Sequence[tuple[str, list[Window]]]) -> int:
    """Decode blocks and forget them."""
    def one(href: str, windows: Sequence[Window]) -> int:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(href, sharing=False) as file:
            return sum(file.read(1, window=w).nbytes for w in windows)

    with ThreadPoolExecutor(job.threads) as pool:
        return sum(pool.map(lambda pair: one(*pair), files))


def numbers_of(
    job: Job, recipe: Recipe, tile: GeoBox, step: int
) -> tuple[list[Member], list[np.ndarray | None], list[list[np.ndarray]]]:
    """Images of a month, their quality codes, and their numbers by band."""
    members = recipe.members(step)
    with rasterio.Env(**GDAL_OPTIONS):
        quality = [m.images.quality(m.k, tile) for m in members]
        numbers = [[m.images.numbers(band, m.k, tile) for m in members] for band in job.bands]
    return members, quality, numbers


def read_only(job: Job, _: object) -> int:
    """Pixels of all images on the tiles, without composites."""
    SHARED.clear()
    with ThreadPoolExecutor(job.threads) as pool:
        for tile in job.tiles:
            recipe = job.recipe(tile)
            list(pool.map(lambda s, r=recipe, t=tile: bool(numbers_of(job, r, t, s)), range(12)))
    return 0


def whole(job: Job, _: object) -> int:
    """What a map does."""
    SHARED.clear()
    for tile in job.tiles:
        load_cube(job.items, tile, job.bands, job.timeline, num_workers=job.threads)
    return 0


class Composites:
    """Composites of the first tile, its images in memory: ours, and the old way."""

    def __init__(self, job: Job) -> None:
        tile = job.tiles[0]
        self.recipe = job.recipe(tile)
        self.months = [m for s in range(12) if (m := numbers_of(job, self.recipe, tile, s))[0]]

    def ours(self, job: Job, _: object) -> int:
        """As in ``load_cube``."""
        for members, quality, numbers in self.months:
            covered = [m.images.covered(q) for m, q in zip(members, quality, strict=True)]
            for band, stack in zip(job.bands, numbers, strict=True):
                self.recipe.compose(band, members, stack, quality, covered)
        return 0

    def looked_at(self, job: Job, _: object) -> int:
        """The same memory without the arithmetic: every number is read once, every composite and
        count is written once, in strips that the caches hold. No composite can be quicker."""
        shape = self.months[0][2][0][0].shape
        value, count = np.empty(shape, np.float32), np.empty(shape, np.uint8)
        for _, quality, numbers in self.months:
            for part in strips(shape):
                for code in quality:
                    if code is not None:
                        code[part].max()
                for stack in numbers:
                    for image in stack:
                        image[part].max()
                    value[part] = 0
                    count[part] = 0
        return 0

    def old(self, job: Job, _: object) -> int:
        """All images in float32, sorted pixel by pixel; the mean with a float64 copy."""
        for members, quality, numbers in self.months:
            for band, stack in zip(job.bands, numbers, strict=True):
                values = np.stack([
                    m.images.physical(band, m.k, n, m.images.covered(q))
                    for m, n, q in zip(members, stack, quality, strict=True)])
                (_sorted if self.recipe.kind == "optical" else _mean)(values)
        return 0


def _sorted(stack: np.ndarray) -> np.ndarray:
    ordered = np.sort(stack, axis=0)
    n = np.isfinite(stack).sum(0)
    low = np.take_along_axis(ordered, np.maximum((n - 1) // 2, 0)[None], 0)[0]
    high = np.take_along_axis(ordered, np.minimum(n // 2, len(stack) - 1)[None], 0)[0]
    return np.where(n > 0, (low + high) * np.float32(0.5), np.float32(np.nan))


def _mean(stack: np.ndarray) -> np.ndarray:
    n = np.isfinite(stack).sum(0)
    total = np.nansum(stack, axis=0, dtype=np.float64)
    return 10 * np.log10(np.where(n > 0, total / np.maximum(n, 1), np.nan).astype(np.float32))


def measure(job: Job, rounds: int) -> dict[str, Row]:
    """Best of each row; composites are of one tile and stand for all."""
    files, made = blocks(job), Composites(job)
    rows: dict[str, tuple[Callable[[Job, object], int], int]] = {
        BARE: (lambda j, f: bare(j, files), 1),
        "read: decode, hold, place": (read_only, 1),
        COMPOSITE: (made.ours, len(job.tiles)),
        LOOK: (made.looked_at, len(job.tiles)),
        "load_cube: both": (whole, 1),
        "old composite": (made.old, len(job.tiles)),
    }
    found: dict[str, Row] = {}
    for _ in range(rounds):
        for name, (action, times) in rows.items():
            wall, cpu = time.perf_counter(), time.process_time()
            size = action(job, None)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            row = Row(wall * times, cpu * times, size)
            found[name] = min(found.get(name, row), row, key=lambda r: r.cpu)
    return found


def peak_mib() -> float:
    """Most memory that this process has had, MiB; ``ru_maxrss`` is also its parent's."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("VmHWM:") + 1]) / 1024


def peak(region: Path, sensor: str) -> tuple[float, float]:
    """MiB of a process before and after one tile is read."""
    call = [sys.executable, "-m", "tests.benchmarks.reading", "--region", str(region),
            "--peak", sensor]
    before, after = subprocess.run(call, check=True, capture_output=True, text=True).stdout.split()
    return float(before), float(after)


def markdown(sensor: str, job: Job, rows: dict[str, Row], memory: tuple[float, float]) -> list[str]:
    """The table of a sensor."""
    pixels, size = len(job.tiles) * TILE_PX**2, rows[BARE].size
    lines = [f"{SENSORS[sensor].title}: {len(job.tiles)} tiles of {TILE_PX} px, "
             f"{len(job.items.items)} images, {len(job.bands)} bands, {size / 1e6:.0f} MB in "
             f"blocks, {job.threads} threads; a tile takes {memory[1] - memory[0]:.0f} MiB "
             f"beside {memory[0]:.0f}", "",
             "| stage | wall s | CPU s | MB/s of CPU | Mpx/s of CPU | of bare decode |",
             "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {row.wall:.2f} | {row.cpu:.2f} | {size / row.cpu / 1e6:.0f} "
                     f"| {pixels / row.cpu / 1e6:.2f} | {row.cpu / rows[BARE].cpu:.2f} |")
    times = rows[COMPOSITE].cpu / rows[LOOK].cpu
    return [*lines, "", f"{COMPOSITE}: {times:.2f} times a {LOOK}"]


def main() -> None:
    """Measure and print."""
    p = argparse.ArgumentParser(prog="python -m tests.benchmarks.reading", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--region", type=Path, metavar="DIR", help="of tests.benchmarks.region; "
                   "default: one of 2 x 2 repetitions is made in the temporary folder")
    p.add_argument("--tiles", type=int, default=3, metavar="N", help="N x N of them")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--sensors", default="s1,s2")
    p.add_argument("--json", type=Path, metavar="FILE")
    p.add_argument("--peak", metavar="SENSOR", help=argparse.SUPPRESS)
    args = p.parse_args()
    region = args.region or make(Path(tempfile.gettempdir()) / "wallmap-region", 2)
    if args.peak:
        one = job(region, args.peak, 1, args.threads)
        before = peak_mib()
        whole(one, None)
        print(before, peak_mib())
        return
    print(f"{machine()}\n")
    found = {}
    for sensor in args.sensors.split(","):
        todo = job(region, sensor, args.tiles, args.threads)
        rows, memory = measure(todo, args.rounds), peak(region, sensor)
        found[sensor] = {"rows": {k: asdict(r) for k, r in rows.items()}, "peak_mib": memory}
        print("\n".join(markdown(sensor, todo, rows, memory)), "\n")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "sensors": found}, indent=1))


if __name__ == "__main__":
    main()
