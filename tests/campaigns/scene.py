"""A small region, a checkpoint, and runs of ``python -m pipeline.map`` that can be killed.

A run is a process of its own, forked from a server that has imported everything already. What is
left out of ``python -m pipeline.map`` is the time that imports and the layout of the pictures take.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image
from rio_cogeo.cogeo import cog_validate

from pipeline import sandbox
from pipeline.data.files import HIDDEN, replacing
from pipeline.infer.store import LOG, STAMP
from pipeline.mapping import STATE
from pipeline.publish.sheets import MANIFEST
from tests.support.toy import save_untrained

PERIOD = "2023-10"
# What of a manifest and its tiles two runs of the same map share; the rest is time.
SAME = ("card", "items", "refused", "unknown", "rules", "adapted", "files")
SAME_TILE = ("sheet", "tile", "status", "sensor", "reason", "area_px", "planned_px", "mapped_px",
             "observations", "quality", "orbits")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_STEPS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.campaigns.preload"])


@dataclass(frozen=True)
class Scene:
    """What is mapped.

    Attributes:
        region: folder with a catalog.json.
        aoi: bounds, W,S,E,N.
        checkpoint: its folder.
    """

    region: Path
    aoi: str
    checkpoint: Path

    def argv(self, out: Path, sensor: str, *more: str, catalog: str = "") -> list[str]:
        """Options of ``python -m pipeline.map``."""
        return ["--quiet", "--json", "--aoi", self.aoi, "--sensor", sensor, "--period", PERIOD,
                "--catalog", catalog or str(self.region / "catalog.json"), "--checkpoint",
                str(self.checkpoint), "--out", str(out), "--tile-size", "32", *more]


def make_scene(folder: Path) -> Scene:
    """Two sheets of 27 x 36 pixels, a year of all sensors, and random weights."""
    params = sandbox.SandboxParams(
        width_km=0.68, height_km=0.44, s1_days=30, s2_days=28, l8_days=30, cloudiness=0.2,
        grain_m=230.0, overlap_m=60.0, group_m=200.0, cropland_points=40, lfmc_sites=4,
    )
    if not (folder / "region" / "catalog.json").exists():
        sandbox.write(folder / "region", params)
        save_untrained(folder / "checkpoint", "cropland")
    west, south, east, north = params.bounds
    dx, dy = (east - west) * 0.1, (north - south) * 0.1
    aoi = f"{west + dx:.6f},{south + dy:.6f},{east - dx:.6f},{north - dy:.6f}"
    return Scene(folder / "region", aoi, folder / "checkpoint")


def die() -> None:
    """As the OOM killer or a power cut does it."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk() -> None:
    """From now on no file can grow: for a process, a disk that is full. Nobody else notices."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


class Fuse:
    """An audit hook that harms its process before a certain step.

    A step is what changes names in a file system: a file opened for writing, a rename, a removal, a
    folder made or removed. Publishing begins with the hidden folder that is made beside the map;
    before it, the steps of the run's own state are counted.

    Args:
        out: folder of the results.
        stage: whose steps are counted, ``state`` or ``publish``.
        at: step before which to do it, 1 is the first; 0 = never.
        harm: what is done: ``die``, or ``fill_disk``.

    Attributes:
        steps: met so far, by stage.
    """

    def __init__(self, out: Path, stage: str = "publish", at: int = 0,
                 harm: Callable[[], None] = die) -> None:
        self.out, self.stage, self.at, self.harm = str(out), stage, at, harm
        self.steps = {"state": 0, "publish": 0}

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """What Python calls for each audited event."""
        if event == "open":
            if not isinstance(args[2], int) or not args[2] & _WRITES:
                return
        elif event not in _STEPS:
            return
        path = str(args[0])
        if not path.startswith(self.out):
            return
        stage = "state" if STATE in path else "publish"
        if stage == "publish" and not self.steps["publish"] and HIDDEN not in path:
            return
        self.steps[stage] += 1
        if stage == self.stage and self.steps[stage] == self.at:
            self.harm()


def plain_picture(path: Path, *_: object) -> None:
    """Instead of ``write_preview``, whose figure takes half of the time of so small a map."""
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    with replacing(path) as temporary:
        Image.fromarray(noise).save(temporary, format="png")


def _child(argv: Sequence[str], fuse: Fuse, log: Path) -> None:
    from pipeline import cli
    from pipeline.map import command
    from pipeline.publish import sheets

    sheets.write_preview = plain_picture
    sys.addaudithook(fuse)
    said = io.StringIO()  # no file: the disk may be full
    code = 1
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = cli.run(command, argv)
    except BaseException:
        traceback.print_exc(file=said)
    finally:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        with log.open("a") as sink:
            sink.write(said.getvalue())
        log.with_suffix(".steps").write_text(json.dumps(fuse.steps))
        sys.exit(code)


def start(argv: Sequence[str], fuse: Fuse, log: Path) -> BaseProcess:
    """Begin a run; ``kill`` of what is returned sends SIGKILL.

    Args:
        argv: options of the command.
        fuse: where it is harmed.
        log: file that what it prints is added to.
    """
    process = _forks.Process(target=_child, args=(list(argv), fuse, log))
    process.start()
    return process


def run(argv: Sequence[str], out: Path, log: Path) -> int:
    """A whole run; returns its exit code."""
    process = start(argv, Fuse(out), log)
    process.join()
    return -1 if process.exitcode is None else process.exitcode


# --- what a reader sees


def visible(out: Path) -> Iterator[Path]:
    """Files under their final names."""
    for path in sorted(out.rglob("*")):
        names = path.relative_to(out).parts
        if path.is_file() and STATE not in names and not any(n.startswith(HIDDEN) for n in names):
            yield path


def digest(path: Path) -> str:
    """sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(out: Path) -> dict[str, str]:
    """sha256 of each visible file, by its name below ``out``."""
    return {str(path.relative_to(out)): digest(path) for path in visible(out)}


