"""What a run is going to read decides what is held: nothing longer than it is needed, and nothing
let go that is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from pipeline.data.block_store import BlockStore, Grid
from pipeline.data.horizon import Horizon
from pipeline.spec.grid import window

UTM31, UTM32 = "EPSG:32631", "EPSG:32632"
LEFT, TOP = 500_000, 5_600_000


def tile(col: int, row: int, side: int = 50) -> GeoBox:
    """A tile of ``side`` pixels of 10 m; rows go downwards."""
    x, y = LEFT + col * side * 10, TOP - row * side * 10
    return window((x, y - side * 10, x + side * 10, y), 32631, 10)


def blocks_of(pixel: float, crs: str = UTM31) -> Grid:
    """A file whose grid begins 150 m beside the tiles', in blocks of 40 pixels."""
    return Grid(crs, Affine(pixel, 0, LEFT - 150, 0, -pixel, TOP + 150), 400, 400, "uint8",
                (40, 40))


def last(horizon: Horizon, grid: Grid, row: int, col: int) -> int:
    return horizon.last(grid.crs, grid.transform, grid.block, row, col)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([10.0, 20.0, 7.5]))
def test_the_last_window_is_found_pixel_by_pixel(across: int, down: int, pixel: float) -> None:
    """By hand: a block is needed for every window that has a pixel's centre in it."""
    windows = [tile(col, row) for row in range(down) for col in range(across)]
    horizon, grid = Horizon(windows), blocks_of(pixel)
    needed: dict[tuple[int, int], int] = {}
    for number, w in enumerate(windows):
        t, (high, wide) = w.affine, w.shape
        x = t.c + (np.arange(wide) + 0.5) * t.a
        y = t.f + (np.arange(high) + 0.5) * t.e
        cols = np.unique((x - grid.transform.c) // (pixel * 40)).astype(int)
        rows = np.unique((grid.transform.f - y) // (pixel * 40)).astype(int)
        needed |= {(r, c): number for r in rows for c in cols}
    for (row, col), number in needed.items():
        assert last(horizon, grid, row, col) >= number  # a little beyond the window is read, too
    assert last(horizon, grid, 300, 300) == -1
    if pixel == 10:  # no edge of a block lies near a window's: it is not held for longer
        assert {at: last(horizon, grid, *at) for at in needed} == needed


def test_windows_and_files_of_other_zones_meet() -> None:
    near = GeoBox.from_bbox((LEFT, TOP - 5000, LEFT + 5000, TOP), UTM31, resolution=10)
    other = near.to_crs(UTM32)
    horizon = Horizon([tile(0, 0), other])
    assert last(horizon, blocks_of(10), 0, 0) == 1
    assert last(Horizon([near]), Grid(UTM32, other.affine, 600, 600, "uint8", (40, 40)), 3, 3) == 0
    assert last(Horizon([]), blocks_of(10), 0, 0) == -1


def test_a_block_goes_with_the_last_window_that_touches_it() -> None:
    store, grid = BlockStore(1 << 20), Grid(UTM31, tile(0, 0).affine, 150, 50, "uint8", (50, 50))
    with store.expecting([tile(0, 0), tile(1, 0), tile(2, 0)]):
        for x in range(3):
            store.keep_block(x, np.zeros(9, np.uint8), grid, 0, x)
        # each block is read with its neighbours' margins, too
        store.passed(1)  # out of order: the first may still need what it has
        assert [store.block(x) is not None for x in range(3)] == [True] * 3
        store.passed(0)
        assert [store.block(x) is not None for x in range(3)] == [False, True, True]
        store.keep_block("late", np.zeros(9, np.uint8), grid, 0, 0)  # of another sensor
        assert store.block("late") is not None
        store.passed(2)
        assert [store.block(x) for x in (0, 1, 2, "late")] == [None] * 4
    store.keep_block(7, np.zeros(9, np.uint8), grid, 0, 0)
    store.passed(0)
    assert store.block(7) is not None  # nothing is expected: held by least recent use


def block(value: int) -> np.ndarray:
    return np.full(90, value, np.uint8)


def test_what_lies_on_disk_goes_with_its_last_window_too(tmp_path: Path) -> None:
    store = BlockStore(120)  # one block beside a disk
    grid = Grid(UTM31, tile(0, 0).affine, 250, 50, "uint8", (50, 50))
    store.keep_block("before", block(9), grid, 0, 0)  # of nobody who says what will be read
    for _ in range(2):  # a run after the other
        with store.expecting([tile(k, 0) for k in range(5)], tmp_path):
            store.keep_block(0, block(0), grid, 0, 0)
            store.keep_block(3, block(3), grid, 0, 3)
            assert store._spill is not None
            assert store._spill.get("before") is None
            np.testing.assert_array_equal(store.block(0), block(0))
            store.passed(0)
            store.passed(1)
            assert store._spill.get(0) is None
            assert store.block(0) is None
            np.testing.assert_array_equal(store.block(3), block(3))
            store.keep_block(2, block(2), grid, 0, 3)
            assert store._spill.get(3) is not None
            store.clear()
            assert store.block(3) is None
            assert store.block(2) is None
        assert store._spill is None


def test_a_block_that_is_held_twice_counts_once() -> None:
    store = BlockStore(200)
    grid = Grid(UTM31, tile(0, 0).affine, 250, 50, "uint8", (50, 50))
    store.keep_block(1, block(1), grid, 0, 0)
    for _ in range(5):
        store.keep_block(0, block(0), grid, 0, 0)
    assert store.block(0) is not None
    assert store.block(1) is not None


def test_without_a_disk_all_of_the_memory_is_used(tmp_path: Path) -> None:
    grid = Grid(UTM31, tile(0, 0).affine, 250, 50, "uint8", (50, 50))
    for folder, count in ((None, 4), (tmp_path / "missing", 4), (tmp_path, 3)):
        store = BlockStore(400)
        with store.expecting([tile(0, 0)], folder):
            for k in range(9):
                store.keep_block(k, block(k), grid, 0, 0)
            assert len(store._blocks) == count
