"""What memory has no room for comes back from the disk as it was, or is decoded again."""

from __future__ import annotations

import errno
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import spill as spilling
from pipeline.data.spill import Spill
from pipeline.infer.profile import bytes_read

rng = np.random.default_rng(7)
BLOCKS = [rng.integers(0, 9999, (4, 50), dtype=np.uint16), rng.random((7, 9), np.float32),
          rng.integers(0, 255, (1, 1), dtype=np.uint8), np.zeros((20, 20), np.int16)]


@pytest.fixture
def spill(tmp_path: Path) -> Iterator[Spill]:
    with closing(Spill(tmp_path)) as made:
        yield made


def same(found: np.ndarray | None, expected: np.ndarray) -> bool:
    return (found is not None and found.dtype == expected.dtype
            and np.array_equal(found, expected))


def test_blocks_come_back_as_they_were(tmp_path: Path, spill: Spill) -> None:
    for k, block in enumerate(BLOCKS):
        spill.put(k, block)
    spill.put(0, BLOCKS[0] + 1)  # it is there
    spill.put("view", BLOCKS[1].T)
    assert same(spill.get("view"), BLOCKS[1].T)
    assert all(same(spill.get(k), block) for k, block in enumerate(BLOCKS))
    assert spill.get("another") is None
    with pytest.raises(ValueError, match="read-only"):
        spill.get(0)[:] = 0  # type: ignore[index]
    assert not list(tmp_path.iterdir())  # the file has no name: nothing is left behind
    spill.close()
    spill.put(0, BLOCKS[0])
    assert spill.get(0) is None


def test_the_place_of_what_is_dropped_is_taken_again(tmp_path: Path) -> None:
    with closing(Spill(tmp_path, limit=3 * 400)) as spill:
        for k in range(3):
            spill.put(k, np.full((4, 50), k, np.uint16))
        spill.put(3, BLOCKS[0])
        assert spill.get(3) is None  # no room
        spill.drop(1)
        spill.drop(1)
        spill.put(3, BLOCKS[0])
        spill.put(4, BLOCKS[0])
        assert same(spill.get(3), BLOCKS[0])
        assert [spill.get(k) is None for k in range(5)] == [False, True, False, False, True]
        spill.clear()
        assert [spill.get(k) for k in range(5)] == [None] * 5


@pytest.mark.parametrize("fails", ["short", "full"])
def test_a_full_disk_is_no_failure(
    spill: Spill, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    spill.put(0, BLOCKS[0])
    written = os.pwrite

    def pwrite(file: int, pixels: memoryview, offset: int) -> int:
        if fails == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(file, pixels.tobytes()[:10], offset)

    with monkeypatch.context() as disk:
        disk.setattr(os, "pwrite", pwrite)
        spill.put(1, BLOCKS[1])
    spill.put(2, BLOCKS[2])  # it is not tried again
    assert same(spill.get(0), BLOCKS[0])
    assert spill.get(1) is None
    assert spill.get(2) is None


@pytest.mark.parametrize("lost", ["changed", "cut", "unreadable"])
def test_what_is_not_as_it_was_written_is_not_there(
    spill: Spill, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """A network drive may say only later, and to nobody, that it could not write."""
    spill.put(0, BLOCKS[0])
    spill.put(1, BLOCKS[1])
    assert spill._file is not None
    if lost == "changed":
        os.pwrite(spill._file.fileno(), b"\0\1", BLOCKS[0].nbytes + 8)
    elif lost == "cut":
        os.truncate(spill._file.fileno(), BLOCKS[0].nbytes)
    else:
        def preadv(file: int, into: list, offset: int) -> int:
            raise OSError(errno.EIO, "Input/output error")
        monkeypatch.setattr(os, "preadv", preadv)
    assert spill.get(1) is None
    if lost != "unreadable":
        assert same(spill.get(0), BLOCKS[0])
        spill.put(1, BLOCKS[1])  # it was decoded again
        assert same(spill.get(1), BLOCKS[1])


def test_the_most_of_what_the_disk_has_left_is_the_maps(
    tmp_path: Path, spill: Spill, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage, free = spilling.shutil._ntuple_diskusage, [1_299]
    monkeypatch.setattr(spilling.shutil, "disk_usage", lambda _: usage(10_000, 0, free[0]))
    spill.put(0, BLOCKS[0])  # 400 bytes
    spill.put(1, BLOCKS[1])
    assert same(spill.get(0), BLOCKS[0])
    assert spill.get(1) is None
    free[0] = 2_000
    spill.put(1, BLOCKS[1])
    assert same(spill.get(1), BLOCKS[1])


def test_an_empty_file_gives_its_room_back(spill: Spill) -> None:
    assert spill._file is not None
    for k, block in enumerate(BLOCKS):
        spill.put(k, block)
    for k in range(len(BLOCKS)):
        assert os.fstat(spill._file.fileno()).st_size > 0
        spill.drop(k)
    assert os.fstat(spill._file.fileno()).st_size == 0
    spill.put(9, BLOCKS[3])
    assert same(spill.get(9), BLOCKS[3])


def test_what_is_read_back_is_counted_apart(spill: Spill) -> None:
    spill.put(0, BLOCKS[0])
    before, read = bytes_read(), Spill.read_back
    for _ in range(100):
        spill.get(0)
    assert Spill.read_back - read == 100 * BLOCKS[0].nbytes
    assert bytes_read() - before < 20_000  # what the system says of it is text that is read, too


def test_a_file_that_cannot_be_closed_is_no_failure(spill: Spill) -> None:
    spill.put(0, BLOCKS[0])
    assert spill._file is not None
    os.close(spill._file.fileno())
    spill.close()
    assert spill.get(0) is None


def test_a_folder_that_cannot_be_written_to_is_no_failure(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "missing")
    spill.put(0, BLOCKS[0])
    assert spill.get(0) is None
    spill.close()


def _found(spill: Spill) -> None:
    spill.put(1, BLOCKS[1])
    spill.clear()
    os._exit(0 if spill.get(0) is None else 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # has threads: Python 3.12
def test_a_forked_process_has_none(spill: Spill) -> None:
    """The parent goes on writing into the file."""
    spill.put(0, BLOCKS[0])
    child = multiprocessing.get_context("fork").Process(target=_found, args=(spill,))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert spill._file is not None
    assert os.fstat(spill._file.fileno()).st_size == BLOCKS[0].nbytes
    assert same(spill.get(0), BLOCKS[0])
    assert spill.get(1) is None
