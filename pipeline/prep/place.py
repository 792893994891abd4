"""Elevation model and land cover -> place features of map pixels. Samples and maps both go here.

Slope is that of a coarser elevation model whose cells, ``Task.slope_m`` wide, are centred on the
pixel: their size decides how steep the same hill is, so that it belongs to the task, not to the
archive. Every sum has one fixed order, so that a pixel's value does not depend on its tile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.prep.composite import aggregate
from pipeline.spec.context import ELEVATION_M, GROUPS, WORLDCOVER, Legend
from pipeline.spec.tasks import Task


def halo_px(task: Task) -> int:
    """Map pixels around a window that the slope of its outermost pixels reaches into."""
    beyond = 3 * (task.slope_m // task.read_m) - task.aggregate  # read pixels, both sides together
    return -(-beyond // (2 * task.aggregate))


def terrain(dem: np.ndarray, task: Task) -> dict[str, np.ndarray]:
    """Elevation and slope.

    Args:
        dem: [(Y + 2h) f, (X + 2h) f] float32 metres at read pixels, NaN where void, with
            h = ``halo_px(task)`` and f = ``task.aggregate``.
        task: pixel sizes.

    Returns:
        ``elevation`` (m; the mean over the pixel) and ``slope`` (degrees), [Y, X] float32 each,
        NaN where unknown.
    """
    low, high = ELEVATION_M
    with np.errstate(invalid="ignore"):
        dem = np.where((dem >= low) & (dem <= high), dem, np.float32(np.nan))
    rim = halo_px(task) * task.aggregate
    core = dem[rim : dem.shape[0] - rim, rim : dem.shape[1] - rim]
    return {"elevation": aggregate(core, task.aggregate), "slope": slope(dem, task)}


def slope(dem: np.ndarray, task: Task) -> np.ndarray:
    """[Y, X] slope in degrees from nine cells of ``task.slope_m`` around each pixel.

    Horn 1981, doi:10.1109/PROC.1981.11918: the gradient along each axis is the difference of the
    two outer columns (rows) of the 3 x 3 cells, weighted 1, 2, 1, over eight cell widths.

    Args:
        dem: as in ``terrain``.
        task: pixel sizes.

    Returns:
        float32, NaN where half or more of one of the nine cells is void.
    """
    side = task.slope_m // task.read_m
    z = {(i, j): _cells(dem, task, side, i * side, j * side)
         for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)}  # row, column of the cell
    east = (z[-1, 1] + 2 * z[0, 1] + z[1, 1]) - (z[-1, -1] + 2 * z[0, -1] + z[1, -1])
    south = (z[1, -1] + 2 * z[1, 0] + z[1, 1]) - (z[-1, -1] + 2 * z[-1, 0] + z[-1, 1])
    rise = np.sqrt(east * east + south * south) / (8 * task.slope_m)
    return np.degrees(np.arctan(rise)).astype(np.float32)


def _cells(dem: np.ndarray, task: Task, side: int, down: int, right: int) -> np.ndarray:
    """[Y, X] float64 mean over the ``side`` x ``side`` read pixels around each map pixel's centre,
    moved by so many read pixels; NaN where half of them or more are void."""
    f, rim = task.aggregate, halo_px(task) * task.aggregate
    known = np.isfinite(dem)
    filled = np.where(known, dem, 0).astype(np.float64)

    def box(values: np.ndarray) -> np.ndarray:
        for axis, moved in ((0, down), (1, right)):
            n = (dem.shape[axis] - 2 * rim) // f
            first = rim + f // 2 + moved - side // 2
            parts = (np.moveaxis(values, axis, 0)[first + k :: f][:n] for k in range(side))
            total = next(parts).copy()
            for part in parts:
                total += part
            values = np.moveaxis(total, 0, axis)
        return values

    count = box(known.astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(2 * count > side * side, box(filled) / count, np.nan)


def shares(codes: np.ndarray, factor: int, legend: Legend = WORLDCOVER) -> dict[str, np.ndarray]:
    """Share of each group of land cover in a map pixel.

    Args:
        codes: [Y f, X f] float32 codes at read pixels, NaN where there is none.
        factor: f.
        legend: of the codes; one that it does not list is unknown.

    Returns:
        Per group [Y, X] float32, over the read pixels that are known; NaN where none is.
    """
    listed = np.array(sorted(legend), np.float32)
    at = np.searchsorted(listed, codes).clip(0, len(listed) - 1)  # NaN sorts last, and is unlisted
    known = listed[at] == codes
    found = {}
    for group in GROUPS:
        weight = np.array([legend[int(c)].get(group, 0.0) for c in listed], np.float32)
        found[group] = aggregate(np.where(known, weight[at], np.float32(np.nan)), factor)
    return found


def place_rows(place: Mapping[str, np.ndarray], names: Sequence[str], n: int) -> np.ndarray:
    """[N, S] float32 for ``model_input``: the named features of N pixels row by row, NaN for those
    that are not there."""
    unknown = np.full(n, np.nan, np.float32)
    return np.stack([np.ravel(place[k]) if k in place else unknown for k in names], axis=-1)
