"""Maps of the tiny region by the command line, and their rasters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio

from pipeline import cli
from pipeline.map import command

PERIOD = "2023-10"


def runner(region: Path, region_aoi: str, untrained: dict[str, Path],
           folder: Path) -> Callable[..., int]:
    """Run the command line on the tiny region; options given win."""

    def go(out: str = "out", task: str = "cropland", **options: str) -> int:
        known = {
            "aoi": region_aoi, "sensor": "s1", "task": task, "period": PERIOD,
            "catalog": str(region / "catalog.json"),
            "checkpoint": str(untrained.get(task, "cropland")),
            "out": str(folder / out), **options,
        }
        argv = ["--quiet", "--json"]
        for key, value in known.items():
            argv += [f"--{key.replace('_', '-')}"] + ([value] if value else [])
        return cli.run(command, argv)

    return go


def tifs(out: Path) -> list[Path]:
    return sorted(out.rglob("*.tif"))


def pixels(out: Path) -> dict[str, np.ndarray]:
    """Every raster of a run by its name relative to it."""
    found = {}
    for path in tifs(out):
        with rasterio.open(path) as src:
            found[str(path.relative_to(out))] = src.read(1)
    return found
