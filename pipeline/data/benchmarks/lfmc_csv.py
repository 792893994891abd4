"""Live fuel moisture content as published by Rao et al. 2020 (doi:10.1016/j.rse.2020.111797).

Either one table, ``training_features.csv``, or the archive's folders with one ``labels.geojson``
a sample. Both have the columns ``percent(t)``, ``date``, ``site`` and, for each of the months t-3
to t, ``vv(t-3)``, ``red(t-3)`` and so on: decibels, and reflectance times 10 000.

2 615 rows are published. 37 repeat another one at other coordinates (three site names exist at two
places); the last of each is kept, which leaves the 2 578 of Mena et al. 2025 (arXiv:2510.19579).
The indices among the inputs are computed from the bands, as everywhere here; the published ones
were interpolated apart from the bands and differ.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.data.benchmarks.benchmark import Contents, Spec
from pipeline.data.benchmarks.points import LFMC_REGION
from pipeline.data.place_columns import place_columns
from pipeline.data.sample_set import KNOWN_SETS, SampleSet
from pipeline.data.windows import month_index
from pipeline.spec.errors import BadRequest, DataTrouble
from pipeline.spec.tasks import LFMC, Task

TABLE = "training_features.csv"
LAGS = ("t-3", "t-2", "t-1", "t")
# published column -> band, and what one unit of it is
_COLUMNS = {
    "s1": {"vv": ("vv", 1.0), "vh": ("vh", 1.0)},
    "l8": {b: (name, 1e-4) for b, name in (("blue", "blue"), ("green", "green"), ("red", "red"),
                                           ("nir", "nir"), ("swir", "swir16"))},
}
_PLACE = ("slope", "elevation", "canopy_height", "forest_cover")
_SITE = ("percent(t)", "date", "site", "latitude", "longitude")


def _read(folder: Path, task: Task, sensors: Sequence[str]) -> Contents:
    table = _table(folder)
    if table.empty:
        raise BadRequest("the data of lfmc-csv is not there", got=str(folder),
                         allowed=f"{TABLE}, or folders with a labels.geojson each", then=_OBTAIN)
    need = [*_SITE, *(f"{c}(t)" for c in _PLACE),
            *(f"{c}({lag})" for k in sensors for c in _COLUMNS[k] for lag in LAGS)]
    if missing := [c for c in need if c not in table]:
        raise DataTrouble(f"{folder} holds a table of another layout", got=", ".join(missing[:5]),
                          allowed=", ".join(need))
    same = [c for c in need if c not in ("latitude", "longitude")]
    table = table[need].drop_duplicates(same, keep="last").reset_index(drop=True)
    known = KNOWN_SETS["lfmc"]
    series: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for key in sensors:
        x = np.stack([table[[f"{c}({lag})" for lag in LAGS]].to_numpy(np.float64) * unit
                      for c, (_, unit) in _COLUMNS[key].items()], -1)  # (N, T, B)
        series[key] = (x.astype(np.float32), np.isfinite(x).any(-1))
    last = month_index(pd.to_datetime(table.date))
    renamed = table.rename(columns={f"{c}(t)": c for c in _PLACE})
    s = SampleSet(
        name="lfmc-csv", licence=known.licence, task=task.key,
        ids=np.array([f"row_{k}" for k in range(len(table))], dtype=object),
        lon=table.longitude.to_numpy(np.float64), lat=table.latitude.to_numpy(np.float64),
        target=table["percent(t)"].to_numpy(np.float64),
        groups=table.site.astype(str).to_numpy(),
        months=last[:, None] + np.arange(1 - len(LAGS), 1), primary=np.ones(len(table), bool),
        series=series, radiometry={k: known.radiometry[k] for k in sensors},
        bands={k: tuple(band for band, _ in _COLUMNS[k].values()) for k in sensors},
        context=place_columns(renamed, known, folder),
    )
    return Contents((s,), (LFMC_REGION(s),))


def _table(folder: Path) -> pd.DataFrame:
    """The table, or one made of the archive's files."""
    path = folder / TABLE
    try:
        if path.is_file():
            return pd.read_csv(path)
        rows = []
        for file in sorted(folder.glob("**/labels.geojson")):
            feature = json.loads(file.read_text())
            lon, lat = feature["geometry"]["coordinates"][:2]
            rows.append({**feature["properties"], "longitude": lon, "latitude": lat})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataTrouble(f"cannot read the table in {folder}", got=repr(error)[:200]) from None
    return pd.DataFrame(rows)


_OBTAIN = (
    "Download the data of doi:10.1016/j.rse.2020.111797 (CC BY-NC-ND 4.0) from "
    f"source.coop/stanford/sar-moisture-content into a folder: {TABLE}, or the folders with a "
    "labels.geojson each."
)
SPECS: tuple[Spec, ...] = (
    Spec("lfmc-csv", "Live fuel moisture content, USA, as published", LFMC, ("s1", "l8"), (),
         _OBTAIN, _read),
)
