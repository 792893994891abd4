"""``python -m tests.campaigns.full``: the disk is full from a random step on; nothing is lost.

From then on nothing can be written by the run (``RLIMIT_FSIZE``, which asks for no rights). It must
end with exit 3 and one line that names the place and the way out, leave every visible file whole,
and be completed by ``--resume`` once there is room. Or it did not need to write any more.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from tests.campaigns import scene as scenes
from tests.campaigns.kill import SENSOR, Reference, look, reference, stage_of
from tests.campaigns.scene import Fuse, Scene, fill_disk, make_scene


def trial(
    scene: Scene, ref: Reference, folder: Path, stage: str, at: int, over: bool
) -> tuple[str, list[str]]:
    """One run whose disk is full from a step on; where it ended, and what is wrong.

    Args:
        scene: what is mapped.
        ref: the uninterrupted run.
        folder: to work in.
        stage, at: the step, see ``scene.Fuse``.
        over: start in the folder of an earlier map.
    """
    out, log = folder / "out", folder / "log"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if over:
        shutil.copytree(ref.earlier, out)
    before = scenes.digests(out) if over else {}
    process = scenes.start(scene.argv(out, SENSOR), Fuse(out, stage, at, fill_disk), log)
    process.join()
    said = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    ended = stage_of(out, ref, before)
    wrong = look(out, ref.out, ref.earlier if over else None)
    if process.exitcode == 0:
        return "not needed", wrong + scenes.differences(out, ref.out)
    if process.exitcode != 3:
        return ended, [f"exit {process.exitcode}: {log.read_text()[-1500:]}", *wrong]
    if not (len(said) == 1 and str(out) in said[0] and "make room" in said[0]
            and "--resume" in said[0]):
        wrong.append(f"said {said}")
    kept = scenes.finished_tiles(out)
    argv = scene.argv(out, SENSOR, "--resume")
    if over and scenes.stamp(out) == scenes.stamp(ref.earlier):
        argv.remove("--resume")  # it has not touched the earlier run yet
    if code := scenes.run(argv, out, log):
        return ended, [*wrong, f"--resume ended with {code}: {log.read_text()[-400:]}"]
    if "--resume" in argv and scenes.finished_tiles(out) > max(ref.tiles, kept) + 1:
        wrong.append("finished tiles were made again")
    return ended, wrong + scenes.differences(out, ref.out) + scenes.leftovers(out)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 when something came out wrong."""
    p = argparse.ArgumentParser(prog="python -m tests.campaigns.full", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--times", type=int, default=40)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--quiet", action="store_true")
    args = p.parse_args(argv)
    draw = random.Random(args.seed)
    ended: Counter[str] = Counter()
    bad = 0
    with tempfile.TemporaryDirectory(prefix="full-") as name:
        folder = Path(name)
        scene = make_scene(folder / "scene")
        ref = reference(scene, folder, real=False)
        for _ in tqdm(range(args.times), desc="full disks", disable=args.quiet):
            stage = draw.choice(["state", "publish"])
            at = draw.randint(1, ref.steps[stage])
            where, wrong = trial(scene, ref, folder / "run", stage, at, draw.random() < 0.5)
            ended[where] += 1
            bad += bool(wrong)
            for line in wrong:
                tqdm.write(f"{stage} {at}, {where}: {line}")
    print("\n".join(f"{where:<16}{n:>5}" for where, n in ended.items()))
    print(f"wrong: {bad} of {args.times}; seed {args.seed}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
