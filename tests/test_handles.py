"""Files on disk stay open for their next blocks: one reader at a time, never a file of before."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from pipeline.data import rasters
from pipeline.data.blocks import BlockStore
from pipeline.data.handles import OpenFiles, most_open
from pipeline.data.rasters import GDAL_OPTIONS, ImageFile, read_image
from pipeline.spec.errors import DataTrouble

SIDE, BLOCK = 256, 64


def write(path: Path, seed: int) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(1, 9999, (SIDE, SIDE), dtype=np.uint16)
    with rasterio.open(path, "w", driver="GTiff", width=SIDE, height=SIDE, count=1, dtype="uint16",
                       tiled=True, blockxsize=BLOCK, blockysize=BLOCK, compress="deflate",
                       crs="EPSG:32631", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)) as f:
        f.write(pixels, 1)
    return pixels


def block(path: Path, store: BlockStore | None, k: int) -> np.ndarray:
    """Block ``k`` of the diagonal."""
    with rasterio.Env(**GDAL_OPTIONS):
        return read_image(ImageFile(str(path), "an item"),
                          lambda f: f.read(Window(k * BLOCK, k * BLOCK, BLOCK, BLOCK)), store)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[rasterio.DatasetReader]:
    """Every file that was opened, in order."""
    found: list[rasterio.DatasetReader] = []
    real = rasterio.open

    def watched(*args: object, **options: object) -> rasterio.DatasetReader:
        found.append(real(*args, **options))
        return found[-1]

    monkeypatch.setattr(rasters.rasterio, "open", watched)
    return found


def test_a_file_is_opened_once_for_all_its_blocks(
    tmp_path: Path, opened: list[rasterio.DatasetReader]
) -> None:
    path, store = tmp_path / "a.tif", BlockStore(1 << 24)
    pixels = write(path, 0)
    opened.clear()
    for k in range(4):
        part = slice(k * BLOCK, (k + 1) * BLOCK)
        np.testing.assert_array_equal(block(path, store, k), pixels[part, part])
    assert len(opened) == 1
    block(path, None, 0)
    assert len(opened) == 2, "without a store nothing is left open"
    assert opened[1].closed
    store.clear()
    assert opened[0].closed


def test_a_file_that_was_replaced_is_opened_anew(
    tmp_path: Path, opened: list[rasterio.DatasetReader]
) -> None:
    path, store = tmp_path / "a.tif", BlockStore(1 << 24)
    write(path, 0)
    block(path, store, 0)
    pixels = write(path, 1)
    os.utime(path, (1, 1))
    np.testing.assert_array_equal(block(path, store, 3), pixels[-BLOCK:, -BLOCK:])


def test_a_file_that_failed_is_closed(
    tmp_path: Path, opened: list[rasterio.DatasetReader]
) -> None:
    path, store = tmp_path / "a.tif", BlockStore(1 << 24)
    write(path, 0)
    opened.clear()
    block(path, store, 0)
    whole, before = path.read_bytes(), path.stat()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # looks like the same file
    with pytest.raises(DataTrouble, match=r"a\.tif"):
        block(path, store, 3)
    assert [file.closed for file in opened] == [True]
    path.write_bytes(whole)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    block(path, store, 3)
    assert len(opened) == 2


def test_two_readers_have_a_file_each(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", 0)
    files, both = OpenFiles(8), threading.Barrier(2)

    def read(_: int) -> tuple[int, int]:
        with ExitStack() as until:
            file = files.lend("a", until, lambda: rasterio.open(tmp_path / "a.tif"))
            both.wait(10)  # each has one now
            return id(file), int(file.read(1).sum())

    with ThreadPoolExecutor(2) as pool:
        (one, total), (other, same) = pool.map(read, range(2))
    assert one != other
    assert total == same
    with ExitStack() as until:  # of two idle ones of a key one is enough
        assert id(files.lend("a", until, lambda: pytest.fail("it is open"))) in (one, other)


def test_the_oldest_are_closed_beyond_the_limit(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", 0)
    files, lent = OpenFiles(2), {}
    for key in (1, 2, 1, 3):
        with ExitStack() as until:
            lent[key] = files.lend(key, until, lambda: rasterio.open(tmp_path / "a.tif"))
    assert [lent[key].closed for key in (1, 2, 3)] == [False, True, False]


def test_most_open_leaves_half_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    for soft, most in ((256, 128), (20_000, 1024), (resource.RLIM_INFINITY, 1024)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert most_open() == most
