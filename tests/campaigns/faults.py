"""``python -m tests.campaigns.faults``: each fault of a server, at random requests, on any sensor.

Behind ``tests.support.fault_server`` a map must come out as from a server without faults, pixel for
pixel; or the tiles fail, loudly: exit 4 (3 where no tile is left, or the search fails), the file or
the catalogue named, no other tile touched, and ``--resume`` without faults completes the map to the
very same pixels. An item that lacks an asset is left out, and the manifest says so: its map is the
one of the catalogue without that item. Anything else is WRONG. Waits between attempts are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import rasterio.shutil
from tqdm import tqdm

from pipeline import cli
from pipeline.data import api, block_store, rasters, remote, web
from pipeline.data.hrefs import shown
from pipeline.map import command
from tests.campaigns import scene as scenes
from tests.campaigns.fault_kinds import KINDS, World
from tests.campaigns.scene import Scene, make_scene
from tests.support.fault_server import FaultServer

SENSORS = ("s1", "s2", "auto")
OUTCOMES = ("identical", "loud, resumed", "not met", "WRONG")


def deflated(scene: Scene) -> Scene:
    """The scene with its images packed as most archives do it."""
    for path in scene.region.rglob("*.tif*"):
        packed = path.with_name("packed")
        rasterio.shutil.copy(path, packed, driver="GTiff", compress="DEFLATE", tiled=True,
                             blockxsize=64, blockysize=64)
        packed.replace(path)
    return scene


@contextlib.contextmanager
def short_waits(world: World) -> Iterator[None]:
    """Nobody sleeps, tokens come from the server, and pictures are small."""
    held = {"token": "t"}

    def sign(href: str, _: str) -> str:
        return f"{href}?token={held['token']}" if world.server.token else href

    def renew(href: str, signer: str, refused: str) -> str:
        held["token"] = world.server.token
        return sign(href, signer)

    with contextlib.ExitStack() as patches:
        for where, name, value in (
            (web, "_sleep", lambda _: None), (web, "PATIENCE_S", 0.3), (rasters, "signed", sign),
            (remote, "signed", sign), (remote, "renewed", renew),
        ):
            patches.enter_context(mock.patch.object(where, name, value))
        patches.enter_context(mock.patch("pipeline.publish.sheets.write_preview",
                                          scenes.plain_picture))
        yield


@contextlib.contextmanager
def small_pieces(small: bool) -> Iterator[None]:
    """Files are asked for in many small pieces rather than in one."""
    if not small:
        yield
        return
    with (mock.patch.object(remote, "_PIECE", 1024), mock.patch.object(remote, "_GAP", 256),
          mock.patch.object(rasters, "SMALL", 0),
          mock.patch.dict(rasters.GDAL_OPTIONS, GDAL_INGESTED_BYTES_AT_OPEN=1024)):
        yield


def run(world: World, sensor: str, out: Path, *more: str) -> tuple[int, str]:
    """The command; its exit code and its error."""
    stdout, stderr = io.StringIO(), io.StringIO()
    # a server that gives fewer items than asked for, no count and no link: nothing could tell
    page = api.PAGE if world.server.count else world.server.page
    with (contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr),
          mock.patch.object(api, "PAGE", page)):
        code = cli.run(command, world.scene.argv(out, sensor, *more, catalog=world.server.url))
    return code, stderr.getvalue()


def forget() -> None:
    """Empty our caches: a run begins as in a new process."""
    remote.RemoteFile._headers.clear()
    block_store.SHARED.clear()


def trial(world: World, kind: str, sensor: str, out: Path, draw: random.Random) -> tuple[str, str]:
    """One run under a fault, and the resumed one; the outcome and what is wrong."""
    world.calm()
    forget()
    shutil.rmtree(out, ignore_errors=True)
    small = "no checksum" in kind
    names = KINDS[kind](world, sensor, draw)
    if kind == "item lacks an asset":
        return _left_out(world, sensor, out, names)
    whole = world.whole[sensor]
    armed = f"{[(f.kind, f.path, f.after) for f in world.server.wrong]}"
    with small_pieces(small):
        code, error = run(world, sensor, out)
        struck = _struck(world, kind)
        got = scenes.pixels(out)
        if code == 0:
            same = _same(got, whole)
            return ("WRONG", f"other pixels, {armed}") if not same else (
                "identical" if struck else "not met", "")
        if fault := _silent(out, code, error, names, got, whole):
            return "WRONG", f"{fault}, {armed}: {error}"
        world.calm()  # but what was remembered of the faults stays
        code, error = run(world, sensor, out, "--resume")
    if code or not _same(scenes.pixels(out), whole):
        return "WRONG", f"--resume ended with {code}, {armed}: {error or 'other pixels'}"
    return "loud, resumed", ""


def _left_out(world: World, sensor: str, out: Path, name: str) -> tuple[str, str]:
    """A run without one asset of an item beside one without the item."""
    code, error = run(world, sensor, out)
    got, skipped = scenes.pixels(out), json.dumps(json.loads(
        (out / "manifest.json").read_text())["items"]) if code == 0 else ""
    world.calm()
    world.server.items[:] = [i for i in world.server.items if i["id"] != name]
    forget()
    wanted, _ = run(world, sensor, out)
    if code or wanted or name not in skipped:
        return "WRONG", f"{name}: exit {code}, without the item {wanted}, {error}"
    return ("identical", "") if _same(got, scenes.pixels(out)) else ("WRONG", f"without {name}")


def _struck(world: World, kind: str) -> bool:
    server = world.server
    if "token" in kind:
        return any(status == 403 for *_, status in server.requests)
    if kind.startswith("search 4"):
        return not server.faults
    return bool(server.struck) or kind.startswith(("search", "item"))


def _silent(
    out: Path, code: int, error: str, names: str, got: dict[str, np.ndarray],
    whole: dict[str, np.ndarray],
) -> str:
    """What a failure does not say, or has spoilt; empty = nothing."""
    lines = error.strip().splitlines()
    if code not in (3, 4) or len(lines) != 1 or "Traceback" in error:
        return f"exit {code}, {len(lines)} lines of error"
    if code == 3:
        if got:
            return "files of a failed map"
        return "" if shown(names) in error else f"{names} is not named"
    manifest = json.loads((out / "manifest.json").read_text())
    failed = [t for t in manifest["tiles"] if t["status"] == "failed"]
    if not failed or not all(names in t["reason"] for t in failed):
        return f"{names} is not named by each failed tile"
    for name in whole:
        if not name.endswith("map.tif"):
            continue
        made = ~np.isin(got[name.replace("map.tif", "sensor.tif")], (0, 255))
        if (got[name][made] != whole[name][made]).any():
            return "pixels of other tiles differ"
    return ""


def _same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in two)


def faultless(world: World, sensor: str, out: Path) -> None:
    """What the others are compared with, and the files that it asks for."""
    world.calm()
    forget()
    code, error = run(world, sensor, out)
    assert code == 0, error
    world.whole[sensor] = scenes.pixels(out)
    world.files[sensor] = [path.split("?")[0] for _, path, _, _ in world.server.requests
                           if path.startswith("/files/")]


def campaign(
    folder: Path, server: FaultServer, scene: Scene, kinds: Sequence[str], sensors: Sequence[str],
    times: int, seed: int, quiet: bool = True,
) -> list[tuple[str, str, str, str]]:
    """(kind, sensor, outcome, what is wrong) of each run; see the module."""
    world = World(server, scene, json.dumps(server.items))
    made = []
    with short_waits(world), contextlib.suppress(KeyboardInterrupt):  # what was done counts
        for sensor in sensors:
            faultless(world, sensor, folder / f"whole-{sensor}")
        every = [(k, s, n) for n in range(times) for k in kinds for s in sensors]
        for kind, sensor, n in tqdm(every, desc="faults", disable=quiet):
            draw = random.Random(f"{seed} {kind} {sensor} {n}")
            outcome, wrong = trial(world, kind, sensor, folder / "out", draw)
            made.append((kind, sensor, outcome, wrong))
            if wrong:
                tqdm.write(f"{kind}, {sensor}, {n}: {wrong}")
    return made


def table(made: Sequence[tuple[str, str, str, str]]) -> str:
    """Kind x outcome."""
    count = Counter((kind, outcome) for kind, _, outcome, _ in made)
    kinds = list(dict.fromkeys(kind for kind, *_ in made))
    wide = max(map(len, kinds))
    lines = [" ".join([f"{'':<{wide}}", *(f"{o:>14}" for o in OUTCOMES)])]
    lines += [" ".join([f"{k:<{wide}}", *(f"{count[k, o] or '':>14}" for o in OUTCOMES)])
              for k in kinds]
    total = Counter(outcome for _, _, outcome, _ in made)
    return "\n".join([*lines, " ".join([f"{'all':<{wide}}", *(f"{total[o]:>14}"
                                                             for o in OUTCOMES)])])


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 when something came out wrong."""
    p = argparse.ArgumentParser(prog="python -m tests.campaigns.faults", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--times", type=int, default=3, help="of each kind and sensor (default 3)")
    p.add_argument("--kinds", default="", help="only those with this in their name")
    p.add_argument("--sensors", default=",".join(SENSORS))
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--quiet", action="store_true")
    args = p.parse_args(argv)
    kinds = [k for k in KINDS if args.kinds in k]
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        scene = deflated(make_scene(folder / "scene"))
        with FaultServer(scene.region) as server:
            made = campaign(folder, server, scene, kinds, args.sensors.split(","), args.times,
                            args.seed, args.quiet)
    print(f"{table(made)}\nseed {args.seed}, {len(made)} runs")
    return int(any(outcome == "WRONG" for *_, outcome, _ in made))


if __name__ == "__main__":
    sys.exit(main())
