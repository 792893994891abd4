"""The five rasters of a sheet: what their codes mean and how they are encoded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from pipeline.spec.sensors import SENSORS
from pipeline.spec.tasks import MapClass, Task

NO_SENSOR = 0  # in sensor.tif: inside the area, but no sensor had usable observations
# in sensor.tif: made from several sensors together (``--sensor all``), FUSED plus one bit a sensor,
# 1 << (code - 1): 19 = s1+s2, 21 = s1+l8, 22 = s2+l8, 23 = all three
FUSED = 16
OUTSIDE = 255  # in sensor.tif and quality.tif: outside the area

# quality.tif; the thresholds are in ``pipeline.spec.quality``. The later rule wins: a pixel outside
# the training domain stays mapped, but neither its probability nor its interval can be relied on.
NO_QUALITY, GOOD, LOW, FEW, UNLIKE = 0, 1, 2, 3, 4

# Okabe and Ito 2008, "Color Universal Design": told apart by colour-blind readers, too
_SENSOR_COLOURS = ((0, 114, 178), (0, 158, 115), (230, 159, 0), (204, 121, 167), (86, 180, 233),
                   (213, 94, 0), (240, 228, 66))
_NO_SENSOR_COLOUR = (150, 150, 150)


@dataclass(frozen=True)
class Layer:
    """One single-band raster of a sheet, ``<name>.tif``.

    Attributes:
        name: file and asset name.
        title: human-readable name.
        dtype: NumPy name of an unsigned integer type.
        nodata: code of pixels without a value.
        kind: ``classes`` (codes with names and colours) or ``values``.
        classes: of a ``classes`` layer; empty otherwise.
        scale, offset: value = code * scale + offset (1 and 0 for classes).
        unit: of the value (UDUNITS); empty for classes.
    """

    name: str
    title: str
    dtype: str
    nodata: int
    kind: Literal["classes", "values"]
    classes: tuple[MapClass, ...] = ()
    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""

    def __post_init__(self) -> None:
        if np.dtype(self.dtype).kind != "u":
            raise ValueError(f"layer {self.name} is {self.dtype}, wanted an unsigned integer")
        if bool(self.classes) != (self.kind == "classes"):
            raise ValueError(f"layer {self.name} of {self.kind} has {len(self.classes)} classes")
        if self.classes and self.dtype != "uint8":
            raise ValueError(f"layer {self.name} is {self.dtype}: a colour table wants uint8")
        if not 0 <= self.nodata <= np.iinfo(self.dtype).max:
            raise ValueError(f"layer {self.name}: nodata {self.nodata} is no {self.dtype}")
        codes = [c.code for c in self.classes]
        if self.nodata in codes:
            raise ValueError(f"layer {self.name}: nodata {self.nodata} is the code of a class")
        if len(set(codes)) != len(codes) or any(not 0 <= c <= 255 for c in codes):
            raise ValueError(f"layer {self.name}: codes {codes} are not distinct uint8")
        if not self.scale > 0:
            raise ValueError(f"layer {self.name}: scale {self.scale} is not positive")


def layers_of(task: Task) -> tuple[Layer, ...]:
    """The layers of a sheet of that task: map, confidence, sensor, observations, quality.

    Raises:
        ValueError: the task's codes do not fit its dtype, or one of them is its nodata.
    """
    kind: Literal["classes", "values"] = "classes" if task.classes else "values"
    mapped = Layer(
        "map", task.title, task.dtype, task.nodata, kind, task.classes, task.scale, unit=task.unit
    )
    if task.kind == "classification":
        confidence = Layer(
            "confidence", "Calibrated probability of the mapped class", "uint8", 255, "values",
            unit="%",
        )
    else:
        confidence = Layer(
            "confidence", "Half-width of the 90 % interval", "uint16", 65535, "values",
            scale=task.scale, unit=task.unit,
        )
    observations = Layer(
        "observations", "Valid observations used", "uint16", 65535, "values", unit="1"
    )
    return mapped, confidence, sensor_layer(), observations, quality_layer()


def sensor_layer() -> Layer:
    """Which sensor made each pixel: its code in ``pipeline.spec.sensors``, or that of several
    together (``FUSED``); 0 = none was usable."""
    sets = [keys for n in range(1, len(SENSORS) + 1) for keys in combinations(SENSORS, n)]
    classes = [MapClass(NO_SENSOR, "none", _NO_SENSOR_COLOUR)] + [
        MapClass(sensor_code(keys), "+".join(keys), _SENSOR_COLOURS[k % len(_SENSOR_COLOURS)])
        for k, keys in enumerate(sets)
    ]
    return Layer("sensor", "Sensor of the pixel", "uint8", OUTSIDE, "classes", tuple(classes))


def sensor_code(keys: Iterable[str]) -> int:
    """Code in ``sensor.tif`` of the sensors that made a pixel together; one sensor's own code.

    Raises:
        KeyError: no such sensor.
    """
    codes = [SENSORS[key].code for key in keys]
    return codes[0] if len(codes) == 1 else FUSED + sum(1 << (code - 1) for code in codes)


def quality_layer() -> Layer:
    """How far each pixel can be trusted."""
    classes = (
        MapClass(NO_QUALITY, "none", _NO_SENSOR_COLOUR),
        MapClass(GOOD, "good", (205, 226, 214)),
        MapClass(LOW, "low confidence", (245, 206, 98)),
        MapClass(FEW, "few observations", (116, 173, 209)),
        MapClass(UNLIKE, "outside the training domain", (165, 15, 21)),
    )
    return Layer("quality", "Quality", "uint8", OUTSIDE, "classes", classes)
