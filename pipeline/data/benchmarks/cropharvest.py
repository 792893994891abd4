"""CropHarvest (Tseng et al. 2021, openreview.net/forum?id=JtjzUXPEaCu) in its published format.

``labels.geojson`` has a row a sample; ``features/arrays/INDEX_DATASET.h5`` its data set ``array``
of (12, 18): twelve periods of 30 days, and the columns ``COLUMNS`` and NDVI. A sample without such
a file is read out of its Earth Engine export ``eo_data/INDEX-DATASET_START_END.tif``, where that is
there.

As in Mena et al. 2025 (arXiv:2510.19579, section 4.1) the published test samples stay out, s2 is
11 bands and NDVI, s1 VV and VH. Two departures: NDVI is computed from B8 and B4, since the column
published under that name is (B7 - B3) / (B7 + B3): its indices count the bands without B1, which
was still there. And decibels at the lower end of the exporter's range are gaps, not values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd

from pipeline.data.benchmarks.benchmark import Contents, Spec, grid_cells, label_classes
from pipeline.data.benchmarks.earth_engine import COLUMNS, export_series
from pipeline.data.benchmarks.hdf5 import read_arrays
from pipeline.data.sample_set import SampleSet
from pipeline.data.windows import month_index
from pipeline.spec.errors import DataTrouble
from pipeline.spec.tasks import CROPLAND, Task

STEPS = 12
STEP_DAYS = 30
LABELS = "labels.geojson"

# Earth Engine gives -50 to 1 dB; at the lower end nothing was measured.
FLOOR_DB = -49.9

_S2 = {"B2": "B02", "B3": "B03", "B4": "B04", "B5": "B05", "B6": "B06", "B7": "B07", "B8": "B08",
       "B8A": "B8A", "B9": "B09", "B11": "B11", "B12": "B12"}
_BANDS = {"s1": ("vv", "vh"), "s2": tuple(_S2.values())}

# The FAO groups that `classification_label` names (Indicative Crop Classification).
GROUPS = (
    "non_crop", "cereals", "vegetables_melons", "fruits_nuts", "oilseeds", "root_tuber",
    "beverage_spice", "leguminous", "sugar", "other",
)


def decode(arrays: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Series and place features of arrays in CropHarvest's layout.

    Args:
        arrays: (N, T, 17), columns ``COLUMNS``.

    Returns:
        Per sensor (N, T, B) float32 (dB; top-of-atmosphere reflectance), bands as ``s1`` vv, vh and
        ``s2`` B02 to B12 without B10; and (N,) float32 ``elevation`` (m) and ``slope`` (degrees).
        Temperature and rain are left out.
    """
    def column(name: str) -> np.ndarray:
        return arrays[..., COLUMNS.index(name)].astype(np.float32)

    s1 = np.stack([column("VV"), column("VH")], -1)
    s2 = np.stack([column(b) for b in _S2], -1) / np.float32(1e4)
    s1 = np.where(s1 > FLOOR_DB, s1, np.float32(np.nan))
    place = {"elevation": column("elevation")[:, 0], "slope": column("slope")[:, 0]}
    return {"s1": s1, "s2": s2}, place


