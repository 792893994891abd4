"""TreeSatAI-Time-Series in its published format: patches of 60 m with the genera of their trees.

Ahlswede et al. 2023 (doi:10.5194/essd-15-681-2023), series by Astruc et al. 2024 (OmniSat,
arXiv:2404.08351). A patch has an aerial image ``aerial/NAME.tif``, its year of Sentinel in
``sentinel-ts/NAME_YEAR.h5``, shares of area by genus in a JSON file, and a line in one of the
official lists. As in Mena et al. 2025 (arXiv:2510.19579, section 4.1): 15 genera, a genus counts
from a share above 0.07; every acquisition is a step, later ones last; s2 has ten bands and the
probabilities of snow and cloud. The paper's Table 1 says 150 steps and aerial images of 320 pixels;
the files hold at most 146, and 304 pixels.

All patches with aerial images are 75 GB of float32, s2 is 13 GB: shorten the lists to take fewer.
"""

from __future__ import annotations

import calendar
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
from rasterio.errors import RasterioError

from pipeline.data.benchmarks.benchmark import Contents, Spec, grid_cells, label_classes
from pipeline.data.benchmarks.hdf5 import read_arrays
from pipeline.data.sample_set import SampleSet
from pipeline.prep.radiometry import to_db
from pipeline.spec.errors import DataTrouble
from pipeline.spec.tasks import CROPLAND, Task

GENERA = (
    "Abies", "Acer", "Alnus", "Betula", "Cleared", "Fagus", "Fraxinus", "Larix", "Picea", "Pinus",
    "Populus", "Prunus", "Pseudotsuga", "Quercus", "Tilia",
)
LEAST_SHARE = 0.07  # of the patch, from which on a genus counts (OmniSat's and MDiCo's code)

# Most acquisitions of any patch; shorter series begin with gaps.
STEPS = {"s2": 146, "s1": 151, "aerial": 1}
_BANDS = {
    "s2": ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12", "snow", "cloud"),
    "s1": ("vv", "vh"),
    # order as torchgeo gives it, after the archive's document (doi:10.5281/zenodo.6780578)
    "aerial": ("nir", "green", "blue", "red"),
}
# The source does not say whether its backscatter is sigma0 or gamma0.
_RADIOMETRY = {"s2": "l2a", "s1": "not stated", "aerial": "8 bit"}
_LEAST_POWER = 1e-5  # -50 dB, below any measurement

_LABELS = "labels/TreeSatBA_v9_60m_multi_labels.json"
_PLACES = "geojson/bb_60m.GeoJSON"
_LISTS = {"train": "train", "validation": "val", "test": "test"}
_SIDE = 6  # pixels of 10 m


def multi_labels(shares: Sequence[tuple[str, float]]) -> np.ndarray:
    """(15,) float32 of 0 and 1: the genera that cover more than 0.07 of a patch.

    Raises:
        ValueError: a genus is none of ``GENERA``.
    """
    target = np.zeros(len(GENERA), np.float32)
    for genus, share in shares:
        if genus not in GENERA:
            raise ValueError(f"{genus} is no genus of {', '.join(GENERA)}")
        if share > LEAST_SHARE:
            target[GENERA.index(genus)] = 1
    return target


def product_month(name: bytes | str) -> float:
    """Month index of a Sentinel product, with the part of the month that has passed.

    Raises:
        ValueError: the name holds no date.
    """
    text = name.decode() if isinstance(name, bytes) else name
    found = re.search(r"_(\d{4})(\d{2})(\d{2})T\d{6}_", text)
    if not found:
        raise ValueError(f"{text} holds no date")
    year, month, day = (int(g) for g in found.groups())
    return year * 12 + month - 1 + (day - 1) / calendar.monthrange(year, month)[1]


def read_series(path: Path, sensor: str) -> tuple[np.ndarray, np.ndarray]:
    """One patch's acquisitions of a sensor, sorted by date.

    Args:
        path: of the HDF5 file.
        sensor: ``s2`` or ``s1``, which is the ascending passes: looking from one side, as a pixel's
            history needs, and the ones that OmniSat is evaluated on.

    Returns:
        (T, B, 6, 6) float32 (reflectance and probabilities 0 to 1; dB), NaN where missing, and (T,)
        month indices.

    Raises:
        DataTrouble: the file is damaged or of another layout.
    """
    prefix = "sen-2" if sensor == "s2" else "sen-1-asc"
    names = [f"{prefix}-data", f"{prefix}-products", *(["sen-2-masks"] if sensor == "s2" else [])]
    found = read_arrays(path, names)
    x = found[names[0]].astype(np.float32)
    if x.shape[1:] != (10 if sensor == "s2" else 2, _SIDE, _SIDE):
        raise DataTrouble(f"{path} is of another layout", got=f"{names[0]} {x.shape}")
    try:
        months = np.array([product_month(n) for n in found[names[1]]], np.float64)
    except ValueError as error:
        raise DataTrouble(f"{path} is of another layout", got=str(error)) from None
    if sensor == "s2":
        masks = found["sen-2-masks"][:, :2].astype(np.float32) / 100  # one file has more, empty
        x = np.concatenate([x / np.float32(1e4), masks], axis=1)
    else:
        x = to_db(np.where(x > _LEAST_POWER, x, np.float32(np.nan)))
    order = np.argsort(months, kind="stable")
    return x[order], months[order]


