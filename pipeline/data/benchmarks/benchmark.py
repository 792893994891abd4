"""What a benchmark is: its task, where its files come from, and what a reader makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.sample_set import SampleSet
from pipeline.spec.tasks import MapClass, Task


@dataclass(frozen=True)
class Contents:
    """What a reader found.

    Attributes:
        sets: at least one.
        region: per set (N,) str, what the transfer protocol holds out.
        official: per set (N,) ``train``, ``validation`` or ``test``; None where nothing is given.
        unlabelled: further sets without labels.
    """

    sets: tuple[SampleSet, ...]
    region: tuple[np.ndarray, ...]
    official: tuple[np.ndarray, ...] | None = None
    unlabelled: tuple[SampleSet, ...] = ()


# (folder, task, sensors) -> what is there
Reader = Callable[[Path, Task, Sequence[str]], Contents]


@dataclass(frozen=True)
class Spec:
    """A benchmark before it is read.

    Attributes:
        key: for the command line.
        title: human-readable.
        task: target, classes, steps and features; ad hoc where no map is made of it.
        sensors: keys that are read unless others are asked for.
        optional: further keys that can be asked for.
        needs: files or folders that must lie in the benchmark's folder.
        obtain: where the data comes from and how it must lie, in one or two sentences.
        read: the reader.
    """

    key: str
    title: str
    task: Task
    sensors: tuple[str, ...]
    needs: tuple[str, ...]
    obtain: str
    read: Reader
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """A benchmark, read.

    Attributes:
        key, title, task, obtain: of its ``Spec``.
        sets, region, official, unlabelled: of its ``Contents``.
    """

    key: str
    title: str
    task: Task
    sets: tuple[SampleSet, ...]
    region: tuple[np.ndarray, ...]
    official: tuple[np.ndarray, ...] | None
    unlabelled: tuple[SampleSet, ...]
    obtain: str


def label_classes(names: Sequence[str]) -> tuple[MapClass, ...]:
    """Classes of a task that is scored but never drawn: coded in order, without colours."""
    return tuple(MapClass(k, name, (0, 0, 0)) for k, name in enumerate(names))


def grid_cells(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """(N,) str cells of 0.1 degree, the groups of sets that bring none.

    As wide as those of the sets that bring some (``data.extract`` takes them, too).
    """
    return np.array([f"{x:.1f}_{y:.1f}" for x, y in zip(lon, lat, strict=True)])
