"""Sample sets -> one table of composited series -> model input, by the one feature path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipeline.data.sample_set import SampleSet
from pipeline.learn.splits import joined_groups
from pipeline.prep.features import CONTEXT, bands_needed, features, model_input, observed
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
        target: (N,) class index or value, or (N, K) zeros and ones of a multi-label task.
        months: (N, T) month index.
        primary: (N,) bool, the window that is scored.
        series: per sensor x (N, T, B), or images (N, T, B, H, W), and valid (N, T).
        bands: per sensor names of the B bands.
        radiometry: per sensor those of its rows, the most frequent first.
        derived: per sensor (N,) bool, series computed from another sensor: trained on, not scored.
        static: place features by name, (N,) float32, NaN where unknown; ``lon`` and ``lat`` are
            among them.
        own_months: per sensor (N, T) of those whose steps are not those of ``months``.
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
    static: Mapping[str, np.ndarray] = field(default_factory=dict)
    own_months: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def sensors(self) -> tuple[str, ...]:
        return tuple(self.series)

    @property
    def static_names(self) -> tuple[str, ...]:
        return tuple(self.static)

    @property
    def labelled(self) -> np.ndarray:
        """(N,) bool: rows with a label (class -1 means none); others only help to train."""
        if self.task.kind != "classification":
            return np.ones(len(self.target), bool)
        return self.target >= 0

    @property
    def known(self) -> np.ndarray:
        """(N,) bool: one row a labelled sample."""
        return self.primary & self.labelled

    def months_of(self, sensor: str) -> np.ndarray:
        """(N, T) month index of each step of a sensor."""
        return self.own_months.get(sensor, self.months)

    def scored(self, sensor: str) -> np.ndarray:
        """(N,) bool: rows that held-out scores of the sensor are taken over."""
        seen = self.series[sensor][1].any(1)
        return self.known & seen & ~self.derived[sensor]


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
    series, bands, radiometry, derived, own_months = {}, {}, {}, {}, {}
    for key in sensors:
        having = [s for s in sets if key in s.series]
        if not having:
            raise BadRequest("no sample set has the sensor", got=key,
                             allowed=", ".join(sorted({k for s in sets for k in s.series})),
                             then="change --sensors")
        bands[key] = bands_needed(task.features[key], _available(having, key))
        parts = [_pick(s, key, bands[key], having[0]) for s in sets]
        x, valid, months = (np.concatenate(column) for column in zip(*parts, strict=True))
        if any(key in s.own_months for s in having):
            own_months[key] = months
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
        series=series, bands=bands, radiometry=radiometry, derived=derived, static=_static(sets),
        own_months=own_months,
    )


def _static(sets: Sequence[SampleSet]) -> dict[str, np.ndarray]:
    """Place features of all sets; one that a set lacks is unknown there."""
    names = dict.fromkeys(n for s in sets for n in s.context)
    columns = {n: [s.context.get(n, np.full(len(s.ids), np.nan)) for s in sets] for n in names}
    # a sampled set knows its pixels' centres, which is what a map has
    columns |= {n: [s.context.get(n, getattr(s, n)) for s in sets] for n in ("lon", "lat")}
    return {n: np.concatenate(c).astype(np.float32) for n, c in columns.items()}


def _available(sets: Sequence[SampleSet], key: str) -> tuple[str, ...]:
    """Names of the bands of a sensor, and of the further ones that sets bring."""
    known = SENSORS[key].band_names if key in SENSORS else ()
    return tuple(dict.fromkeys([*known, *(b for s in sets for b in s.bands[key])]))


def _pick(
    s: SampleSet, key: str, bands: Sequence[str], like: SampleSet
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The wanted bands of a set, which steps are valid, and their months; gaps as in ``like``."""
    if key not in s.series:
        n, (_, t, _, *image) = len(s.ids), like.series[key][0].shape
        months = s.months if s.months.shape[1] == t else np.zeros((n, t))
        return (np.full((n, t, len(bands), *image), np.nan, np.float32), np.zeros((n, t), bool),
                months)
    if missing := sorted(set(bands) - set(s.bands[key])):
        raise BadRequest(f"{s.name} lacks bands of {key}", got=", ".join(missing),
                         then="leave the set or the sensor out")
    x, valid = s.series[key]
    return x[:, :, [s.bands[key].index(b) for b in bands]], valid, s.months_of(key)


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


