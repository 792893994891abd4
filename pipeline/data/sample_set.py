"""The SampleSet: labelled series as read, and what is known of sets that carry no sidecar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.spec.context import GLOBCOVER, PLACE, Legend


@dataclass(frozen=True)
class SampleSet:
    """N rows; a row is a sample in one window of T months.

    A sample whose source covers more than T months may have several rows. ``primary`` marks the
    one that is scored, the others only vary the season's place in the window during training.

    Attributes:
        name: of the set.
        licence: of the data, as its source states it.
        task: key of the task that ``target`` belongs to.
        ids: (N,) sample ids; rows of one sample share it.
        lon, lat: (N,) degrees, EPSG:4326.
        target: (N,) int64 index into the task's classes (-1: no label), or float64 value in its
            unit (NaN: no label), or (N, K) float32 zeros and ones of a multi-label task.
        groups: (N,) str, rows that must stay on one side of a split.
        months: (N, T) month index of each step (``spec.timeline``); of dated acquisitions with the
            part of the month that has passed.
        primary: (N,) bool.
        series: per sensor x (N, T, B), or images (N, T, B, H, W), float32 in the sensor's unit,
            NaN for gaps, and valid (N, T) bool. A sample without the sensor is all gaps.
        bands: per sensor the names of its B bands.
        radiometry: per sensor what a value means (``Source.radiometry``).
        context: place features by name (``spec.context``): (N,) float32, NaN where unknown.
        own_months: per sensor (N, T) of those whose steps are not those of ``months``.
    """

    name: str
    licence: str
    task: str
    ids: np.ndarray
    lon: np.ndarray
    lat: np.ndarray
    target: np.ndarray
    groups: np.ndarray
    months: np.ndarray
    primary: np.ndarray
    series: Mapping[str, tuple[np.ndarray, np.ndarray]]
    bands: Mapping[str, tuple[str, ...]]
    radiometry: Mapping[str, str]
    context: Mapping[str, np.ndarray] = field(default_factory=dict)
    own_months: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.months)
        for label in ("ids", "lon", "lat", "groups", "primary"):
            if getattr(self, label).shape != (n,):
                raise ValueError(f"{label} is {getattr(self, label).shape}, wanted {(n,)}")
        if len(self.target) != n or self.target.ndim > 2:
            raise ValueError(f"target is {self.target.shape}, wanted {(n,)} or ({n}, K)")
        for key, (x, valid) in self.series.items():
            t = self.months_of(key).shape[1]
            want = (n, t, len(self.bands[key]))
            if (x.shape[:3] != want or x.ndim not in (3, 5) or x.dtype != np.float32
                    or valid.shape != (n, t)):
                raise ValueError(f"{key} is {x.dtype}{x.shape} with valid {valid.shape}, "
                                 f"wanted float32{want} with {(n, t)}")
        for name, column in self.context.items():
            if name not in PLACE or column.shape != (n,) or column.dtype != np.float32:
                raise ValueError(f"context {name} is {column.dtype}{column.shape}, wanted "
                                 f"float32{(n,)} of {', '.join(PLACE)}")

    @property
    def sensors(self) -> tuple[str, ...]:
        return tuple(self.series)

    @property
    def rows(self) -> int:
        """Number of samples (windows of one sample count once)."""
        return int(self.primary.sum())

    def months_of(self, sensor: str) -> np.ndarray:
        """(N, T) month index of each step of a sensor."""
        return self.own_months.get(sensor, self.months)

    def take(self, rows: np.ndarray) -> SampleSet:
        """The set with only these rows ((N,) bool, or row numbers)."""
        per_row = ("ids", "lon", "lat", "target", "groups", "months", "primary")
        return replace(
            self, **{k: getattr(self, k)[rows] for k in per_row},
            series={k: (x[rows], valid[rows]) for k, (x, valid) in self.series.items()},
            context={k: column[rows] for k, column in self.context.items()},
            own_months={k: months[rows] for k, months in self.own_months.items()},
        )


@dataclass(frozen=True)
class KnownSet:
    """What a set's own files do not say (published benchmarks have no ``dataset.json``).

    Attributes:
        licence: as stated by the source.
        radiometry: per sensor.
        group: column of ``samples.parquet`` that splits are grouped by.
        rename: column in ``series.parquet`` -> band name.
        place: column in ``samples.parquet`` -> place feature (``spec.context``).
        landcover: column of land-cover codes and their legend, where the set has them.
    """

    licence: str
    radiometry: Mapping[str, str]
    group: str = "group"
    rename: Mapping[str, str] = field(default_factory=dict)
    place: Mapping[str, str] = field(default_factory=dict)
    landcover: tuple[str, Legend] | None = None


_NOT_STATED = "not stated (Other/Proprietary)"
_S1_S2 = {"s1": "sigma0", "s2": "l2a"}

KNOWN_SETS: dict[str, KnownSet] = {
    "canada_2017": KnownSet(_NOT_STATED, _S1_S2),
    "flanders_2018": KnownSet(_NOT_STATED, _S1_S2),
    "global_b": KnownSet(_NOT_STATED, _S1_S2),
    "flanders_2021": KnownSet("MIT", _S1_S2),
    "france_2022_corsica": KnownSet("MIT", _S1_S2),
    "france_2023": KnownSet("MIT", _S1_S2),
    "africa_2017": KnownSet("MIT", _S1_S2),
    # its `group` is one of three countries: too few for folds; the 0.1 degree cell is as wide as
    # the groups of the European sets
    "itu_cropland": KnownSet("not stated", {**_S1_S2, "l8": "landsat-c1-sr"}, group="grid_cell"),
    "itu_cropland_unlabelled": KnownSet(
        "not stated", {**_S1_S2, "l8": "landsat-c1-sr"}, group="grid_cell"
    ),
    # S2 is top of atmosphere here, which no mapping source is. Which of the two short-wave bands
    # `swir` is, the source does not say: taken as 1.6 um, the band of the NDWI that it stands
    # beside (Gao 1996).
    "lfmc": KnownSet(
        "CC BY-NC-ND 4.0 (s1, l8); MIT (s2)",
        {"s1": "sigma0", "s2": "l1c", "l8": "landsat-c1-sr"},
        rename={"swir": "swir16"},
        place={k: k for k in ("elevation", "slope", "canopy_height")},
        landcover=("forest_cover", GLOBCOVER),
    ),
}