def torn(out: Path) -> list[str]:
    """What is wrong with the files that are visible: half-written, or not what their item says."""
    faults = []
    for path in visible(out):
        name = path.relative_to(out)
        try:
            with warnings.catch_warnings(action="ignore"):  # of a file without its head
                faults += [f"{name}: {why}" for why in _faults_of(path)]
        except (rasterio.errors.RasterioError, OSError, ValueError, KeyError, SyntaxError) as error:
            faults.append(f"{name}: {error}")
    return faults


def _faults_of(path: Path) -> Iterator[str]:
    if path.suffix == ".tif":
        valid, errors, _ = cog_validate(path)
        if not valid:
            yield f"not a COG: {errors}"
        with rasterio.open(path) as file:
            file.read(1)  # all blocks
            levels = len(file.overviews(1))
        for level in range(levels):
            with rasterio.open(path, overview_level=level) as file:
                file.read(1)
    elif path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()
    elif path.name == "item.json":
        for key, asset in json.loads(path.read_text())["assets"].items():
            file = path.parent / asset["href"]
            if "file:checksum" in asset and asset["file:checksum"] != f"1220{digest(file)}":
                yield f"{key} is another file"
    elif path.name == MANIFEST:
        for name in json.loads(path.read_text())["files"]:
            if not (path.parent / name).is_file():
                yield f"lacks {name}"
    elif path.suffix in (".json", ".geojson"):
        json.loads(path.read_text())
    else:
        yield "is no file of a map"


def differences(out: Path, wanted: Path) -> list[str]:
    """How a finished folder differs from another: pixels and pictures by the byte, items and
    manifest but for the time they were made."""
    one, two = digests(out), digests(wanted)
    found = [f"{name} is in one only" for name in sorted(one.keys() ^ two.keys())]
    for name in sorted(one.keys() & two.keys()):
        if name.endswith((".tif", ".png")):
            if one[name] != two[name]:
                found.append(f"{name} differs")
        elif name.endswith(".json") and _timeless(out / name) != _timeless(wanted / name):
            found.append(f"{name} says something else")
    return found


def _timeless(path: Path) -> Any:
    record = json.loads(path.read_text())
    if path.name != MANIFEST:
        record["properties"] = {k: v for k, v in record["properties"].items()
                                if k not in ("created", "updated")}
        return record
    tiles = [{k: t.get(k) for k in SAME_TILE} for t in record["tiles"]]
    return {k: record.get(k) for k in SAME} | {"tiles": tiles}


def leftovers(out: Path) -> list[str]:
    """Hidden folders that a finished run should not leave."""
    return sorted(str(p.relative_to(out)) for p in out.rglob(f"{HIDDEN}*"))


def pixels(out: Path) -> dict[str, np.ndarray]:
    """Every raster, by its name below ``out``."""
    found = {}
    for path in sorted(out.rglob("*.tif")):
        with rasterio.open(path) as file:
            found[str(path.relative_to(out))] = file.read(1)
    return found


def finished_tiles(out: Path) -> int:
    """Tiles that the run in a folder has recorded."""
    with contextlib.suppress(OSError):
        return (out / STATE / LOG).read_bytes().count(b"\n")
    return 0


def stamp(out: Path) -> str:
    """What says which run a folder holds; empty = none."""
    with contextlib.suppress(OSError):
        return (out / STATE / STAMP).read_text()
    return ""
