"""Labelled points with their time series: the tidy tables that samples are kept in.

A set is a folder with ``samples.parquet`` (a row a sample), ``series.parquet`` (a row per sample,
time and sensor, wide float32 columns, NaN for missing) and ``dataset.json`` (name, licence,
radiometry per sensor, feature path, task, label column, steps).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from pipeline.data.place_columns import place_columns
from pipeline.data.sample_set import KNOWN_SETS, KnownSet, SampleSet
from pipeline.data.windows import choose_windows, cut, month_index, monthly
from pipeline.spec.card import FEATURE_PATH
from pipeline.spec.errors import BadRequest, DataTrouble
from pipeline.spec.sensors import SENSORS, sensor
from pipeline.spec.tasks import Task

SAMPLES, SERIES, SIDECAR = "samples.parquet", "series.parquet", "dataset.json"

Labels = Literal["all", "known", "none"]


def read_samples(
    folder: str | os.PathLike[str], task: Task, sensors: Sequence[str] | None = None, *,
    every_window: bool = False, labels: Labels = "all",
    bands: Mapping[str, Sequence[str]] | None = None,
) -> SampleSet:
    """Labelled series of a folder, in windows of the task's length.

    A month is a gap where no band has a value, or where the table marks it as carried forward
    from the month before.

    Args:
        folder: of the set.
        task: gives the steps, the label's column (unless ``dataset.json`` names another) and
            the classes.
        sensors: keys wanted; None = those that the set has. One that it lacks is left out.
        every_window: also the windows besides the primary one (``SampleSet.primary``).
        labels: which samples: ``all`` that have a label, which must be one of the task;
            ``known``, those whose label is the name of a class; ``none``, those without any.
        bands: per sensor the bands wanted, where not those of ``spec.sensors``.

    Raises:
        BadRequest: not such a folder, of another task or feature path, or nothing labelled.
        DataTrouble: a table is unreadable, lacks columns or repeats a sample.
    """
    path = Path(folder)
    known, label_column, name = _describe(path, task)
    samples, table = _read(path / SAMPLES), _read(path / SERIES)
    _need(path / SAMPLES, samples, ("sample_id", "lon", "lat", known.group, label_column))
    _need(path / SERIES, table, ("sample_id", "time", "sensor"))
    target, labelled = _chosen(samples[label_column], task, path, labels)
    samples = samples[labelled].reset_index(drop=True)
    if (again := samples.sample_id.duplicated()).any():
        raise DataTrouble(f"{path / SAMPLES} holds {again.sum()} rows whose sample_id occurred "
                          "before", got=str(samples.sample_id[again].iloc[0]),
                          then="give each sample its own id")
    table = table[table.sample_id.isin(samples.sample_id)].rename(columns=dict(known.rename))
    row_sample = pd.Index(samples.sample_id).get_indexer(table.sample_id)
    row_month = _row_months(table, samples, row_sample)

    n = len(samples)
    windows = choose_windows(
        _extreme(np.minimum, row_sample, row_month, n),
        _extreme(np.maximum, row_sample, row_month, n),
        _label_months(samples), task.steps, every=every_window,
    )
    series, found = {}, {}
    wanted = [sensor(k).key for k in sensors] if sensors is not None else list(SENSORS)
    for key in (k for k in wanted if k in known.radiometry):
        mine = (table.sensor == key).to_numpy()
        rows = table[mine]
        names = (bands or {}).get(key, SENSORS[key].band_names)
        names = tuple(b for b in names if b in rows and rows[b].notna().any())
        if not names:
            continue
        rows = _without_copies(rows, names)
        month_table = monthly(rows, row_sample[mine], row_month[mine], names, SENSORS[key].kind)
        found[key] = names
        x = cut(month_table, windows, n, task.steps)
        series[key] = (x, np.isfinite(x).any(-1))
    if not series:
        raise BadRequest(f"{path} has none of the sensors asked for", got=", ".join(wanted),
                         allowed=", ".join(known.radiometry))
    w = windows.sample
    return SampleSet(
        name=name, licence=known.licence, task=task.key,
        ids=samples.sample_id.to_numpy()[w], lon=samples.lon.to_numpy()[w],
        lat=samples.lat.to_numpy()[w], target=target[w],
        groups=samples[known.group].astype(str).to_numpy()[w],
        months=windows.first[:, None] + np.arange(task.steps), primary=windows.primary,
        series=series, bands=found, radiometry={k: known.radiometry[k] for k in series},
        context={k: column[w] for k, column in place_columns(samples, known, path).items()},
    )


def write_samples(
    folder: str | os.PathLike[str], samples: pd.DataFrame, months: np.ndarray,
    series: Mapping[str, np.ndarray], *, task: Task, name: str, licence: str,
    label_column: str, bands: Mapping[str, Sequence[str]], radiometry: Mapping[str, str],
) -> None:
    """Write a set that ``read_samples`` reads back to the bit; the sidecar comes last.

    Args:
        folder: made where missing.
        samples: N rows with ``sample_id`` (unique), ``lon``, ``lat``, ``group`` and the label.
        months: (T,) or (N, T) month index of each step.
        series: per sensor (N, T, B) float32 in the sensor's unit, NaN for gaps.
        task: whose windows these are.
        name, licence: of the set.
        label_column: column of ``samples`` with the label (class name or code, or value).
        bands: per sensor the names of its B bands.
        radiometry: per sensor.

    Raises:
        BadRequest: an id occurs twice, or the folder cannot be written.
        DataTrouble: ``samples`` lacks a column.
    """
    path = Path(folder)
    _need(path / SAMPLES, samples, ("sample_id", "lon", "lat", "group", label_column))
    if not samples.sample_id.is_unique:
        raise BadRequest("sample_id is not unique", then="give each sample its own id")
    n = len(samples)
    month = np.broadcast_to(months, (n, task.steps))
    time = pd.to_datetime({"year": (month // 12).ravel(), "month": (month % 12 + 1).ravel(),
                           "day": 1}).astype("datetime64[ms]")
    frames = []
    for key, x in series.items():
        columns = {b: x[..., k].ravel() for k, b in enumerate(bands[key])}
        frames.append(pd.DataFrame({
            "sample_id": np.repeat(samples.sample_id.to_numpy(), task.steps),
            "time": time, "sensor": key, **columns,
        }))
    sidecar = {
        "name": name, "licence": licence, "radiometry": dict(radiometry),
        "feature_path": FEATURE_PATH, "task": task.key, "label_column": label_column,
        "steps": task.steps,
    }
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / SIDECAR).unlink(missing_ok=True)  # an old one must not vouch for half a new set
        samples.to_parquet(path / SAMPLES, index=False)
        pd.concat(frames, ignore_index=True).to_parquet(path / SERIES, index=False)
        (path / SIDECAR).write_text(json.dumps(sidecar, indent=2) + "\n")
    except OSError as error:
        raise BadRequest(f"cannot write {path}", got=str(error),
                         then="choose another --out") from None


def _describe(path: Path, task: Task) -> tuple[KnownSet, str, str]:
    """Radiometry and licence, label column and name: of the sidecar, else of the known sets."""
    if not (path / SAMPLES).is_file() or not (path / SERIES).is_file():
        raise BadRequest("not a folder of samples", got=str(path),
                         allowed=f"a folder with {SAMPLES} and {SERIES}",
                         then="make one with python -m pipeline.sample")
    if not (path / SIDECAR).is_file():
        if path.resolve().name not in KNOWN_SETS:
            raise BadRequest(f"{path} has no {SIDECAR}, and no set of that name is known",
                             allowed=", ".join(KNOWN_SETS),
                             then=f"write {SIDECAR} or use python -m pipeline.sample")
        name = path.resolve().name
        return KNOWN_SETS[name], task.label_column, name
    try:
        raw: dict[str, Any] = json.loads((path / SIDECAR).read_text())
        known = KnownSet(str(raw["licence"]), {k: str(v) for k, v in raw["radiometry"].items()})
        label, name = str(raw["label_column"]), str(raw["name"])
        got = (raw["task"], raw["feature_path"], raw["steps"])
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataTrouble(f"{path / SIDECAR} is malformed", got=repr(error)) from None
    if got != (task.key, FEATURE_PATH, task.steps):
        raise BadRequest(f"{path} is of another task, feature path or number of steps",
                         got=", ".join(map(str, got)),
                         allowed=f"{task.key}, {FEATURE_PATH}, {task.steps}",
                         then="sample the points again with python -m pipeline.sample")
    return known, label, name


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from ValueError
        raise DataTrouble(f"cannot read {path}", got=str(error)[:200]) from None


def _need(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> None:
    if missing := [c for c in columns if c not in table]:
        raise DataTrouble(f"{path} lacks columns", got=", ".join(missing),
                          allowed=", ".join(columns))


def _chosen(
    column: pd.Series, task: Task, path: Path, which: Labels
) -> tuple[np.ndarray, np.ndarray]:
    """Targets of the samples wanted, and which of them all these are ((N,) bool)."""
    if which == "none":
        rows = column.isna().to_numpy()
        if not rows.any():
            raise BadRequest(f"every sample of {path} has a label")
        regression = task.kind == "regression"
        return np.full(rows.sum(), np.nan if regression else -1), rows
    if which == "known":
        column = column.where(column.isin([c.name for c in task.classes]))
    return targets(column, task, path)


def targets(labels: pd.Series, task: Task, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Targets of the labelled rows, and which rows those are.

    Args:
        labels: (N,) class names or codes, or values; null where there is none.
        task: which of these it takes.
        path: named in errors.

    Returns:
        (L,) int64 index into the task's classes or float64 value, and (N,) bool.

    Raises:
        BadRequest: no label at all, or one that the task does not take.
    """
    labelled = labels.notna().to_numpy()
    if not labelled.any():
        raise BadRequest(f"no sample of {path} has a label", then="check --label-column")
    present = labels[labelled]
    if task.kind == "regression":
        values = pd.to_numeric(present, errors="coerce").to_numpy(np.float64)
        if not np.isfinite(values).all():
            raise BadRequest(f"{path}: labels are not all numbers",
                             got=str(present[~np.isfinite(values)].iloc[0]))
        return values, labelled
    index: dict[str, int] = {}
    for k, c in enumerate(task.classes):
        index |= {c.name: k, str(c.code): k, str(float(c.code)): k}
    values = present.astype(str).map(index)
    if values.isna().any():
        raise BadRequest(f"{path}: unknown class", got=str(present[values.isna()].iloc[0]),
                         allowed=", ".join(f"{c.code} or {c.name}" for c in task.classes))
    return values.to_numpy(np.int64), labelled


