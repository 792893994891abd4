"""Sample sets -> one table of composited series -> model input, by the one feature path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.data.sample_set import SampleSet
from pipeline.learn.splits import joined_groups
from pipeline.prep.features import bands_needed, features, model_input
from pipeline.spec.card import SensorCard
from pipeline.spec.errors import BadRequest
from pipeline.spec.sensors import SENSORS
from pipeline.spec.tasks import Task

# Surface reflectance of Sentinel-2 -> Landsat 8 OLI: value * slope + offset. Sentinel-2A row of
# the Harmonized Landsat Sentinel-2 products: Claverie et al. 2018, doi:10.1016/j.rse.2018.09.002,
# and HLS User Guide 1.4. The near infrared belongs to B8A there; it is applied to B08, since most
# label sets have no B8A.
S2_TO_OLI = {
    "blue": ("B02", 0.9778, -0.0040),
    "green": ("B03", 1.0053, -0.0009),
    "red": ("B04", 0.9765, 0.0009),
    "nir": ("B08", 0.9983, -0.0001),
    "swir16": ("B11", 0.9987, -0.0011),
    "swir22": ("B12", 1.0030, -0.0012),
}


@dataclass(frozen=True)
class Table:
    """N rows of all sets (a row is a sample in one window); windows of a sample are neighbours.

    Attributes:
        task: of all sets.
        names: (N,) set of each row.
        sample: (N,) number of the sample.
        groups: (N,) group number, over all sets.
        target: (N,) class index or value.
        months: (N, T) month index.
        primary: (N,) bool, the window that is scored.
        series: per sensor x (N, T, B) and valid (N, T).
        bands: per sensor names of the B bands.
        radiometry: per sensor those of its rows, the most frequent first.
        derived: per sensor (N,) bool, series computed from another sensor: trained on, not scored.
    """

    task: Task
    names: np.ndarray
    sample: np.ndarray
    groups: np.ndarray
    target: np.ndarray
    months: np.ndarray
    primary: np.ndarray
    series: Mapping[str, tuple[np.ndarray, np.ndarray]]
    bands: Mapping[str, tuple[str, ...]]
    radiometry: Mapping[str, tuple[str, ...]]
    derived: Mapping[str, np.ndarray]

    @property
    def sensors(self) -> tuple[str, ...]:
        return tuple(self.series)

    def scored(self, sensor: str) -> np.ndarray:
        """(N,) bool: rows that held-out scores of the sensor are taken over."""
        return self.primary & self.series[sensor][1].any(1) & ~self.derived[sensor]


def stack(
    sets: Sequence[SampleSet], task: Task, sensors: Sequence[str], *, derive_l8: bool = False
) -> Table:
    """One table of several sets; a sensor that a set lacks is all gaps there.

    Args:
        sets: at least one, all of the task.
        task: gives the features, hence the bands.
        sensors: keys.
        derive_l8: compute l8 from s2 where a row has no l8 of its own (``S2_TO_OLI``).

    Raises:
        BadRequest: no set has one of the sensors, or it lacks a band that a feature needs.
    """
    series, bands, radiometry, derived = {}, {}, {}, {}
    for key in sensors:
        having = [s for s in sets if key in s.series]
        if not having:
            raise BadRequest("no sample set has the sensor", got=key,
                             allowed=", ".join(sorted({k for s in sets for k in s.series})),
                             then="change --sensors")
        bands[key] = bands_needed(task.features[key], SENSORS[key].band_names)
        parts = [_pick(s, key, bands[key]) for s in sets]
        x, valid = (np.concatenate(column) for column in zip(*parts, strict=True))
        count = Counter({r: sum(s.rows for s in having if s.radiometry[key] == r)
                         for r in {s.radiometry[key] for s in having}})
        series[key], radiometry[key] = (x, valid), tuple(r for r, _ in count.most_common())
        derived[key] = np.zeros(len(x), bool)
    if derive_l8 and "l8" in series:
        x, valid = series["l8"]
        oli = np.concatenate([_oli(s, bands["l8"]) for s in sets])
        derived["l8"] = ~valid.any(1) & np.isfinite(oli).any((1, 2))
        x[derived["l8"]] = oli[derived["l8"]]
        series["l8"] = (x, np.isfinite(x).any(-1))
    names = np.concatenate([np.full(len(s.ids), s.name) for s in sets])
    # by the set's number: whatever the sets are called, equal ids in two are two samples
    number = np.repeat(np.arange(len(sets)), [len(s.ids) for s in sets])
    ids = np.concatenate([s.ids for s in sets]).astype(str)
    own = np.char.add(np.char.add(number.astype(str), "/"), ids)
    return Table(
        task=task, names=names, sample=np.unique(own, return_inverse=True)[1],
        groups=joined_groups(number, np.concatenate([s.groups for s in sets]),
                             np.concatenate([s.lon for s in sets]),
                             np.concatenate([s.lat for s in sets])),
        target=np.concatenate([s.target for s in sets]),
        months=np.concatenate([s.months for s in sets]),
        primary=np.concatenate([s.primary for s in sets]),
        series=series, bands=bands, radiometry=radiometry, derived=derived,
    )


def _pick(s: SampleSet, key: str, bands: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The wanted bands of a set, or gaps."""
    n, t = s.months.shape
    if key not in s.series:
        return np.full((n, t, len(bands)), np.nan, np.float32), np.zeros((n, t), bool)
    if missing := sorted(set(bands) - set(s.bands[key])):
        raise BadRequest(f"{s.name} lacks bands of {key}", got=", ".join(missing),
                         then="leave the set or the sensor out")
    x, valid = s.series[key]
    return x[..., [s.bands[key].index(b) for b in bands]], valid


