"""``python -m tests.campaigns.kill``: SIGKILL at random moments; nothing torn, nothing lost.

Half of the moments are uniform over a run's length, half lie in publishing. Half of both go by the
clock, half by a random step in the file system (a file opened for writing, a rename, a removal):
the only way to meet the few milliseconds of a promotion. Half of the runs start in a folder that
holds a finished map of another period; a quarter are killed a second time while they resume; one
in fifty is the real command line, imports included.

A run that dies before it touches the earlier map's state is told from it: ``--resume`` is refused
with exit 2, and the command without it does the work.

After each kill all that is visible is read: every file is, by the byte, the one of the earlier map
or of the finished one, opens and decodes, and is the one that its item's checksum is of. Then
``--resume`` must end well, and leave what the uninterrupted run leaves.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from tqdm import tqdm

from tests.campaigns import scene as scenes
from tests.campaigns.scene import Fuse, Scene

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("start, search", "read, predict", "publish", "promote", "finished")
KINDS = ("time", "publish step", "step", "publish time")  # how a moment is drawn
SENSOR = "s1"
EARLIER = "2023-09"  # last month of the map that is there before


@dataclass
class Reference:
    """The uninterrupted run.

    Attributes:
        out: its folder.
        real: the folder of the same map by the command line, whose pictures are other ones.
        earlier: the folder of a finished map of another period.
        tiles: how many it has.
        steps: by stage, see ``scene.Fuse``.
        seconds: of a run, of its publishing, and of the real command line.
    """

    out: Path
    real: Path
    earlier: Path
    tiles: int
    steps: dict[str, int]
    seconds: tuple[float, float, float]


@dataclass
class Outcome:
    """What the kills of one run came to.

    Attributes:
        kills: (how the moment was drawn, stage at which the process died).
        over: an earlier map was in the folder.
        trouble: what is wrong; empty = nothing.
    """

    over: bool
    kills: list[tuple[str, str]] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)


def reference(scene: Scene, folder: Path, real: bool) -> Reference:
    """Make the maps that others are compared with; ``real``: time the command line, too."""
    out, earlier, other = folder / "whole", folder / "earlier", folder / "real"
    argv = [EARLIER if a == scenes.PERIOD else a for a in scene.argv(earlier, SENSOR)]
    code = scenes.run(argv, earlier, folder / "earlier.log")
    assert code == 0, (folder / "earlier.log").read_text()
    begun = time.monotonic()
    process = scenes.start(scene.argv(out, SENSOR), Fuse(out), folder / "whole.log")
    published = _wait(process, lambda: _publishing(out)) - begun
    process.join()
    whole = time.monotonic() - begun
    assert process.exitcode == 0, (folder / "whole.log").read_text()
    steps = json.loads((folder / "whole.steps").read_text())
    slow = 0.0
    if real:
        begun = time.monotonic()
        code = _real(scene.argv(other, SENSOR), folder / "real.log").wait()
        slow = time.monotonic() - begun
        assert code == 0, (folder / "real.log").read_text()
    return Reference(out, other, earlier, scenes.finished_tiles(out), steps,
                     (whole, max(whole - published, 0.1), slow))


def trial(scene: Scene, ref: Reference, folder: Path, kind: str, draw: random.Random) -> Outcome:
    """One run, killed once or twice and resumed.

    Args:
        scene: what is mapped.
        ref: the uninterrupted run.
        folder: to work in.
        kind: of ``KINDS``, or ``real`` = any time of the real command line.
        draw: random numbers.
    """
    out, log = folder / "out", folder / "log"
    wanted = ref.real if kind == "real" else ref.out
    made = Outcome(over=draw.random() < 0.5)
    again = draw.random() < 0.25
    while len(made.kills) < 1 + again:
        if not made.kills:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            if made.over:
                shutil.copytree(ref.earlier, out)
        before = scenes.digests(out) if out.exists() else {}
        if _kill(scene, ref, out, log, kind, "--resume" if made.kills else "", draw):
            made.kills.append((kind, stage_of(out, ref, before)))
            made.trouble += look(out, wanted, ref.earlier if made.over else None)
        elif made.kills:
            break  # the resumed run was faster than the second moment: it is complete already
    argv = scene.argv(out, SENSOR, "--resume")
    if made.over and scenes.stamp(out) == scenes.stamp(ref.earlier):
        refused = scenes.run(argv, out, log)
        if refused != 2 or "another request" not in log.read_text():
            made.trouble.append(f"--resume of another run ended with {refused}")
        argv.remove("--resume")
    code = _real(argv, log).wait() if kind == "real" else scenes.run(argv, out, log)
    if code:
        made.trouble.append(f"--resume ended with {code}: {log.read_text()[-400:]}")
    else:
        made.trouble += scenes.differences(out, wanted) + scenes.leftovers(out)
    if not made.trouble:
        shutil.rmtree(folder)
    return made


def _kill(
    scene: Scene, ref: Reference, out: Path, log: Path, kind: str, resume: str,
    draw: random.Random,
) -> bool:
    """Run and kill; whether the process was still there to be killed."""
    argv = scene.argv(out, SENSOR, *filter(None, [resume]))
    whole, published, real = ref.seconds
    if kind == "real":
        command = _real(argv, log)
        try:
            command.wait(draw.uniform(0, real))
        except subprocess.TimeoutExpired:
            command.kill()
        return command.wait() == -9
    stage = "state" if kind == "step" else "publish"
    at = draw.randint(1, ref.steps[stage]) if "step" in kind else 0
    process = scenes.start(argv, Fuse(out, stage, at), log)
    if kind == "time":
        process.join(draw.uniform(0, whole))
    elif kind == "publish time":
        _wait(process, lambda: _publishing(out))
        process.join(draw.uniform(0, published))
    else:
        process.join()
    process.kill()
    process.join()
    return process.exitcode == -9


def _real(argv: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """The command line itself."""
    with log.open("ab") as sink:
        return subprocess.Popen([sys.executable, "-m", "pipeline.map", *argv], cwd=ROOT,
                                stdout=sink, stderr=sink)


def _wait(process: BaseProcess, ready: Callable[[], bool]) -> float:
    """Wait until it is so, or the process has ended; the time."""
    while process.exitcode is None and not ready():
        process.join(0.005)
    return time.monotonic()


def _publishing(out: Path) -> bool:
    """Whether a sheet's stage is there."""
    return any(out.glob(f"utm*/{scenes.HIDDEN}*"))


