"""What a user asks for, validated: the frozen request of one map."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipeline.spec.errors import BadRequest
from pipeline.spec.sensors import SENSORS
from pipeline.spec.tasks import Task
from pipeline.spec.timeline import Timeline, month_of

DEVICES = ("auto", "cpu", "cuda")

# How the sensors of a map are taken: the best of each cell, the user's order, or all fused.
Mode = Literal["best", "order", "all"]
# What a network may trade for time: nothing; the precision that its device is best at; itself, for
# the student in its checkpoint.
Speed = Literal["exact", "default", "fast"]
SPEEDS: tuple[Speed, ...] = ("exact", "default", "fast")
_MODES: dict[str, Mode] = {"auto": "best", "all": "all"}


@dataclass(frozen=True)
class MapRequest:
    """One map to make.

    Attributes:
        aoi: path or ``W,S,E,N`` as given.
        sensor: ``auto``, ``all``, a sensor key, or an order of preference (``s2,s1``), as given.
        task: what to map.
        timeline: the months.
        catalog: short name, API URL, catalog.json or .parquet.
        checkpoint: folder, or name of a shipped one.
        out: folder of the results.
        tile_px: tile size in map pixels; it changes memory, never a pixel.
        device: ``auto``, ``cpu`` or ``cuda``.
        adapt: shift the levels of images whose radiometry the checkpoint does not accept.
        speed: ``exact`` is float32; ``default`` is bfloat16 where the device has it, which changes
            a class in about a thousand pixels; ``fast`` is the checkpoint's student, likewise.
    """

    aoi: str
    sensor: str
    task: Task
    timeline: Timeline
    catalog: str
    checkpoint: str
    out: Path
    tile_px: int = 512
    device: str = "auto"
    adapt: bool = False
    speed: Speed = "default"

    def __post_init__(self) -> None:
        sensor_order(self.sensor)
        if not isinstance(self.tile_px, int) or not 16 <= self.tile_px <= 4096:
            raise BadRequest("the tile size is out of range", got=self.tile_px,
                             allowed="16 to 4096 pixels", then="try --tile-size 512")
        if self.device not in DEVICES:
            raise BadRequest("unknown device", got=self.device, allowed=", ".join(DEVICES),
                             then="try --device auto")
        if self.speed not in SPEEDS:
            raise BadRequest("unknown speed", got=self.speed, allowed=", ".join(SPEEDS),
                             then="try --speed default")

    @property
    def mode(self) -> Mode:
        """How the sensors are taken."""
        return _MODES.get(self.sensor, "order")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; ``out`` and ``device`` are left out, they do not change a pixel."""
        return {
            "aoi": self.aoi, "sensor": self.sensor, "task": self.task.key,
            "period": str(self.timeline), "catalog": self.catalog,
            "checkpoint": self.checkpoint, "tile_px": self.tile_px,
            "adapt": self.adapt, "speed": self.speed,
        }


def sensor_order(text: str) -> tuple[str, ...]:
    """Sensor keys of ``--sensor``, in order of preference; empty for ``auto`` and ``all``.

    Raises:
        BadRequest: an unknown or repeated key.
    """
    if text in _MODES:
        return ()
    keys = tuple(part.strip() for part in text.split(","))
    for key in keys:
        if key not in SENSORS:
            raise BadRequest("unknown sensor", got=key,
                             allowed=f"{', '.join(SENSORS)}, auto, all, or a list such as s2,s1",
                             then="try --sensor auto")
    if len(set(keys)) != len(keys):
        raise BadRequest("a sensor is listed twice", got=text, then=f"try --sensor {keys[0]}")
    return keys


def last_season(task: Task, latitude: float, now: datetime | None = None) -> Timeline:
    """Timeline of the last complete season: what is mapped when no period is given.

    A cropland season ends in October, south of the equator in April; fuel moisture is mapped for
    the last complete month.
    """
    last = month_of(now or datetime.now(UTC)) - 1
    if task.season_end is not None:
        end = task.season_end if latitude >= 0 else (task.season_end + 5) % 12 + 1
        last -= (last % 12 + 1 - end) % 12
    return Timeline(last - task.steps + 1, task.steps)