def _oli(s: SampleSet, bands: Sequence[str]) -> np.ndarray:
    """(N, T, B) Landsat-like reflectance of a set's Sentinel-2, gaps where there is none."""
    n, t = s.months.shape
    out = np.full((n, t, len(bands)), np.nan, np.float32)
    # top-of-atmosphere reflectance is not what the slopes were fitted to
    if s.radiometry.get("s2") == "l2a":
        for k, band in enumerate(bands):
            source, slope, offset = S2_TO_OLI[band]
            out[..., k] = s.series["s2"][0][..., s.bands["s2"].index(source)] * slope + offset
    return out


def normalisers(table: Table, rows: np.ndarray) -> dict[str, SensorCard]:
    """Cards with the mean and standard deviation of each feature; scores are still missing.

    Args:
        table: the samples.
        rows: (N,) bool, training rows: nothing else may be looked at.
    """
    cards = {}
    for key, (x, valid) in table.series.items():
        names = table.task.features[key]
        raw = features(x[rows], table.bands[key], names)
        seen = raw[valid[rows] & np.isfinite(raw).all(-1)].astype(np.float64)  # (S, F)
        if len(seen) < 2:
            raise BadRequest(f"{key} has no valid observation in the training rows",
                             then="leave the sensor out or add samples")
        cards[key] = SensorCard(
            features=tuple(names), mean=tuple(seen.mean(0).tolist()),
            std=tuple(np.maximum(seen.std(0), 1e-6).tolist()),
            radiometry=table.radiometry[key][0], accepts=table.radiometry[key],
            coverage_steps=(table.task.steps,), coverage_score=(0.0,),
        )
    return cards


@dataclass(frozen=True)
class Tensors:
    """A table as the networks see it, resident in memory.

    Attributes:
        inputs: per sensor (N, T, C) float32.
        present: (N, M) bool, the row has at least one valid step of the sensor.
        target: (N,) class indices, or z-scored values.
        cards: normaliser per sensor.
        mean, std: of the target over the training rows (0 and 1 for classes).
        class_weights: (K,) inverse to the class's share of the training rows; None for values.
    """

    inputs: dict[str, Tensor]
    present: Tensor
    target: Tensor
    cards: dict[str, SensorCard]
    mean: float
    std: float
    class_weights: Tensor | None


def tensors(table: Table, rows: np.ndarray) -> Tensors:
    """Model input of all rows, with statistics of the training ``rows`` ((N,) bool) only."""
    cards = normalisers(table, rows & table.primary)
    inputs = {
        key: torch.from_numpy(model_input(x, valid, table.months, table.bands[key], cards[key]))
        for key, (x, valid) in table.series.items()
    }
    present = torch.stack(
        [(x[..., len(cards[key].features)] > 0).any(1) for key, x in inputs.items()], dim=1
    )
    known = table.target[rows & table.primary]
    if table.task.kind == "regression":
        mean, std = float(known.mean()), float(max(known.std(), 1e-6))
        target = torch.from_numpy(((table.target - mean) / std).astype(np.float32))
        return Tensors(inputs, present, target, cards, mean, std, None)
    count = np.bincount(known, minlength=len(table.task.classes))
    weights = torch.from_numpy(len(known) / (len(count) * np.maximum(count, 1)))
    return Tensors(inputs, present, torch.from_numpy(table.target), cards, 0.0, 1.0,
                   weights.float())