def read_aerial(path: Path) -> np.ndarray:
    """(4, H, W) float32, 0 to 1, bands as in the file.

    Raises:
        DataTrouble: unreadable, or not four bands of 8 bit.
    """
    try:
        with rasterio.open(path) as file:
            if file.count != 4 or set(file.dtypes) != {"uint8"}:
                raise DataTrouble(f"{path} is no aerial image", got=f"{file.count} bands of "
                                  f"{file.dtypes[0]}", allowed="4 bands of uint8")
            return file.read().astype(np.float32) / 255
    except RasterioError as error:
        raise DataTrouble(f"cannot read {path}", got=str(error)[:200]) from None


def _read(folder: Path, task: Task, sensors: Sequence[str]) -> Contents:
    names, official, target = _patches(folder)
    files = {re.sub(r"_\d{4}$", "", p.stem): p for p in (folder / "sentinel-ts").glob("*.h5")}
    lon, lat = _places(folder, names)
    series, months = {}, {}
    for key in sensors:
        if key == "aerial":
            x = _aerial(folder, names)
        else:
            x, months[key] = _stacked(files, names, key)
        series[key] = (x, np.isfinite(x).any((2, 3, 4)))
    s = SampleSet(
        name="treesatai", licence="CC BY 4.0", task=task.key, ids=np.array(names, dtype=object),
        lon=lon, lat=lat, target=target, groups=grid_cells(lon, lat),
        # of the aerial image: when it was flown is not published
        months=np.zeros((len(names), 1)), primary=np.ones(len(names), bool), series=series,
        bands={k: _BANDS[k] for k in sensors}, radiometry={k: _RADIOMETRY[k] for k in sensors},
        own_months=months,
    )
    return Contents((s,), (np.full(len(names), "lower-saxony"),), (official,))


def _patches(folder: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, official part and labels of the patches in which any genus counts."""
    names, official, targets = [], [], []
    try:
        shares = json.loads((folder / _LABELS).read_text())
        for part, name in _LISTS.items():
            for line in (folder / "split" / f"{name}_filenames.lst").read_text().split():
                target = multi_labels(shares[line])
                if target.any():
                    names.append(line.removesuffix(".tif"))
                    official.append(part)
                    targets.append(target)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataTrouble(f"labels or lists of {folder} are damaged", got=repr(error)) from None
    if not names:
        raise DataTrouble(f"the lists of {folder} name no patch that has labels")
    return names, np.array(official), np.stack(targets)


def _stacked(
    files: Mapping[str, Path], names: Sequence[str], sensor: str
) -> tuple[np.ndarray, np.ndarray]:
    """(N, T, B, 6, 6) series that all end with the last step, and (N, T) months."""
    t = STEPS[sensor]
    x = np.full((len(names), t, len(_BANDS[sensor]), _SIDE, _SIDE), np.nan, np.float32)
    months = np.zeros((len(names), t))
    for k, name in enumerate(names):
        if name not in files:
            raise DataTrouble(f"sentinel-ts has no series of {name}",
                              then="unpack all of sentinel-ts.zip, or shorten the lists in split")
        series, at = (part[-t:] for part in read_series(files[name], sensor))
        if len(at):
            x[k, -len(at):], months[k, -len(at):] = series, at
    return x, months


def _aerial(folder: Path, names: Sequence[str]) -> np.ndarray:
    """(N, 1, 4, H, W)."""
    first = read_aerial(folder / "aerial" / f"{names[0]}.tif")
    x = np.empty((len(names), 1, *first.shape), np.float32)
    for k, name in enumerate(names):
        image = read_aerial(folder / "aerial" / f"{name}.tif")
        if image.shape != first.shape:
            raise DataTrouble(f"aerial image {name} is of another size", got=str(image.shape),
                              allowed=str(first.shape))
        x[k, 0] = image
    return x


def _places(folder: Path, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude of the patches' centres."""
    try:
        boxes = gpd.read_file(folder / _PLACES).set_index("IMG_ID").loc[list(names)]
        centres = boxes.to_crs(boxes.estimate_utm_crs()).centroid.to_crs(4326)
    except Exception as error:  # the readers behind geopandas share no base class
        raise DataTrouble(f"{folder / _PLACES} does not place the patches",
                          got=repr(error)[:200]) from None
    return centres.x.to_numpy(), centres.y.to_numpy()


TREESATAI = replace(
    CROPLAND, key="treesatai", kind="multilabel", title="Tree genera, Lower Saxony",
    label_column="", classes=label_classes(GENERA), steps=STEPS["s2"], min_steps=1,
    features=_BANDS,
)

SPECS: tuple[Spec, ...] = (
    Spec(
        "treesatai", "TreeSatAI-Time-Series (15 tree genera, multi-label)", TREESATAI,
        ("aerial", "s2"),
        (_LABELS, *(f"split/{name}_filenames.lst" for name in _LISTS.values()), _PLACES,
         "sentinel-ts"),
        "Download and unpack aerial.zip, sentinel-ts.zip, labels.zip, split.zip and geojson.zip of "
        "huggingface.co/datasets/IGNF/TreeSatAI-Time-Series (CC BY 4.0, 22 GB): hf download "
        "IGNF/TreeSatAI-Time-Series --repo-type dataset --local-dir DIR; DIR then holds aerial, "
        "sentinel-ts, labels, split and geojson.",
        _read, optional=("s1",),
    ),
)
