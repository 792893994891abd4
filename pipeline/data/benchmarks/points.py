"""Benchmarks kept as tidy tables of points (``data.points``), all of them real.

Each sample is one window of the task's months: the one around its label where the set covers more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.data.benchmarks.benchmark import Contents, Reader, Spec, label_classes
from pipeline.data.points import SAMPLES, SERIES, Labels, read_samples
from pipeline.data.sample_set import SampleSet
from pipeline.spec.tasks import CROPLAND, LFMC, Task

Region = Callable[[SampleSet], np.ndarray]


def by_set(s: SampleSet) -> np.ndarray:
    """A set is a region: another year, place or archive than the others."""
    return np.full(len(s.ids), s.name)


def by_longitude(limits: Sequence[float], names: Sequence[str]) -> Region:
    """Regions between meridians, from west to east."""
    def region(s: SampleSet) -> np.ndarray:
        return np.array(names)[np.digitize(s.lon, limits)]
    return region


def by_continent(s: SampleSet) -> np.ndarray:
    """Roughly: America ends at 30 W, Asia and Australia begin at 60 E, Europe ends at 35 N."""
    middle = np.where(s.lat > 35, "europe", "africa")
    return np.where(s.lon < -30, "america", np.where(s.lon > 60, "asia-pacific", middle))


def _tidy(
    folders: Sequence[str], region: Region, *, labels: Labels = "all",
    bands: Mapping[str, Sequence[str]] | None = None, complete: bool = False,
    unlabelled: Sequence[str] = (),
) -> Reader:
    """Reader of folders of samples.

    Args:
        folders: of the labelled sets.
        region: of each row.
        labels, bands: see ``data.points.read_samples``.
        complete: leave samples out that lack one of the sensors.
        unlabelled: folders of sets without labels.
    """
    def read(folder: Path, task: Task, sensors: Sequence[str]) -> Contents:
        sets = tuple(read_samples(folder / name, task, sensors, labels=labels, bands=bands)
                     for name in folders)
        if complete:
            sets = tuple(_complete(s) for s in sets)
        return Contents(
            sets, tuple(region(s) for s in sets), unlabelled=tuple(
                read_samples(folder / name, task, sensors, labels="none", bands=bands)
                for name in unlabelled))
    return read


def _complete(s: SampleSet) -> SampleSet:
    return s.take(np.logical_and.reduce([valid.any(1) for _, valid in s.series.values()]))


def _spec(
    key: str, title: str, task: Task, sensors: str, folders: Sequence[str], source: str,
    region: Region, *, labels: Labels = "all", complete: bool = False,
    bands: Mapping[str, Sequence[str]] | None = None, unlabelled: Sequence[str] = (),
) -> Spec:
    every = (*folders, *unlabelled)
    return Spec(
        key, title, task, tuple(sensors.split(",")),
        needs=tuple(f"{f}/{name}" for f in every for name in (SAMPLES, SERIES)),
        obtain=f"Bring the points of {source} into the tables that python -m pipeline.sample "
               f"writes ({SAMPLES} and {SERIES}), in folders called {', '.join(every)}.",
        read=_tidy(folders, region, labels=labels, bands=bands, complete=complete,
                   unlabelled=unlabelled),
    )


LFMC_REGION = by_longitude((-118, -110, -102), ("pacific", "basin", "rockies", "plains"))
_LFMC_SOURCE = "github.com/kkraoj/lfmc_from_sar (lfmc-csv reads them as published)"
_ITU_SOURCE = "github.com/ITU-GeoAI-Challenge/6th-Place-Cropland-Mapping"
_PRESTO = "github.com/WorldCereal/presto-worldcereal"
_WORLDCEREAL = "github.com/WorldCereal/worldcereal-classification"

_BANDS = {
    # `vh_asc` is missing in one country of three: as a feature it would make all steps there gaps.
    # It is not lost: `vh` is the mean of both orbits.
    "s1": ("vv", "vh", "vh_desc"),
    "s2": ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"),
    "l8": ("coastal", "blue", "green", "red", "nir", "swir16", "swir22", "tir1_k", "tir2_k"),
}
ITU = replace(
    CROPLAND, key="itu", title="Cropland of Afghanistan, Iran and Sudan",
    features={"s1": ("vv", "vh", "vh_vv", "vh_desc"), "s2": (*_BANDS["s2"], "ndvi", "ndwi"),
              "l8": (*_BANDS["l8"], "ndvi", "ndwi")},
)

# Crop types of `canada_2017` with at least 20 samples, in the order of their frequency: 13 of 51,
# with 3 246 of 3 621 samples. The others, and those without a crop type, are left out. With this
# label a random forest of 200 trees on the 12 months of 2017 reaches, in five folds by H3 cell,
# accuracies of 0.661 (s1), 0.639 (s2) and 0.704 (both); the label's own code gives 0.60, 0.56 and
# 0.63, the coarser group 0.66, 0.61 and 0.69.
CANADA_CROPS = (
    "Permanent grass crops", "Spring wheat", "Soya beans", "Maize", "Winter wheat",
    "Other Leguminous crops - Permanent", "Spring barley", "Potatoes", "Apples",
    "Fruit-bearing vegetables", "Oats", "Blueberries", "Barley",
)
CANADA = replace(
    CROPLAND, key="canada", title="Crop types of Canada", label_column="crop_type",
    classes=label_classes(CANADA_CROPS),
    features={k: CROPLAND.features[k] for k in ("s1", "s2")},
)

_FRANCE = ("france_2023", "france_2022_corsica")
_FLANDERS = ("flanders_2018", "flanders_2021")

SPECS: tuple[Spec, ...] = (
    _spec("lfmc", "Live fuel moisture content, USA", LFMC, "s1,l8", ["lfmc"], _LFMC_SOURCE,
          LFMC_REGION),
    _spec("lfmc3", "Live fuel moisture content, the samples with Sentinel-2, too", LFMC,
          "s1,l8,s2", ["lfmc"], f"{_LFMC_SOURCE} and github.com/nasaharvest/presto",
          LFMC_REGION, complete=True),
    # its groups are cells of 0.1 degree; the countries lie far apart
    _spec("itu", "Cropland, ITU GeoAI challenge", ITU, "s1,s2,l8", ["itu_cropland"], _ITU_SOURCE,
          by_longitude((45, 60), ("sudan", "iran", "afghanistan")), bands=_BANDS,
          unlabelled=["itu_cropland_unlabelled"]),
    _spec("canada", "Crop types, Canada 2017", CANADA, "s1,s2", ["canada_2017"], _PRESTO,
          by_longitude((-110, -79, -70), ("pacific", "great-lakes", "st-lawrence", "atlantic")),
          labels="known"),
    _spec("france", "Cropland, western France 2023 and Corsica 2022", CROPLAND, "s1,s2", _FRANCE,
          _WORLDCEREAL, by_set),
    _spec("flanders", "Cropland, Flanders 2018 and 2021", CROPLAND, "s1,s2", _FLANDERS,
          f"{_PRESTO} and {_WORLDCEREAL}", by_set),
    _spec("africa", "Cropland, Uganda and South Sudan 2017", CROPLAND, "s1,s2", ["africa_2017"],
          _WORLDCEREAL, by_set),
    _spec("global", "Cropland, points all over the world", CROPLAND, "s1,s2", ["global_b"], _PRESTO,
          by_continent),
    _spec("cropland", "Cropland, France, Flanders, Africa and the world", CROPLAND, "s1,s2",
          [*_FRANCE, *_FLANDERS, "africa_2017", "global_b"], f"{_PRESTO} and {_WORLDCEREAL}",
          by_set),
)
