"""The whole suite: every benchmark in a process of its own, one table, one file to compare with,
and the goals. The region takes 8 GB below the temporary folder, or where ``--region`` says.

``python -m tests.benchmarks --out FILE.json [--against OLD.json] [--region DIR] [--only LIST]``

While it runs, results gather in FILE.json.part. What is not measured this time, or fails, keeps
the result that FILE.json had; ``kept`` says whose it is. The network is also measured beside the
authors' code where WALLMAP_AUTHORS names a clone of github.com/fmenat/MDiCo, with the interpreter
WALLMAP_AUTHORS_PYTHON (default: this one), which needs that code's packages.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.infer.profile import machine
from tests.benchmarks import apart, goals
from tests.benchmarks.region import make

SUITE = ("network", "precision", "gpu", "reading", "peer", "stages", "scale", "cluster")
# have nothing to do with a region
_PLAIN = ("network", "precision", "gpu")
_OPTIONS = {"peer": ["--tiles", "4"]}
if "WALLMAP_AUTHORS" in os.environ:
    _OPTIONS["network"] = ["--authors", os.environ["WALLMAP_AUTHORS"], "--python",
                           os.environ.get("WALLMAP_AUTHORS_PYTHON", sys.executable)]
if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("ip"):
    _OPTIONS["cluster"] = ["--namespaces"]  # workers with their own addresses, one killed


def run(name: str, region: Path, more: Sequence[str]) -> Any:
    """What a benchmark writes; None, with a word, where it fails: the others go on."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--json", str(file), *more]
        if name not in _PLAIN:
            command += ["--region", str(region)]
        done = subprocess.run(command, env=apart(Path(folder)))
        if done.returncode or not file.exists():
            print(f"{name}: failed with exit code {done.returncode}", file=sys.stderr)
            return None
        return json.loads(file.read_text())


def numbers(found: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number of nested results, by the names that lead to it, yes and no as 1 and 0; entries
    of a list are called by their sensor or number of tiles, where they have one."""
    if isinstance(found, int | float):
        yield path, float(found)
    elif isinstance(found, dict):
        for key, value in found.items():
            yield from numbers(value, f"{path}.{key}" if path else key)
    elif isinstance(found, list):
        for k, value in enumerate(found):
            named = value if isinstance(value, dict) else {}
            label = "-".join(str(named[n]) for n in ("sensor", "tiles") if n in named) or k
            yield from numbers(value, f"{path}.{label}")


def merged(now: dict[str, Any], old: dict[str, Any] | None) -> dict[str, Any]:
    """Results with those of an earlier file where there are none now, and a word whose they are."""
    if not old:
        return now
    whose = f"{old['commit']} of {old['time']} on {old['machine']}"
    kept = {name: old.get("kept", {}).get(name, whose) for name, result in old["results"].items()
            if result is not None and now["results"].get(name) is None}
    before = {name: old["results"][name] for name in kept}
    return {**now, "results": {**now["results"], **before}, "kept": kept}


def table(now: dict[str, Any], old: dict[str, Any] | None) -> Iterator[str]:
    """A line a number, beside the same number of an earlier file."""
    before = dict(numbers(old["results"])) if old else {}
    if old:
        yield f"against {old['commit']} of {old['time']} on {old['machine']}"
    yield from (f"{name}: not measured now, of {whose}"
                for name, whose in now.get("kept", {}).items())
    for name, value in numbers(now["results"]):
        was = before.get(name)
        change = f"{was:>14,.3f} {value / was - 1:>+8.1%}" if was else ""
        yield f"{name:<64} {value:>14,.3f} {change}".rstrip()


def _commit() -> str:
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True,
                           text=True, cwd=Path(__file__).parent)
    return asked.stdout.strip() or "unknown"


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print and keep."""
    p = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, required=True, metavar="FILE")
    p.add_argument("--against", type=Path, metavar="FILE",
                   help="of an earlier commit (default: what --out holds)")
    p.add_argument("--region", type=Path, help="folder of the large region; made when missing",
                   default=Path(tempfile.gettempdir()) / "wallmap-region")
    p.add_argument("--only", default=",".join(SUITE), metavar="LIST")
    p.add_argument("--side", type=int, help="pixels of the part of the region that "
                   "the stages are measured on; default: all")
    args = p.parse_args(argv)
    region = make(args.region)
    last = json.loads(args.out.read_text()) if args.out.exists() else None
    old = json.loads(args.against.read_text()) if args.against else last
    part = args.out.with_name(f"{args.out.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    now: dict[str, Any] = {
        "machine": machine(), "commit": _commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"), "results": {}}
    for name in args.only.split(","):
        more = [*_OPTIONS.get(name, [])]
        if name == "stages" and args.side:
            more += ["--side", str(args.side)]
        print(f"\n--- {name}", flush=True)
        now["results"][name] = run(name, region, more)
        part.write_text(json.dumps(now, indent=1))
    failed = any(result is None for result in now["results"].values())
    now = merged(now, last)
    part.write_text(json.dumps(now, indent=1))
    part.replace(args.out)
    found = dict(numbers(now["results"]))
    print("\n".join(["", now["machine"], *table(now, old), "", *goals.lines(found)]))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
