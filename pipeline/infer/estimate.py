"""What a map will cost to make, from what earlier maps cost on this machine.

The measure of the work is what must be looked at: pixels of images, a band each. What that takes
(bytes, seconds) is measured by every finished run and kept in a small file; a part of it is the
same for a small area and a large one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.files import atomic_write_json
from pipeline.infer.plan import PlanRow
from pipeline.spec.errors import PipelineError

_KEPT = 200  # runs
_LAST = 20  # runs of a kind that an estimate is made from: machines and archives change
_SPAN = 2.0  # from the smallest to the largest run, before they tell a fixed part
_FAR = 10.0  # times the largest run: to be said
# What two runs must share to be of one kind, strictly, and where no run is: loosely.
# Never left out: the network, and where and on how many workers the tiles are made.
_ALWAYS = ("machine", "task", "device", "network", "scheduler", "workers")
_ALIKE = ((*_ALWAYS, "sensor", "speed", "catalog"), (*_ALWAYS, "sensor", "speed"), _ALWAYS)


@dataclass(frozen=True)
class Kind:
    """What the rates of a run depend on.

    Attributes:
        machine: processor, cores and memory.
        task, sensor, catalog, speed, scheduler: as asked for.
        device: that computes: ``auto`` is none.
        network: its method, encoder and options, not its weights.
        workers: tiles that are predicted at once; 0 where a cluster decides.
    """

    machine: str
    task: str
    sensor: str
    catalog: str
    device: str
    speed: str
    network: str
    scheduler: str = "none"
    workers: int = 1


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
        error: largest relative error that the others of these runs would have made in one of them;
            None for fewer than two.
        larger: how many times the work of the largest of them this is, from 1 on.
        price: of an hour, in whatever currency it was stated in; None where it was not.
        loose: the runs were of another sensor, catalogue or speed.
    """

    work: float
    runs: int = 0
    size: float | None = None
    seconds: float | None = None
    error: float | None = None
    price: float | None = None
    loose: bool = False
    larger: float = 1.0

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
                "runs": self.runs, "times_the_largest_run": round(self.larger, 1),
                "other_sensor_or_catalog": self.loose,
                "price_per_hour": self.price, "cost": self.cost and round(self.cost, 4)}

    def __str__(self) -> str:
        said = f"{self.work / 1e6:,.0f} million image pixels"
        if self.seconds is None:
            return f"{said}; no rates measured yet on this machine: the first map measures them"
        parts = [f"{self.size / 1e9:.2f} GB" if self.size else "bytes not counted",
                 _duration(self.seconds),
                 f"cost {self.cost:.2f} at {self.price:g} an hour" if self.cost is not None else ""]
        spread = (f"+-{self.error:.0%}, the spread of {self.runs} runs" if self.error is not None
                  else "error unknown, from a single run")
        what = " of other sensors, catalogues or speeds" if self.loose else ""
        if self.larger > _FAR:
            what += f", the largest of them {self.larger:.0f} times smaller"
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
            alike = alike[-_LAST:]
            took = [(r.work, r.seconds) for r in alike]
            read = [(r.work, float(r.size)) for r in alike if r.size]
            errors = [abs(_along(took[:k] + took[k + 1 :], w) / seconds - 1)
                      for k, (w, seconds) in enumerate(took) if len(took) > 1]
            return Estimate(work, len(alike), _along(read, work) if read else None,
                            _along(took, work), round(max(errors), 3) if errors else None, price,
                            level > 0, max(work / max(r.work for r in alike), 1.0))
    return Estimate(work, price=price)


def _along(runs: Sequence[tuple[float, float]], work: float) -> float:
    """What so much work takes, by pairs of work and what it took: a fixed part and one for each
    pixel, with the least squares of relative errors, neither of them negative. Runs of about one
    size tell nothing of the fixed part: the median of what a pixel takes."""
    works, took = np.array(runs, float).T
    if works.max() < _SPAN * works.min():
        return float(np.median(took / works)) * work
    one, each = 1 / took, works / took  # times the two parts, each should be 1
    fixed, pace = np.linalg.lstsq(np.stack([one, each], 1), np.ones(len(runs)), rcond=None)[0]
    if fixed < 0:
        fixed, pace = 0.0, each.sum() / (each @ each)
    elif pace < 0:
        fixed, pace = one.sum() / (one @ one), 0.0
    return float(fixed + pace * work)


def rates_file() -> Path:
    """Where the rates of this user are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "wallmap" / "rates.json"


def recall(path: Path) -> list[Run]:
    """Runs that were measured; none where the file is missing or damaged. Those that an earlier
    version kept, with less to tell them by, are left out."""
    found = []
    try:
        for r in json.loads(path.read_text()):
            with suppress(ValueError, KeyError, TypeError):
                found.append(Run(Kind(**r["kind"]), float(r["work"]), int(r["size"]),
                                 float(r["seconds"])))
    except (OSError, ValueError, TypeError):
        pass
    return found


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
