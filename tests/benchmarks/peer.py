"""The same map made the usual way: odc-stac, a mask, xarray's monthly composite, the plain network
in a loop, rioxarray; beside ``pipeline.map`` on the same area.

    python -m tests.benchmarks.peer [--region DIR] [--tiles N] [--threads N] [--json FILE]

The usual way is kept fair: its chunks are those that were fastest, images are 16-bit until they are
masked, time is one chunk, its threads are ours; it makes classes and probabilities alone, ours all
layers and their checks. Its network takes batches of a size that scripts use, and, ``tuned``, of
one that stays in the cache, which few know to be several times faster. Each way runs in a process
of its own. The classes are compared with the usual way's: it is the same job, but for ``fast``: a
student's.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import shapely.geometry

from tests.benchmarks import apart
from tests.benchmarks.reading import peak_mib

CHUNK_PX = 1024  # 256: five times slower; 2048: as fast, twice the memory
BATCH, TUNED_BATCH = 1 << 14, 1 << 10  # pixels
PERIOD = "2023-10"


@contextmanager
def timed(spent: dict[str, float], stage: str) -> Iterator[None]:
    """Add the seconds of a block to a stage."""
    begun = time.perf_counter()
    yield
    spent[stage] = spent.get(stage, 0.0) + time.perf_counter() - begun


def usual(
    region: Path, sensor: str, aoi: Path, out: Path, threads: int, batch: int = BATCH
) -> dict[str, float]:
    """Map the area as a script would that one writes in a day; seconds of its stages."""
    import dask
    import rioxarray  # noqa: F401  registers the .rio accessor
    import torch
    from scipy.ndimage import uniform_filter

    import models
    from pipeline.data.checkpoints import load_checkpoint
    from pipeline.data.search import search
    from pipeline.prep.features import bands_needed, model_input
    from pipeline.spec.grid import sheets
    from pipeline.spec.sensors import SENSORS
    from pipeline.spec.tasks import CROPLAND
    from pipeline.spec.timeline import parse_period

    spent: dict[str, float] = {}
    area = shapely.geometry.shape(json.loads(aoi.read_text())["geometry"])
    period = parse_period(PERIOD, 12)
    grid = sheets(area, 10)[0].geobox
    card, arrays = load_checkpoint("cropland")
    module = models.build(card.method, card.encoder, card.options)
    module.load_state_dict({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()
                            if not k.startswith("domain.")})
    network: Callable[..., torch.Tensor] = module.eval().predict  # type: ignore[assignment]
    own = card.sensors[sensor]
    bands = bands_needed(own.features, SENSORS[sensor].band_names)
    found = search(str(region / "catalog.json"), sensor, area, period)
    torch.set_num_threads(threads)
    dask.config.set(scheduler="threads", num_workers=threads)
    lazy = composites(found, grid, bands, sensor)
    classes = np.full(grid.shape, 255, np.uint8)
    confidence = np.full(grid.shape, 255, np.uint8)
    for top in range(0, grid.shape[0], CHUNK_PX):
        for left in range(0, grid.shape[1], CHUNK_PX):
            part = (slice(top, top + CHUNK_PX), slice(left, left + CHUNK_PX))
            with timed(spent, "read and composite"):
                # together: the mask is then read once for all bands
                cube = lazy[list(bands)].isel(y=part[0], x=part[1]).compute().to_array().values
            with timed(spent, "predict"), torch.inference_mode():
                series = cube.reshape(len(bands), period.steps, -1).transpose(2, 1, 0)
                valid = np.isfinite(series).all(2)
                x = model_input(series, valid, np.array(period.months), bands, own)
                logits = torch.cat([network(sensor, torch.from_numpy(x[k : k + batch]))
                                    for k in range(0, len(x), batch)])
                share = torch.softmax(logits / own.temperature, 1).numpy()
                seen = (valid.sum(1) >= CROPLAND.min_steps).reshape(cube.shape[2:])
                share = share.T.reshape(-1, *seen.shape) * seen
                if (side := CROPLAND.smooth_px(sensor)) > 1:  # ours knows across chunks, too
                    share = uniform_filter(share, (0, side, side), mode="constant")
                    share /= np.maximum(share.sum(0), 1e-6)
                classes[part] = np.where(seen, share.argmax(0), 255)
                confidence[part] = np.where(seen, np.rint(100 * share.max(0)), 255)
    with timed(spent, "write"):
        for name, values in (("map", classes), ("confidence", confidence)):
            layer = lazy[bands[0]][0].copy(data=values).rio.write_nodata(255)
            layer.rio.to_raster(out / f"{name}.tif", driver="COG", compress="DEFLATE")
    return spent


def composites(found: Any, grid: Any, bands: tuple[str, ...], sensor: str) -> Any:
    """Lazy monthly composites, in the sensor's unit."""
    import odc.stac
    import xarray as xr

    source = found.sources[0]
    assets = {b: source.assets[b] for b in bands}
    loaded = odc.stac.load(
        found.items, bands=[*assets.values(), *([source.mask_asset] if source.mask else [])],
        geobox=grid, chunks={"x": CHUNK_PX, "y": CHUNK_PX}, groupby="solar_day",
        resampling="nearest", fail_on_error=True,
    )
    if sensor == "s1":
        power = loaded.where(loaded > 0)
        return 10 * np.log10(power.chunk(time=-1).resample(time="MS").mean())
    clear = loaded[source.mask_asset].isin((2, 4, 5, 6, 7))
    days = {i.datetime.date(): i.properties["s2:processing_baseline"] for i in found.items}
    offset = xr.DataArray([
        -0.1 if days[np.datetime64(t, "D").item()] >= "04.00" else 0.0
        for t in loaded.time.values], dims="time", coords={"time": loaded.time}).astype("float32")
    dn = loaded[list(assets.values())]
    value = dn.where(clear & (dn > 0)).astype("float32") * np.float32(1e-4) + offset
    return value.chunk(time=-1).resample(time="MS").median()


