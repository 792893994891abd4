"""A growing archive, a schedule over it, and the command line of refreshes."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio

from pipeline import cli
from pipeline.refresh.__main__ import command
from pipeline.refresh.result import RefreshResult
from pipeline.refresh.versions import Shelf
from pipeline.sandbox import SandboxParams
from tests.support.archive import Archive

SECOND = "sentinel-2-l2a"


class World:
    """All of them, in one folder: the western half of the tiny sandbox."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.folder, self.checkpoint = folder, checkpoint
        self.archive = Archive(folder / "archive")
        self.shelf = Shelf(folder / "root" / "west" / "cropland")

    def schedule(self, bounds: str = "", more: str = "", sensor: str = "s2", *, top: str = "",
                 root: str = "root", tile_px: int = 32, checkpoint: Path | None = None) -> None:
        """Write the schedule; ``top`` holds further keys of the top, ``more`` further tables."""
        west, south, east, north = SandboxParams.tiny().bounds
        middle = (west + east) / 2
        aoi = f"{west + 0.001:.5f},{south + 0.0005:.5f},{middle - 0.0005:.5f},{north:.5f}"
        (self.folder / "s.toml").write_text(f"""root = "{root}"
catalog = "archive/today.json"
{top}
[regions.west]
aoi = "{aoi}"
tasks = ["cropland"]
{more}
[tasks.cropland]
sensor = "{sensor}"
period = "2023-10"
checkpoint = "{checkpoint or self.checkpoint}"
tile_px = {tile_px}
[bounds]
{bounds}
""")

    def refresh(self, now: str, *options: str, broken: bool = False) -> int:
        self.archive.view(datetime.fromisoformat(now).replace(tzinfo=UTC), broken)
        return self.run("--now", now, *options)

    def run(self, *options: str) -> int:
        return cli.run(command, ["--config", str(self.folder / "s.toml"), "--quiet", *options])

    def copy(self, folder: Path) -> World:
        """The same on another machine's disk, as it is now."""
        shutil.copytree(self.folder, folder, symlinks=True)
        made = World(folder, self.checkpoint)
        made.archive.entries = dict(self.archive.entries)
        return made

    def grows(self) -> None:
        """The newest scene comes, whole."""
        self.archive.comes(late(self.archive)[-1], datetime.min.replace(tzinfo=UTC))

    @property
    def last(self) -> RefreshResult:
        return self.shelf.history()[-1]

    def layer(self, name: str, version: str = "") -> np.ndarray:
        folder = self.shelf.version(version) if version else self.shelf.path / "current"
        with rasterio.open(folder / f"{name}.tif") as cog:
            return cog.read(1)


def begun(region: Path, checkpoint: Path, folder: Path) -> World:
    """A world without a map yet; its newest scene is still to come (``World.grows``)."""
    shutil.copytree(region, folder / "archive")
    world = World(folder, checkpoint)
    world.schedule()
    world.archive.comes(late(world.archive)[-1], datetime.max.replace(tzinfo=UTC))
    return world


def late(archive: Archive) -> list[str]:
    """Sentinel-2 scenes of the west, oldest first."""
    return sorted((e.id for e in archive.entries.values()
                   if e.collection == SECOND and "T31" in e.id and not e.again),
                  key=lambda name: archive.entries[name].seen)
