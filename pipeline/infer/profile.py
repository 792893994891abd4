"""Where the time of a run goes: seconds, pixels and bytes of each stage."""

from __future__ import annotations

import os
import platform
import resource
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.data.block_store import DECODED
from pipeline.data.remote import RemoteFile
from pipeline.data.spill import Spill
from pipeline.spec.machine import cores
from pipeline.spec.manifest import TileRecord

Stage = Literal["search", "plan", "read", "decode", "composite", "predict", "write", "publish"]
STAGES: tuple[Stage, ...] = (
    "search", "plan", "read", "decode", "composite", "predict", "write", "publish")
WITHIN: tuple[Stage, ...] = ("decode", "composite")  # processor time, parts of "read"


@dataclass
class Spent:
    """What a stage took.

    Attributes:
        seconds: of all threads together: stages overlap, and may add up to more than the run took.
        pixels: of the map that went through.
        size: bytes.
    """

    seconds: float = 0.0
    pixels: int = 0
    size: int = 0


class Profile:
    """What the stages of a run took so far; threads may add at once.

    ``read`` is fetching, decoding and compositing of tiles; ``decode`` and ``composite`` are the
    processor time of the last two of these.

    Attributes:
        stages: what was counted.
        elsewhere: the tiles are made by a cluster, whose records hold no more than ``read`` and
            ``predict``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun, self._bytes = time.perf_counter(), bytes_read()
        self._decoded = DECODED.seconds, DECODED.size
        self.stages: dict[Stage, Spent] = {}
        self.elsewhere = False

    def add(self, stage: Stage, seconds: float, pixels: int = 0, size: int = 0) -> None:
        """Count something."""
        with self._lock:
            spent = self.stages.setdefault(stage, Spent())
            spent.seconds += seconds
            spent.pixels += pixels
            spent.size += size

    def add_tile(self, record: TileRecord) -> None:
        """Count a finished tile."""
        for stage in STAGES:
            if stage in record.seconds:
                made = sum(record.mapped_px.values())
                self.add(stage, record.seconds[stage], made if stage == "predict" else
                         record.area_px)

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Count the seconds of a block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started)

    def tiles_done(self) -> None:
        """What was read and decoded since the start was so for tiles: count it."""
        self.add("read", 0.0, size=bytes_read() - self._bytes)
        seconds, size = self._decoded
        if DECODED.size > size:
            self.add("decode", DECODED.seconds - seconds, size=DECODED.size - size)

    def to_json(self, pixel_m: int) -> dict[str, Any]:
        """Plain JSON: each stage and its rates, the whole run, and the machine.

        Args:
            pixel_m: pixel size of the map, metres.
        """
        wall = time.perf_counter() - self._begun
        busy = sum(s.seconds for key, s in self.stages.items() if key not in WITHIN)
        pixels = max((s.pixels for s in self.stages.values()), default=0)
        whole = Spent(wall, pixels, sum(s.size for key, s in self.stages.items()
                                        if key not in WITHIN))
        tiles = self.stages.get("read", Spent()).pixels
        stages = {key: replace(spent, pixels=tiles) if key in WITHIN else spent
                  for key, spent in self.stages.items()}
        return {
            "stages": {key: {**_rates(stages[key], pixel_m),
                             "share": round(stages[key].seconds / max(busy, 1e-9), 4)}
                       for key in STAGES if key in stages},
            "wall": _rates(whole, pixel_m),
            "peak_memory_mib": peak_memory() // 2**20,
            "machine": machine(),
            "elsewhere": self.elsewhere,
        }


def _rates(spent: Spent, pixel_m: int) -> dict[str, float]:
    seconds = max(spent.seconds, 1e-9)
    per_second = spent.pixels / seconds
    return {"seconds": round(spent.seconds, 3), "pixels": spent.pixels, "bytes": spent.size,
            "px_per_s": round(per_second, 1), "mb_per_s": round(spent.size / seconds / 1e6, 3),
            "km2_per_h": round(per_second * 3600 * pixel_m**2 / 1e6, 2)}


def table(report: Mapping[str, Any]) -> str:
    """``Profile.to_json`` as text, a line a stage."""
    lines = [f"{'stage':<10}{'seconds':>10}{'share':>8}{'px/s':>12}{'MB/s':>9}{'km2/h':>12}"]
    for name, s in {**report["stages"], "wall": report["wall"]}.items():
        share = f"{s['share']:.1%}" if "share" in s else ""
        px, mb, km2 = rates(s)
        lines.append(f"{name:<10}{s['seconds']:>10.2f}{share:>8}{px:>12}{mb:>9}{km2:>12}")
    note = ("stages overlap; the workers' decode, composite, write, bytes and memory are not "
            "counted" if report.get("elsewhere") else
            "stages overlap; decode and composite are processor time within read")
    return "\n".join([*lines, f"peak memory {report['peak_memory_mib']} MiB; {report['machine']}",
                      note])


def rates(stage: Mapping[str, Any]) -> list[str]:
    """px/s, MB/s and km2/h of a stage as text, empty where nothing was counted."""
    return [f"{stage[key]:,.{digits}f}" if stage[total] else "" for key, total, digits in (
        ("px_per_s", "pixels", 0), ("mb_per_s", "bytes", 1), ("km2_per_h", "pixels", 1))]


def bytes_read() -> int:
    """Bytes that this process has read from files (where the system counts them) and the web, but
    for those that it had laid on disk itself."""
    try:
        text = Path("/proc/self/io").read_text()
    except OSError:  # not Linux
        return RemoteFile.received
    # what arrives by TLS is among them: OpenSSL reads its sockets like files
    files = next(line.split()[1] for line in text.splitlines() if line.startswith("rchar"))
    return int(files) - Spill.read_back + RemoteFile.received_plain


def peak_memory() -> int:
    """Most bytes of memory that this process has held."""
    try:  # the other figure begins with that of the process that started this one
        text = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) << 10 for line in text.splitlines()
                    if line.startswith("VmHWM"))
    except (OSError, StopIteration):  # not Linux
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine() -> str:
    """Processor, cores, memory."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines()
                  if line.startswith("model name")]
        name = models[0] if models else name
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{name}, {cores()} cores, {memory:.0f} GiB"