def months_until(end: pd.Series) -> np.ndarray:
    """(N, 12) month that holds the middle of each period of 30 days before the dates ``end``."""
    columns = [month_index(end - pd.Timedelta(days=STEP_DAYS * (STEPS - k) - STEP_DAYS // 2))
               for k in range(STEPS)]
    return np.stack(columns, 1)


def _read(folder: Path, task: Task, sensors: Sequence[str]) -> Contents:
    labels = _labels(folder, task)
    arrays = [_array(folder, *row) for row in zip(
        labels["index"], labels.dataset, labels.lon, labels.lat, strict=True)]
    there = np.array([a is not None for a in arrays])
    if not there.any():
        raise DataTrouble(f"{folder} has labels, and data of none of them",
                          allowed="features/arrays/INDEX_DATASET.h5", then=_OBTAIN)
    labels = labels[there].reset_index(drop=True)
    series, place = decode(np.stack([a for a in arrays if a is not None]))
    lon, lat = labels.lon.to_numpy(np.float64), labels.lat.to_numpy(np.float64)
    s = SampleSet(
        name="cropharvest", licence="CC BY-SA 4.0", task=task.key,
        ids=(labels["index"].astype(str) + "_" + labels.dataset).to_numpy(object), lon=lon, lat=lat,
        target=labels.target.to_numpy(np.int64), groups=grid_cells(lon, lat),
        months=months_until(labels.end), primary=np.ones(len(labels), bool),
        series={k: (series[k], np.isfinite(series[k]).any(-1)) for k in sensors},
        bands={k: _BANDS[k] for k in sensors},
        radiometry={k: {"s1": "sigma0", "s2": "l1c"}[k] for k in sensors}, context=place,
    )
    return Contents((s,), (labels.dataset.to_numpy(str),))


def _labels(folder: Path, task: Task) -> pd.DataFrame:
    """Samples that are for training and have a label of the task: ids, place, end and target."""
    try:
        raw = gpd.read_file(folder / LABELS)
    except Exception as error:  # the readers behind geopandas share no base class
        raise DataTrouble(f"cannot read {folder / LABELS}", got=str(error)[:200]) from None
    need = ("index", "dataset", "lon", "lat", "is_test", "export_end_date", task.label_column)
    if missing := [c for c in need if c not in raw]:
        raise DataTrouble(f"{folder / LABELS} lacks columns", got=", ".join(missing),
                          allowed=", ".join(need))
    names = {c.name: k for k, c in enumerate(task.classes)}
    label = raw[task.label_column]
    target = label.astype(float) if task.label_column == "is_crop" else label.map(names)
    if foreign := sorted(set(label[target.isna() & label.notna()].astype(str))):
        raise DataTrouble(f"{folder / LABELS} has unknown labels", got=", ".join(foreign),
                          allowed=", ".join(names))
    rows = pd.DataFrame(raw[["index", "dataset", "lon", "lat"]]).assign(
        target=target, end=pd.to_datetime(raw.export_end_date))
    rows = rows[~raw.is_test.astype(bool) & target.notna()]
    return rows.astype({"index": np.int64, "target": np.int64}).reset_index(drop=True)


def _array(folder: Path, index: int, dataset: str, lon: float, lat: float) -> np.ndarray | None:
    """(12, 17) of one sample, from its array or its export; None where there is neither."""
    path = folder / "features" / "arrays" / f"{index}_{dataset}.h5"
    if path.is_file():
        array = read_arrays(path, ["array"])["array"]
        if array.shape != (want := (STEPS, len(COLUMNS) + 1)):
            raise DataTrouble(f"{path} is of another layout", got=str(array.shape),
                              allowed=str(want))
        return array[:, :-1]
    exports = sorted((folder / "eo_data").glob(f"{index}-{dataset}_*.tif"))
    return export_series(exports[0], lon, lat, STEPS) if exports else None


_OBTAIN = (
    "pip install cropharvest, then python -c \"from cropharvest.datasets import CropHarvest; "
    "CropHarvest('DIR', download=True)\" (CC BY-SA 4.0, doi:10.5281/zenodo.10251170) makes "
    "DIR/labels.geojson and DIR/features/arrays/INDEX_DATASET.h5."
)
_FEATURES = {"s1": _BANDS["s1"], "s2": (*_BANDS["s2"], "ndvi")}
BINARY = replace(CROPLAND, key="cropharvest-binary", title="Cropland, CropHarvest",
                 label_column="is_crop", features=_FEATURES)
MULTI = replace(CROPLAND, key="cropharvest-multi", title="Crop groups, CropHarvest",
                label_column="classification_label", classes=label_classes(GROUPS),
                features=_FEATURES)

SPECS: tuple[Spec, ...] = tuple(
    Spec(task.key, title, task, ("s1", "s2"), (LABELS,), _OBTAIN, _read)
    for task, title in ((BINARY, "CropHarvest binary (cropland)"),
                        (MULTI, "CropHarvest multi (ten crop groups)"))
)
