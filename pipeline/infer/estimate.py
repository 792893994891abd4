"""What a map will cost to make, from what earlier maps cost on this machine.

The measure of the work is what must be looked at: pixels of images, a band each. What a pixel takes
(bytes, seconds) is measured by every finished run and kept in a small file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.data.files import atomic_write_json
from pipeline.infer.plan import PlanRow
from pipeline.spec.errors import PipelineError

_KEPT = 200  # runs
# What two runs must share to be of one kind, strictly, and where no run is: loosely.
_ALIKE = (("machine", "task", "sensor", "device", "speed", "scheduler", "catalog"),
          ("machine", "task", "sensor", "device", "speed", "scheduler"),
          ("machine", "task", "device"))


@dataclass(frozen=True)
class Kind:
    """What the rates of a run depend on.

    Attributes:
        machine: processor, cores and memory.
        task, sensor, catalog, device, speed, scheduler: as asked for.
    """

    machine: str
    task: str
    sensor: str
    catalog: str
    device: str
    speed: str
    scheduler: str = "none"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        kind: of it.
        work: image pixels.
        size: bytes that were read; 0 where nobody counted.
        seconds: from the first tile to the published files.
    """

    kind: Kind
    work: float
    size: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What a plan will take.

    Attributes:
        work: image pixels to look at.
        runs: earlier runs that it is based on.
        size, seconds: bytes to read and time; None where no run says.
        error: largest relative error that the median of these runs would have made in one of them;
            None for fewer than two.
        price: of an hour, in whatever currency it was stated in; None where it was not.
        loose: the runs were of another sensor or catalogue.
    """

    work: float
    runs: int = 0
    size: float | None = None
    seconds: float | None = None
    error: float | None = None
    price: float | None = None
    loose: bool = False

    @property
    def cost(self) -> float | None:
        """Hours by the price of one."""
        if self.price is None or self.seconds is None:
            return None
        return self.seconds / 3600 * self.price

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"image_pixels": round(self.work), "bytes": self.size and round(self.size),
                "seconds": self.seconds and round(self.seconds, 1), "error": self.error,
                "runs": self.runs, "other_sensor_or_catalog": self.loose,
                "price_per_hour": self.price, "cost": self.cost and round(self.cost, 4)}

    def __str__(self) -> str:
        said = f"{self.work / 1e6:,.0f} million image pixels"
        if self.seconds is None:
            return f"{said}; no rates measured yet on this machine: the first map measures them"
        parts = [f"{self.size / 1e9:.2f} GB" if self.size else "", _duration(self.seconds),
                 f"cost {self.cost:.2f} at {self.price:g} an hour" if self.cost is not None else ""]
        spread = (f"+-{self.error:.0%}, the spread of {self.runs} runs" if self.error is not None
                  else "error unknown, from a single run")
        what = " of other sensors or catalogues" if self.loose else ""
        return f"{said}: {', '.join(p for p in parts if p)} ({spread}{what})"


def work_of(rows: Iterable[PlanRow], bands: Mapping[str, int], aggregate: int = 1) -> float:
    """Image pixels that the tiles of a plan are made from: of the sensors that it puts first.

    Args:
        rows: of the plan.
        bands: bands that are read of each sensor, its quality band included.
        aggregate: fine pixels along a side of a map pixel.
    """
    found = 0.0
    for row in rows:
        height, width = row.tile.geobox.shape
        for cell in row.cells:
            (top, bottom, _), (left, right, _) = cell.rows.indices(height), cell.cols.indices(width)
            size = (bottom - top) * (right - left) * aggregate**2
            chosen = cell.choices if row.mode == "all" else cell.choices[:1]
            found += size * sum(choice.items * bands[choice.sensor] for choice in chosen)
    return found


def estimate(
    work: float, kind: Kind, runs: Sequence[Run], price: float | None = None
) -> Estimate:
    """What so much work will take, by the runs most like it.

    Args:
        work: image pixels.
        kind: of the run to be.
        runs: that were measured.
        price: of an hour.
    """
    for level, fields in enumerate(_ALIKE):
        alike = [r for r in runs if r.work > 0 and r.seconds > 0 and all(
            getattr(r.kind, name) == getattr(kind, name) for name in fields)]
        if alike:
            pace = [r.seconds / r.work for r in alike]
            middle = median(pace)
            error = max(abs(middle / p - 1) for p in pace) if len(pace) > 1 else None
            density = [r.size / r.work for r in alike if r.size]
            return Estimate(work, len(alike), median(density) * work if density else None,
                            middle * work, None if error is None else round(error, 3), price,
                            level > 0)
    return Estimate(work, price=price)


def rates_file() -> Path:
    """Where the rates of this user are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "wallmap" / "rates.json"


def recall(path: Path) -> list[Run]:
    """Runs that were measured; none where the file is missing or damaged."""
    try:
        return [Run(Kind(**r["kind"]), float(r["work"]), int(r["size"]), float(r["seconds"]))
                for r in json.loads(path.read_text())]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def remember(path: Path, run: Run) -> None:
    """Keep a run's rates; where that cannot be done, nothing else suffers."""
    try:
        atomic_write_json(path, [asdict(r) for r in [*recall(path), run][-_KEPT:]])
    except PipelineError:
        return


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
