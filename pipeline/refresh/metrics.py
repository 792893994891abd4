"""Metrics of refreshes for Prometheus: a file for node_exporter's textfile collector.

Times are given as timestamps, not ages: an age stops growing when nothing refreshes any more,
which is when it matters. ``time() - wallmap_map_timestamp_seconds`` is the age of a map.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from pipeline.data.files import atomic_write_text, writing
from pipeline.refresh.result import RefreshResult

# name -> type and help, in the file's order
METRICS: dict[str, tuple[str, str]] = {
    "wallmap_map_timestamp_seconds": (
        "gauge", "When the published version was made; time() minus this is the map's age."),
    "wallmap_map_final": ("gauge", "1 where the published version is final, 0 provisional."),
    "wallmap_map_coverage_ratio": ("gauge", "Share of the area that the newest version maps."),
    "wallmap_refresh_timestamp_seconds": ("gauge", "When the last refresh ran, however it ended."),
    "wallmap_refresh_success_timestamp_seconds": (
        "gauge", "When a refresh last ended with a map that is up to date."),
    "wallmap_refresh_exit_code": ("gauge", "Of the last refresh; 0 is well."),
    "wallmap_refresh_failures_total": ("counter", "Refreshes that failed or were refused."),
    "wallmap_refresh_seconds": ("gauge", "Wall time of the last refresh."),
    "wallmap_refresh_tiles_recomputed": ("gauge", "Tiles that the last refresh made anew."),
    "wallmap_refresh_tiles_carried": ("gauge", "Tiles that the last refresh took over."),
    "wallmap_refresh_tiles_failed": ("gauge", "Tiles whose data the last refresh could not read."),
    "wallmap_refresh_bytes_read": ("gauge", "Bytes that the recomputed tiles needed (estimate)."),
    "wallmap_refresh_bytes_saved": ("gauge", "Bytes that the carried tiles did not need."),
}
_FAILURES = "wallmap_refresh_failures_total"
_LINE = re.compile(r'(\w+)\{region="((?:[^"\\]|\\.)*)",task="((?:[^"\\]|\\.)*)"\} (\S+)')

Samples = dict[tuple[str, str], dict[str, float]]  # (region, task) -> metric -> value


def write(path: Path, results: Iterable[RefreshResult]) -> None:
    """Bring the metrics file up to date; lines of other regions and tasks stay.

    Args:
        path: of the file; the collector wants it to end in ``.prom``.
        results: of refreshes, in the order they were made.

    Raises:
        BadRequest: it cannot be written to.
        DataTrouble: the disk is full or failing.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        guard = path.with_name(f".{path.name}.lock").open("w")
    with guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # regions that are refreshed at the same time
        samples = read(path)
        for result in results:
            known = samples.setdefault((result.region, result.task), {})
            known.update(_values(result, known.get(_FAILURES, 0.0)))
        atomic_write_text(path, render(samples))


def read(path: Path) -> Samples:
    """The samples of a metrics file of ours; none where there is no such file."""
    found: Samples = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return found
    for line in lines:
        match = _LINE.fullmatch(line)
        if match and match[1] in METRICS:
            key = _plain(match[2]), _plain(match[3])
            try:
                found.setdefault(key, {})[match[1]] = float(match[4])
            except ValueError:
                continue
    return found


def render(samples: Mapping[tuple[str, str], Mapping[str, float]]) -> str:
    """The text of a metrics file."""
    lines = []
    for name, (kind, help_text) in METRICS.items():
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
        lines += [f'{name}{{region="{_escaped(region)}",task="{_escaped(task)}"}} {values[name]!r}'
                  for (region, task), values in sorted(samples.items()) if name in values]
    return "\n".join(lines) + "\n"


def _values(result: RefreshResult, failures: float) -> dict[str, float]:
    """What a result says; what it knows nothing of stays as it was."""
    now, bad = datetime.fromisoformat(result.now).timestamp(), result.exit_code != 0
    found: dict[str, float] = {
        "wallmap_refresh_timestamp_seconds": now,
        "wallmap_refresh_exit_code": float(result.exit_code),
        _FAILURES: failures + bad,
    }
    if made := _made(result.previous if bad else result.version):
        found["wallmap_map_timestamp_seconds"] = made
    if not bad:
        found |= {"wallmap_refresh_success_timestamp_seconds": now,
                  "wallmap_map_final": float(result.tier == "final"),
                  "wallmap_map_coverage_ratio": result.coverage}
    if result.tiles.total:  # a map that was not due was not looked at
        found |= {"wallmap_refresh_seconds": result.seconds,
                  "wallmap_refresh_tiles_recomputed": float(result.tiles.recomputed),
                  "wallmap_refresh_tiles_carried": float(result.tiles.carried),
                  "wallmap_refresh_tiles_failed": float(result.tiles.failed),
                  "wallmap_refresh_bytes_read": float(result.bytes.read),
                  "wallmap_refresh_bytes_saved": float(result.bytes.saved)}
    return found


def _made(version: str) -> float | None:
    """When a version was made; its id is that time."""
    try:
        return datetime.strptime(version, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], text)
