"""Files on disk stay open for their next blocks: one reader at a time, never a file of before."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio._env import get_gdal_config
from rasterio.windows import Window

from pipeline.data import rasters
from pipeline.data.block_store import BlockStore
from pipeline.data.handles import SMALL_BLOCK_CACHE, OpenFiles, most_open
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
    assert [file.closed for file in opened] == [True, True]  # once more, freshly opened
    path.write_bytes(whole)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    block(path, store, 3)
    assert len(opened) == 3


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_what_was_left_open_may_have_gone_bad(tmp_path: Path) -> None:
    """As after a disk of the network was away: the file is fine, its handle is not."""
    path, store = tmp_path / "a.tif", BlockStore(1 << 24)
    pixels = write(path, 0)
    block(path, store, 0)
    (idle, _), = store.files._idle.values()
    fd = next(int(p.name) for p in Path("/proc/self/fd").iterdir()
              if p.is_symlink() and os.readlink(p) == str(path))
    (tmp_path / "other").write_bytes(b"")
    other = os.open(tmp_path / "other", os.O_RDONLY)
    os.dup2(other, fd)  # what it reads from holds nothing any more
    os.close(other)
    np.testing.assert_array_equal(block(path, store, 3), pixels[-BLOCK:, -BLOCK:])
    assert idle.closed


def test_gdals_block_cache_is_the_users_again(tmp_path: Path) -> None:
    """However the readings of several threads overlap."""
    before = get_gdal_config("GDAL_CACHEMAX")
    first, second = threading.Event(), threading.Event()

    def early() -> None:
        with SMALL_BLOCK_CACHE:
            first.set()
            assert second.wait(10)

    def late() -> None:
        assert first.wait(10)
        with SMALL_BLOCK_CACHE, rasterio.Env(**GDAL_OPTIONS):
            second.set()
            one.result(10)
            assert get_gdal_config("GDAL_CACHEMAX") == 16 << 20

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(early)
        pool.submit(late).result(20)
    assert get_gdal_config("GDAL_CACHEMAX") == before
    assert before > 16 << 20


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


def test_the_oldest_are_closed_where_open_files_take_much_memory(tmp_path: Path) -> None:
    """GDAL keeps a block of each as it was packed, and ZSTD's window: for blocks of 1024 x 1024
    up to 4 MiB a file, for a thousand files 4 GiB."""
    write(tmp_path / "a.tif", 0)  # blocks of 8 KiB, DEFLATE
    with rasterio.open(tmp_path / "a.tif") as file:
        profile, pixels = file.profile | {"compress": "zstd"}, file.read()
    with rasterio.open(tmp_path / "z.tif", "w", **profile) as file:
        file.write(pixels)
    for path, fit in ((tmp_path / "a.tif", 3), (tmp_path / "z.tif", 1)):
        files, lent = OpenFiles(8, 3 * BLOCK * BLOCK * 2), []
        for key in range(5):
            with ExitStack() as until:
                lent.append(files.lend(key, until, lambda path=path: rasterio.open(path)))
        assert [file.closed for file in lent] == [True] * (5 - fit) + [False] * fit
        files.clear()
        with ExitStack() as until:  # what was closed counts no more
            again = files.lend(9, until, lambda: rasterio.open(tmp_path / "a.tif"))
        assert not again.closed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # has threads: Python 3.12
def test_a_forked_child_opens_its_own(tmp_path: Path) -> None:
    """With its parent's it would move the place where its parent reads, and both find pixels from
    elsewhere in the file: silently, where nothing is packed."""
    write(tmp_path / "a.tif", 0)
    files = OpenFiles(8)
    with ExitStack() as until:
        mine = files.lend("a", until, lambda: rasterio.open(tmp_path / "a.tif"))
    child = os.fork()
    if not child:
        code = 1
        signal.alarm(60)  # rather than to wait for a lock for ever
        try:
            with ExitStack() as until:
                files.lend("a", until, lambda: rasterio.open(tmp_path / "a.tif"))
                code = 0 if mine.closed else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with ExitStack() as until:
        assert not files.lend("a", until, lambda: rasterio.open(tmp_path / "a.tif")).closed


def test_most_open_leaves_half_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    for soft, most in ((256, 128), (20_000, 1024), (resource.RLIM_INFINITY, 1024)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert most_open() == most