def ours(region: Path, sensor: str, aoi: Path, out: Path, threads: int, *more: str
         ) -> dict[str, float]:
    """Map the area with ``pipeline.map``; it has no stages of its own: they overlap."""
    from pipeline.map import command

    command(["--aoi", str(aoi), "--sensor", sensor, "--period", PERIOD, "--out", str(out),
             "--catalog", str(region / "catalog.json"), "--checkpoint", "cropland",
             "--workers", str(threads), "--device", "cpu", "--quiet", *more])
    return {}


def once(way: str, region: Path, sensor: str, aoi: Path, out: Path, threads: int) -> dict[str, Any]:
    """One way, in a process of its own."""
    out.mkdir(parents=True)
    call = [sys.executable, "-m", "tests.benchmarks.peer", "--way", way, "--region", str(region),
            "--sensors", sensor, "--aoi", str(aoi), "--out", str(out), "--threads", str(threads)]
    begun = time.perf_counter()
    done = subprocess.run(call, check=True, capture_output=True, text=True, env=apart(out.parent))
    return {"wall": time.perf_counter() - begun, **json.loads(done.stdout.splitlines()[-1])}


def agreement(one: Path, two: Path) -> float:
    """Share of the pixels that have a class in both maps, and the same one."""
    import rasterio

    maps = []
    for folder in (one, two):
        with rasterio.open(next(folder.rglob("map.tif"))) as file:
            maps.append((file.read(1), file.bounds, file.transform))
    (a, box, _t), (b, other, _) = maps
    if a.shape != b.shape or box != other:
        raise SystemExit(f"the maps are of different windows: {box} and {other}")
    both = (a != 255) & (b != 255)
    return float((a[both] == b[both]).mean())


def square(region: Path, side: int, folder: Path) -> Path:
    """An area of about ``side`` x ``side`` tiles of 512 pixels within the region, as GeoJSON."""
    area = shapely.geometry.shape(json.loads((region / "aoi.geojson").read_text())["geometry"])
    west, south, _, _ = area.bounds
    lat = south + side * 5120 / 111_200
    east = west + side * 5120 / (111_320 * np.cos(np.radians(south)))
    part = area.intersection(shapely.box(west, south, east, lat))
    path = folder / "part.geojson"
    path.write_text(json.dumps({"type": "Feature", "properties": {},
                                "geometry": shapely.geometry.mapping(part)}))
    return path


WAYS: dict[str, Callable[..., dict[str, float]]] = {
    "usual": usual, "usual, tuned": partial(usual, batch=TUNED_BATCH), "ours": ours,
    "ours, fast": lambda *given: ours(*given, "--speed", "fast"),
}


def main() -> None:
    """Run all ways, one after the other, and print the table."""
    p = argparse.ArgumentParser(prog="python -m tests.benchmarks.peer", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--region", type=Path, metavar="DIR", help="of tests.benchmarks.region")
    p.add_argument("--tiles", type=int, default=2, metavar="N", help="N x N of them")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--sensors", default="s1,s2")
    p.add_argument("--json", type=Path, metavar="FILE")
    p.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    p.add_argument("--aoi", type=Path, help=argparse.SUPPRESS)
    p.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.way:
        action = WAYS[args.way]
        spent = action(args.region, args.sensors, args.aoi, args.out, args.threads)
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps({"cpu": used.ru_utime + used.ru_stime, "stages": spent,
                          "peak_mib": peak_mib()}))
        return
    from pipeline.infer.profile import machine
    from tests.benchmarks.region import make

    region = args.region or make(Path(tempfile.gettempdir()) / "wallmap-region", 2)
    print(f"{machine()}; {args.threads} threads\n")
    print("| sensor | way | wall s | CPU s | peak MiB | stages, s | classes agree |")
    print("|---|---|---|---|---|---|---|")
    found: dict[str, Any] = {}
    for sensor in args.sensors.split(","):
        with tempfile.TemporaryDirectory() as folder:
            aoi = square(region, args.tiles, Path(folder))
            # not timed: the first way would pay for files that the disk's cache does not hold yet
            once("ours, fast", region, sensor, aoi, Path(folder) / "first", args.threads)
            runs = {way: once(way, region, sensor, aoi, Path(folder) / way, args.threads)
                    for way in WAYS}
            for way, run in runs.items():
                run["agreement"] = agreement(Path(folder) / "usual", Path(folder) / way)
        found[sensor] = runs
        for way, run in runs.items():
            stages = ", ".join(f"{k} {v:.1f}" for k, v in run["stages"].items())
            print(f"| {sensor} | {way} | {run['wall']:.1f} | {run['cpu']:.1f} "
                  f"| {run['peak_mib']:.0f} | {stages} | {run['agreement']:.4f} |")
        for theirs, mine in product(("usual", "usual, tuned"), ("ours", "ours, fast")):
            of = [f"{runs[theirs][key] / runs[mine][key]:.1f}"
                  for key in ("wall", "cpu", "peak_mib")]
            print(f"| {sensor} | {theirs} / {mine} | {' | '.join(of)} | | |", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "sensors": found}, indent=1))


if __name__ == "__main__":
    main()
