"""Decoded blocks that memory has no room for, in a file of the run that has no name."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

# A strip of tiles some 250 km long needs as much of a year of eleven optical bands.
SPILL_BYTES = 8 << 30


@dataclass(frozen=True)
class _Slot:
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    checksum: int

    @property
    def size(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


class Spill:
    """Blocks on disk by key, for one thread at a time; empty for a forked process.

    A block that could not be written, or does not come back as it was written, is simply not there:
    it is decoded again.

    Args:
        folder: on the disk that is written to; the file goes with the process.
        limit: bytes of the file, which never takes more than a third of what it leaves free.

    Attributes:
        read_back: bytes that this process has read from all of them.
    """

    read_back = 0

    def __init__(self, folder: Path, limit: int = SPILL_BYTES) -> None:
        self._folder, self._limit, self._pid = folder, limit, os.getpid()
        self._slots: dict[Hashable, _Slot] = {}
        self._free: dict[int, list[int]] = {}  # offsets by bytes
        self._end = 0
        self._file: IO[bytes] | None = None
        if hasattr(os, "preadv"):  # not on Windows
            with contextlib.suppress(OSError):
                self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115

    @property
    def usable(self) -> bool:
        """Whether there is a file, and it is this process's."""
        return self._file is not None and os.getpid() == self._pid

    def put(self, key: Hashable, pixels: np.ndarray) -> None:
        """Write a block, unless it is there or there is no room for it."""
        if not self.usable or key in self._slots or (at := self._room(pixels.nbytes)) is None:
            return
        assert self._file is not None
        pixels = np.ascontiguousarray(pixels)
        written = 0
        with contextlib.suppress(OSError):
            written = os.pwrite(self._file.fileno(), pixels.data, at)
        if written < pixels.nbytes:  # the disk is full, or broken
            self._limit = 0
            return
        self._slots[key] = _Slot(at, pixels.shape, pixels.dtype, zlib.adler32(pixels.data))

    def _room(self, size: int) -> int | None:
        if free := self._free.get(size):
            return free.pop()
        end = self._end + size
        with contextlib.suppress(OSError):
            if end <= self._limit and 3 * end <= shutil.disk_usage(self._folder).free:
                self._end = end
                return end - size
        return None

    def get(self, key: Hashable) -> np.ndarray | None:
        """A block as it was put."""
        slot = self._slots.get(key)
        if slot is None or not self.usable:
            return None
        assert self._file is not None
        pixels, size = np.empty(slot.shape, slot.dtype), 0
        with contextlib.suppress(OSError):
            size = os.preadv(self._file.fileno(), [pixels.data], slot.offset)
        Spill.read_back += size
        if size < pixels.nbytes or zlib.adler32(pixels.data) != slot.checksum:  # lost on the way
            self.drop(key)
            return None
        pixels.flags.writeable = False
        return pixels

    def drop(self, key: Hashable) -> None:
        """Let go of a block; its place is the next one's."""
        if slot := self._slots.pop(key, None):
            self._free.setdefault(slot.size, []).append(slot.offset)
        if not self._slots and self._end:
            self.clear()

    def clear(self) -> None:
        """Let go of every block, and of the room on disk."""
        self._slots.clear()
        self._free.clear()
        self._end = 0
        if self.usable:
            assert self._file is not None
            with contextlib.suppress(OSError):
                self._file.truncate(0)

    def close(self) -> None:
        """Let go of the file."""
        self.clear()
        if self._file is not None:
            with contextlib.suppress(OSError):  # a network drive may say only now what was lost
                self._file.close()
        self._file = None