def normalisers(
    table: Table, rows: np.ndarray, context: Sequence[str] = CONTEXT, static: Sequence[str] = ()
) -> dict[str, SensorCard]:
    """Cards with the mean and standard deviation of each feature; scores are still missing.

    Args:
        table: the samples.
        rows: (N,) bool, training rows: nothing else may be looked at.
        context: channels beside the features.
        static: place features that are inputs, too.
    """
    cards = {}
    place = [table.static[n][rows].astype(np.float64) for n in static]
    known = [p[np.isfinite(p)] for p in place]
    if empty := [n for n, p in zip(static, known, strict=True) if len(p) < 2]:
        raise BadRequest("place features are unknown for the training rows", got=", ".join(empty),
                         then="leave them out, or sample the points again")
    for key, (x, valid) in table.series.items():
        names = table.task.features[key]
        raw = features(x[rows], table.bands[key], names)
        there = observed(raw, valid[rows])
        if there.sum() < 2:
            raise BadRequest(f"{key} has no valid observation in the training rows",
                             then="leave the sensor out or add samples")
        seen = [raw[:, :, k][there].astype(np.float64) for k in range(len(names))]
        cards[key] = SensorCard(
            features=tuple(names), mean=tuple(float(v.mean()) for v in seen),
            std=tuple(float(max(v.std(), 1e-6)) for v in seen),
            median=tuple(float(np.median(v)) for v in seen),
            radiometry=table.radiometry[key][0], accepts=table.radiometry[key],
            coverage_steps=(table.task.steps,), coverage_score=(0.0,),
            context=tuple(context), static=tuple(static),
            static_mean=tuple(float(p.mean()) for p in known),
            static_std=tuple(float(max(p.std(), 1e-6)) for p in known),
        )
    return cards


@dataclass(frozen=True)
class Tensors:
    """A table as the networks see it, resident in memory.

    Attributes:
        inputs: per sensor (N, T, C), or images (N, T, C, H, W), float32.
        seen: per sensor (N, T) bool, the step has an observation.
        present: (N, M) bool, the row has at least one valid step of the sensor.
        target: (N,) class indices, or z-scored values, or (N, K) zeros and ones (float32).
        cards: normaliser per sensor.
        mean, std: of the target over the training rows (0 and 1 for classes).
        class_weights: (K,) inverse to the class's share of the training rows; None for values, and
            for labels that do not exclude each other, as in the authors' published code.
    """

    inputs: dict[str, Tensor]
    seen: dict[str, Tensor]
    present: Tensor
    target: Tensor
    cards: dict[str, SensorCard]
    mean: float
    std: float
    class_weights: Tensor | None


def tensors(
    table: Table, rows: np.ndarray, *, context: Sequence[str] = CONTEXT,
    static: Sequence[str] = (), device: str = "cpu",
) -> Tensors:
    """Model input of all rows, with statistics of the training ``rows`` ((N,) bool) only.

    Args:
        table: the samples.
        rows: (N,) bool.
        context: channels beside the features (``prep.features.CONTEXT``); empty = the paper's.
        static: names of the table's place features that are inputs, too.
        device: where the tensors live.
    """
    cards = normalisers(table, rows & table.primary, context, static)
    place = np.stack([table.static[n] for n in static], 1) if static else None
    inputs, seen = {}, {}
    for key, (x, valid) in table.series.items():
        bands, card = table.bands[key], cards[key]
        inputs[key] = torch.from_numpy(
            model_input(x, valid, table.months_of(key), bands, card, place)).to(device)
        # as model_input sees it, whether or not the card has a channel for it
        there = observed(features(x, bands, card.features), valid)
        seen[key] = torch.from_numpy(there.reshape(*valid.shape, -1).any(2)).to(device)
    present = torch.stack([s.any(1) for s in seen.values()], dim=1)
    known = table.target[rows & table.primary]
    if table.task.kind == "regression":
        mean, std = float(known.mean()), float(max(known.std(), 1e-6))
        target = torch.from_numpy(((table.target - mean) / std).astype(np.float32))
        return Tensors(inputs, seen, present, target.to(device), cards, mean, std, None)
    if table.task.kind == "multilabel":
        target = torch.from_numpy(table.target.astype(np.float32))
        return Tensors(inputs, seen, present, target.to(device), cards, 0.0, 1.0, None)
    count = np.bincount(known, minlength=len(table.task.classes))
    weights = torch.from_numpy(len(known) / (len(count) * np.maximum(count, 1)))
    target = torch.from_numpy(table.target)
    return Tensors(inputs, seen, present, target.to(device), cards, 0.0, 1.0,
                   weights.float().to(device))
