"""The whole suite: every benchmark in a process of its own, one table, one file to compare with,
and the goals. The region takes 8 GB below the temporary folder, or where ``--region`` says.

``python -m tests.benchmarks --out FILE.json [--against OLD.json] [--region DIR] [--only LIST]``
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
from tests.benchmarks import goals
from tests.benchmarks.region import make

SUITE = ("network", "precision", "gpu", "reading", "peer", "stages", "scale", "cluster")
# have nothing to do with a region
_PLAIN = ("network", "precision", "gpu")
_OPTIONS = {"peer": ["--tiles", "4"]}
if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("ip"):
    _OPTIONS["cluster"] = ["--namespaces"]  # workers with their own addresses, one killed


def run(name: str, region: Path, more: Sequence[str]) -> Any:
    """What a benchmark writes; None, with a word, where it fails: the others go on."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--json", str(file), *more]
        if name not in _PLAIN:
            command += ["--region", str(region)]
        done = subprocess.run(command)
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


def table(now: dict[str, Any], old: dict[str, Any] | None) -> Iterator[str]:
    """A line a number, beside the same number of an earlier file."""
    before = dict(numbers(old["results"])) if old else {}
    if old:
        yield f"against {old['commit']} of {old['time']} on {old['machine']}"
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
    p = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
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
    before = args.against or (args.out if args.out.exists() else None)
    old = json.loads(before.read_text()) if before else None
    now: dict[str, Any] = {
        "machine": machine(), "commit": _commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"), "results": {}}
    for name in args.only.split(","):
        more = [*_OPTIONS.get(name, [])]
        if name == "stages" and args.side:
            more += ["--side", str(args.side)]
        print(f"\n--- {name}", flush=True)
        now["results"][name] = run(name, region, more)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(now, indent=1))
    found = dict(numbers(now["results"]))
    print("\n".join(["", now["machine"], *table(now, old), "", *goals.lines(found)]))
    return int(any(result is None for result in now["results"].values()))


if __name__ == "__main__":
    sys.exit(main())
