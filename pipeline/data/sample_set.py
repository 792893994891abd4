"""The SampleSet: labelled series as read, and what is known of sets that carry no sidecar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


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
        target: (N,) int64 index into the task's classes, or float64 value in its unit.
        groups: (N,) str, rows that must stay on one side of a split.
        months: (N, T) month index of each step (``spec.timeline``).
        primary: (N,) bool.
        series: per sensor x (N, T, B) float32 in the sensor's unit, NaN for gaps, and valid
            (N, T) bool. A sample without the sensor is all gaps.
        bands: per sensor the names of its B bands.
        radiometry: per sensor what a value means (``Source.radiometry``).
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

    def __post_init__(self) -> None:
        n, t = self.months.shape
        for label in ("ids", "lon", "lat", "target", "groups", "primary"):
            if getattr(self, label).shape != (n,):
                raise ValueError(f"{label} is {getattr(self, label).shape}, wanted {(n,)}")
        for key, (x, valid) in self.series.items():
            want = (n, t, len(self.bands[key]))
            if x.shape != want or x.dtype != np.float32 or valid.shape != (n, t):
                raise ValueError(f"{key} is {x.dtype}{x.shape} with valid {valid.shape}, "
                                 f"wanted float32{want} with {(n, t)}")

    @property
    def sensors(self) -> tuple[str, ...]:
        return tuple(self.series)

    @property
    def rows(self) -> int:
        """Number of labelled samples (windows of one sample count once)."""
        return int(self.primary.sum())


@dataclass(frozen=True)
class KnownSet:
    """What a set's own files do not say (published benchmarks have no ``dataset.json``).

    Attributes:
        licence: as stated by the source.
        radiometry: per sensor.
        group: column of ``samples.parquet`` that splits are grouped by.
        rename: column in ``series.parquet`` -> band name.
    """

    licence: str
    radiometry: Mapping[str, str]
    group: str = "group"
    rename: Mapping[str, str] = field(default_factory=dict)


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
    # S2 is top of atmosphere here, which no mapping source is. Which of the two short-wave bands
    # `swir` is, the source does not say: taken as 1.6 um, the band of the NDWI that it stands
    # beside (Gao 1996).
    "lfmc": KnownSet(
        "CC BY-NC-ND 4.0 (s1, l8); MIT (s2)",
        {"s1": "sigma0", "s2": "l1c", "l8": "landsat-c1-sr"},
        rename={"swir": "swir16"},
    ),
}
