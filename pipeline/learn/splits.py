"""Splits by group (site, field chip, grid cell: no place is on both sides), or by sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Samples of two sets in one cell of this size (2 km north to south) may be the same field in
# another year. Neighbours on the two sides of a cell's edge are not joined.
_CELL_DEG = 0.02


def joined_groups(
    names: np.ndarray, groups: np.ndarray, lon: np.ndarray, lat: np.ndarray
) -> np.ndarray:
    """Group numbers over several sets: groups of different sets that share a cell become one.

    Args:
        names: (N,) set of each row, a name or a number.
        groups: (N,) str group within the set.
        lon, lat: (N,) degrees.

    Returns:
        (N,) int group numbers.
    """
    own = np.char.add(np.char.add(names.astype(str), "/"), groups.astype(str))
    group = np.unique(own, return_inverse=True)[1]
    places = np.stack([np.floor(lon / _CELL_DEG), np.floor(lat / _CELL_DEG)], 1)
    cell = np.unique(places, axis=0, return_inverse=True)[1].reshape(-1)
    set_number = np.unique(names, return_inverse=True)[1]
    pairs = np.unique(np.stack([cell, set_number], 1), axis=0)
    common = np.bincount(pairs[:, 0], minlength=cell.max() + 1) > 1  # cells of several sets
    near = common[cell]
    label = np.arange(group.max() + 1)
    while True:  # each cell takes the least label of its groups, each group that of its cells
        least = np.full(cell.max() + 1, label.size)
        np.minimum.at(least, cell[near], label[group[near]])
        merged = label.copy()
        np.minimum.at(merged, group[near], least[cell[near]])
        if (merged == label).all():
            return label[group]
        label = merged


def folds(
    groups: np.ndarray, strata: np.ndarray, count: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Boolean masks (N,) of the test rows of each fold; whole groups, about equal in size.

    Args:
        groups: (N,) group of each row; pass row numbers for a random split.
        strata: (N,) what each fold should get its share of (the set); a group belongs to the
            stratum of its first row.
        count: number of folds.
        rng: shuffles the groups.

    Raises:
        ValueError: fewer groups than folds.
    """
    unique, first, inverse, size = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    if len(unique) < count:
        raise ValueError(f"{len(unique)} groups cannot make {count} folds")
    order = rng.permutation(len(unique))
    order = order[np.argsort(-size[order], kind="stable")]  # large groups first: even folds
    fold_of = np.empty(len(unique), int)
    total = np.zeros(count)
    for stratum in np.unique(strata[first]):
        load = np.zeros(count)
        for g in order[strata[first][order] == stratum]:
            lightest = np.lexsort((total, load))[0]
            fold_of[g] = lightest
            load[lightest] += size[g]
            total[lightest] += size[g]
    return [fold_of[inverse] == k for k in range(count)]


def hold_out(names: np.ndarray, groups: np.ndarray, held: Sequence[str]) -> list[np.ndarray]:
    """One fold: the rows of the held-out sets and whatever shares a group with them."""
    return [np.isin(groups, groups[np.isin(names, held)])]