def _row_months(table: pd.DataFrame, samples: pd.DataFrame, row_sample: np.ndarray) -> np.ndarray:
    """Month of each row of series; where steps are counted by ``lag``, the lag decides."""
    if "lag" not in table:
        return month_index(table.time)
    return month_index(samples.date_end)[row_sample] + table.lag.to_numpy(np.int64)


def _extreme(pick: np.ufunc, sample: np.ndarray, month: np.ndarray, n: int) -> np.ndarray:
    """(n,) earliest or latest month of each sample."""
    out = np.full(n, month[0] if len(month) else 0)
    out[sample] = month
    pick.at(out, sample, month)
    return out


def _label_months(samples: pd.DataFrame) -> np.ndarray:
    """(S,) month of the label, NaN where the set does not say."""
    if "valid_date" not in samples:
        return np.full(len(samples), np.nan)
    return month_index(samples.valid_date).astype(np.float64)


def _without_copies(rows: pd.DataFrame, bands: Sequence[str]) -> pd.DataFrame:
    """Months that only repeat the month before are no observation."""
    flags = [c for c in rows if c.endswith("_carried_forward")]
    if not flags:
        return rows
    copied = rows[flags].eq(True).any(axis=1)
    rows = rows.copy()
    rows.loc[copied, list(bands)] = np.nan
    return rows
