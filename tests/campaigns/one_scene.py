"""One new scene over 3 of 400 tiles: ``python -m tests.campaigns.one_scene [--side 20]``.

A square of tiles is mapped; then one scene comes in whose outline lies across three of them, and
the map is refreshed. Three tiles must be made again, all others be the very same files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio
from pyproj import Transformer

from pipeline import sandbox
from pipeline.refresh.job import jobs_of, read_schedule
from pipeline.refresh.result import RefreshResult
from pipeline.refresh.rounds import run_round
from pipeline.refresh.versions import Shelf
from tests.support.archive import Archive
from tests.support.toy import save_untrained

TILE_PX, PIXEL_M, EPSG = 48, 10, 32631
TILE_M = TILE_PX * PIXEL_M
NORTH = 10_000_000  # metres; where the lattice of pixels begins
MARGIN_M = 600  # of the images around the area
DAYS = datetime(2023, 11, 2, 3, tzinfo=UTC), datetime(2023, 11, 3, 3, tzinfo=UTC)


@dataclass(frozen=True)
class Found:
    """What the refresh did.

    Attributes:
        before, after: what it said of the first version and of the second.
        linked: chunk files of the second version that are files of the first, too.
        chunks: chunk files of the second version.
        made: names of the tiles that have a chunk of their own.
        expected: names of the tiles that the scene lies across.
        outside: pixels outside of these that differ between the versions.
        seconds: of both refreshes.
    """

    before: RefreshResult
    after: RefreshResult
    linked: int
    chunks: int
    made: frozenset[tuple[int, int]]
    expected: frozenset[tuple[int, int]]
    outside: int
    seconds: tuple[float, float]

    @property
    def wrong(self) -> bool:
        tiles = self.after.tiles
        return (self.after.status != "published" or tiles.recomputed != len(self.expected)
                or tiles.carried != tiles.total - tiles.recomputed or self.made != self.expected
                or self.outside > 0)


def refreshed(work: Path, side: int) -> Found:
    """Map ``side`` x ``side`` tiles in an empty folder, let one scene come, and refresh."""
    size_km = (side * TILE_M + 2 * MARGIN_M) / 1000
    params = replace(
        sandbox.SandboxParams.demo(), lon=3.0, lat=48.0, seed=3, s2_gap=0.0, s1_gap=0.0,
        width_km=size_km, height_km=size_km, s1_days=180, s2_days=30, l8_days=180,
        cropland_points=200, lfmc_sites=12, workers=1)
    sandbox.write(work / "archive", params)
    archive = Archive(work / "archive")
    newest = max((e for e in archive.entries.values()
                  if e.collection == "sentinel-2-l2a" and not e.again), key=lambda e: e.seen)
    middle = Transformer.from_crs(4326, EPSG, always_xy=True).transform(params.lon, params.lat)
    left = round(middle[0] / TILE_M - side / 2) * TILE_M
    top = round(middle[1] / TILE_M + side / 2) * TILE_M + NORTH % TILE_M  # on the lattice of tiles
    _write_area(work / "area.geojson", left, top, side * TILE_M)
    # across the second to the fourth tile of the second row
    row, cols = 1, range(1, 4)
    box = (left + (cols[0] + 0.4) * TILE_M, top - (row + 0.65) * TILE_M,
           left + (cols[-1] + 0.6) * TILE_M, top - (row + 0.35) * TILE_M)
    _crop(archive, newest.id, box)
    archive.comes(newest.id, DAYS[1].replace(hour=0))
    checkpoint = save_untrained(work / "checkpoint", "cropland")
    (work / "schedule.toml").write_text(f"""root = "root"
catalog = "archive/today.json"
[regions.square]
aoi = "area.geojson"
tasks = ["cropland"]
[tasks.cropland]
sensor = "s2"
period = "2023-10"
checkpoint = "{checkpoint}"
tile_px = {TILE_PX}
""")
    jobs = jobs_of(read_schedule(work / "schedule.toml"), work)
    results, seconds = [], []
    for day in DAYS:
        archive.view(day)
        begun = time.perf_counter()
        results += run_round(jobs, day, progress=False, every=True)
        seconds.append(time.perf_counter() - begun)
    return _compared(jobs[0].shelf, results, {(row, c) for c in cols}, (seconds[0], seconds[1]))


def _compared(shelf: Shelf, results: Sequence[RefreshResult], expected: set[tuple[int, int]],
              seconds: tuple[float, float]) -> Found:
    old, new = (shelf.version(r.version) for r in results)
    chunks = list(new.rglob("store.zarr/*/*/c/*/*"))
    own = [p for p in chunks if not _same_file(p, old / p.relative_to(new))]
    outside = 0
    for layer in ("map", "confidence", "sensor", "observations", "quality"):
        with rasterio.open(old / f"{layer}.tif") as a, rasterio.open(new / f"{layer}.tif") as b:
            differ = a.read(1) != b.read(1)
        for row, col in expected:
            differ[row * TILE_PX : (row + 1) * TILE_PX, col * TILE_PX : (col + 1) * TILE_PX] = False
        outside += int(np.count_nonzero(differ))
    return Found(results[0], results[1], len(chunks) - len(own), len(chunks),
                 frozenset((int(p.parent.name), int(p.name)) for p in own), frozenset(expected),
                 outside, seconds)


def _same_file(a: Path, b: Path) -> bool:
    return b.exists() and a.stat().st_ino == b.stat().st_ino


def _write_area(path: Path, left: float, top: float, side: float) -> None:
    ring = [[left, top], [left, top - side], [left + side, top - side], [left + side, top],
            [left, top]]
    path.write_text(json.dumps({
        "type": "FeatureCollection", "crs": {"type": "name", "properties": {
            "name": f"urn:ogc:def:crs:EPSG::{EPSG}"}},
        "features": [{"type": "Feature", "properties": {},
                      "geometry": {"type": "Polygon", "coordinates": [ring]}}]}))


def _crop(archive: Archive, name: str, box: tuple[float, float, float, float]) -> None:
    """Keep the part of a scene within a box (left, bottom, right, top) in metres."""
    path = archive.folder / archive.entries[name].path
    asset = json.loads(path.read_text())["assets"]["B02"]["href"]
    with rasterio.open(path.parent / asset) as cog:
        b = cog.bounds
    width, height = b.right - b.left, b.top - b.bottom
    archive.crop(name, ((b.top - box[3]) / height, (b.top - box[1]) / height),
                 ((box[0] - b.left) / width, (box[2] - b.left) / width))


def main(argv: Sequence[str] | None = None) -> int:
    """Refresh, print what came of it; 0 when it is as it should be."""
    p = argparse.ArgumentParser(prog="python -m tests.campaigns.one_scene", description=__doc__)
    p.add_argument("--side", type=int, default=20, help="tiles along a side (default 20)")
    p.add_argument("--work", type=Path, default=Path("build/one-scene"),
                   help="folder, emptied first")
    args = p.parse_args(argv)
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    found = refreshed(args.work.resolve(), args.side)
    tiles, told = found.after.tiles, found.after
    print(f"{tiles.total} tiles; {told.reason}; {tiles.recomputed} made, {tiles.carried} carried; "
          f"{told.bytes.saved_share:.1%} of the bytes not read\n"
          f"{found.linked} of {found.chunks} chunk files are those of the version before; "
          f"{found.outside} pixels differ outside of the {len(found.expected)} tiles\n"
          f"first map {found.seconds[0]:.1f} s, refresh {found.seconds[1]:.1f} s")
    return int(found.wrong)


if __name__ == "__main__":
    sys.exit(main())