def stage_of(out: Path, ref: Reference, before: dict[str, str]) -> str:
    """How far a killed run came, from what lies in its folder."""
    if scenes.stamp(out) != scenes.stamp(ref.out):
        return STAGES[0]
    if scenes.finished_tiles(out) < ref.tiles:
        return STAGES[1]
    now = scenes.digests(out)
    if now == before:
        return STAGES[2]
    return STAGES[4] if scenes.MANIFEST in now else STAGES[3]


def look(out: Path, wanted: Path, earlier: Path | None) -> list[str]:
    """What a reader finds wrong after a kill."""
    if not out.exists():
        return []
    new, old = scenes.digests(wanted), scenes.digests(earlier) if earlier else {}
    strange = [f"{name} is neither the earlier file nor the new one"
               for name, found in scenes.digests(out).items()
               if name.endswith((".tif", ".png")) and found not in (new.get(name), old.get(name))]
    return strange + scenes.torn(out)


def campaign(
    scene: Scene, folder: Path, times: int, seed: int, real: int = 0, quiet: bool = True
) -> list[Outcome]:
    """Kill so many runs; see the module.

    Args:
        scene: what is mapped.
        folder: to work in; runs that came out wrong stay there.
        times: kills at least.
        seed: of the random moments.
        real: how many of them are kills of the real command line.
        quiet: no progress.
    """
    draw = random.Random(seed)
    ref = reference(scene, folder, real > 0)
    made: list[Outcome] = []
    kinds = ["real"] * real + list(KINDS) * times
    with (tqdm(total=times, desc="kills", disable=quiet) as bar,
          contextlib.suppress(KeyboardInterrupt)):  # what was done counts
        while (done := sum(len(o.kills) for o in made)) < times:
            made.append(trial(scene, ref, folder / f"{len(made)}", kinds[len(made)], draw))
            bar.update(sum(len(o.kills) for o in made) - done)
            for line in made[-1].trouble:
                tqdm.write(f"{len(made) - 1} {made[-1].kills}: {line}")
    return made


def table(made: Sequence[Outcome]) -> str:
    """Kills by stage and outcome."""
    lines = [f"{'died in':<16}{'kills':>7}{'over an earlier map':>21}{'wrong':>7}"]
    count = Counter(stage for o in made for _, stage in o.kills)
    over = Counter(stage for o in made if o.over for _, stage in o.kills)
    wrong = Counter(stage for o in made if o.trouble for _, stage in o.kills)
    lines += [f"{s:<16}{count[s]:>7}{over[s]:>21}{wrong[s]:>7}" for s in STAGES if count[s]]
    total = (sum(count.values()), sum(over.values()), sum(wrong.values()))
    lines.append(f"{'all':<16}{total[0]:>7}{total[1]:>21}{total[2]:>7}")
    lines.append("drawn: " + ", ".join(
        f"{k} {n}" for k, n in Counter(kind for o in made for kind, _ in o.kills).items()))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 when something came out wrong."""
    p = argparse.ArgumentParser(prog="python -m tests.campaigns.kill", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--times", type=int, default=200, help="kills (default 200)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--folder", type=Path, help="to work in (default: a temporary one)")
    p.add_argument("--quiet", action="store_true")
    args = p.parse_args(argv)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="kill-"))
    scene = scenes.make_scene(folder / "scene")
    begun = time.monotonic()
    made = campaign(scene, folder, args.times, args.seed, real=args.times // 50, quiet=args.quiet)
    print(f"{table(made)}\nseed {args.seed}, {len(made)} runs, "
          f"{time.monotonic() - begun:.0f} s, in {folder}")
    wrong = sum(bool(o.trouble) for o in made)
    if not wrong and not args.folder:
        shutil.rmtree(folder)
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
