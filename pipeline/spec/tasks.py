"""What is mapped: classes or unit, pixel, timeline, model features, and how the map is encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.spec.errors import BadRequest


@dataclass(frozen=True)
class MapClass:
    """One class of a map: its code in ``map.tif``, name and colour (RGB, 0-255)."""

    code: int
    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Task:
    """A mapping task.

    Attributes:
        key: ``cropland``, ``lfmc``, or that of a benchmark (``data.benchmarks``).
        kind: ``classification``, ``regression``, or ``multilabel`` (classes that do not exclude
            each other; benchmarks only, nothing maps them).
        title: human-readable name of the mapped quantity.
        label_column: column of ``samples.parquet`` that holds the target.
        classes: classes in the order of the model's outputs; empty for regression.
        unit: unit of the value (UDUNITS); empty for classes.
        pixel_m: pixel of the map, metres; the lattice is snapped to multiples of it.
        read_m: pixel that scenes are read at; ``pixel_m`` is a multiple of it. Clear sub-pixels
            are averaged (linear power for radar) up to ``pixel_m``.
        steps: monthly steps of the timeline; the last one is the month asked for.
        min_steps: fewest months with data that a pixel needs to be predicted.
        features: model features per sensor (``pipeline.prep.features``), in order.
        dtype: of ``map.tif``.
        scale: value = code * scale, for regression (1 for classes).
        nodata: code that no class and no value takes.
        valid_range: predictions are clipped to it (regression), in ``unit``.
        season_end: calendar month (1-12) that a season ends in, north of the equator; None when
            any month may be asked for. Only the default period depends on it.
        slope_m: side of the cells, centred on the pixel, that slope is computed from; an odd
            multiple of ``read_m``.
        static: place features (``spec.context``) that a checkpoint may use beside any sensor; the
            samples are given them, and maps fetch those that the checkpoint's card names.
    """

    key: str
    kind: Literal["classification", "regression", "multilabel"]
    title: str
    label_column: str
    classes: tuple[MapClass, ...]
    unit: str
    pixel_m: int
    read_m: int
    steps: int
    min_steps: int
    features: Mapping[str, tuple[str, ...]]
    dtype: str
    scale: float
    nodata: int
    valid_range: tuple[float, float] = (0.0, 0.0)
    season_end: int | None = None
    slope_m: int = 90  # three cells of a 30 m elevation model
    static: tuple[str, ...] = ()

    def smooth_px(self, sensor: str) -> int:
        """Side of the window that class probabilities are averaged over; 1 = none.

        Speckle flips single radar pixels inside a field; optical pixels have none, and there the
        window only blurs field edges (measured on the demo region, README).
        """
        return 3 if self.classes and sensor == "s1" else 1

    @property
    def aggregate(self) -> int:
        """Read pixels along one side of a map pixel."""
        return self.pixel_m // self.read_m


CROPLAND = Task(
    key="cropland",
    kind="classification",
    title="Temporary cropland",
    label_column="cropland",
    classes=(
        MapClass(0, "other", (214, 206, 190)),
        MapClass(1, "cropland", (206, 142, 28)),
    ),
    unit="",
    pixel_m=10,
    read_m=10,
    steps=12,
    min_steps=3,
    # B8A is absent from most label sets and from one archive: a feature that only some
    # sources give would make the checkpoint unusable on the others.
    features={
        "s1": ("vv", "vh", "vh_vv"),
        "s2": ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12", "ndvi", "ndwi"),
        "l8": ("blue", "green", "red", "nir", "swir16", "swir22", "ndvi", "ndwi"),
    },
    dtype="uint8",
    scale=1.0,
    nodata=255,
    season_end=10,
)

LFMC = Task(
    key="lfmc",
    kind="regression",
    title="Live fuel moisture content",
    label_column="lfmc_percent",
    classes=(),
    unit="%",
    pixel_m=250,
    read_m=50,
    steps=4,
    min_steps=1,
    features={
        "s1": ("vv", "vh", "vh_vv"),
        "s2": ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12", "ndvi", "ndwi"),
        "l8": ("blue", "green", "red", "nir", "swir16", "nirv", "ndvi", "ndwi"),
    },
    dtype="uint16",
    scale=0.1,
    nodata=65535,
    valid_range=(0.0, 400.0),
    # The slopes of the label set are exactly Horn's of whole-metre elevations in cells of 950.47 m:
    # (8 * 950.47 tan slope)^2 is a sum of two squares of integers for every one of them.
    slope_m=950,
    static=("elevation", "slope", "tree", "shrub", "herb", "crop"),
)

TASKS: dict[str, Task] = {t.key: t for t in (CROPLAND, LFMC)}


def task(key: str) -> Task:
    """The task of that key.

    Raises:
        BadRequest: no such task; the message lists the valid keys.
    """
    try:
        return TASKS[key]
    except KeyError:
        raise BadRequest(
            "unknown task", got=key, allowed=", ".join(TASKS), then="try --task cropland"
        ) from None
