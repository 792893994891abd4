"""Decoded blocks that memory has no room for, in a file of the run that has no name."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
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


class Spill:
    """Blocks on disk by key; safe to share between threads, and empty for a forked process.

    A block that could not be written, or does not come back as it was written, is simply not there:
    it is decoded again.

    Args:
        folder: on the disk that is written to; the file goes with the process.
        limit: bytes of the file, and at most half of what the disk has left.
    """

    def __init__(self, folder: Path, limit: int = SPILL_BYTES) -> None:
        self._lock, self._pid = threading.Lock(), os.getpid()
        self._slots: dict[Hashable, _Slot] = {}
        self._free: dict[int, list[int]] = {}  # offsets by bytes
        self._end = self._limit = 0
        self._file: IO[bytes] | None = None
        if hasattr(os, "pwrite"):  # not on Windows
            with contextlib.suppress(OSError):
                self._limit = min(limit, shutil.disk_usage(folder).free // 2)
                self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115

    def put(self, key: Hashable, pixels: np.ndarray) -> None:
        """Write a block, unless it is there or there is no room for it."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._file is None or key in self._slots:
                return
            if (offset := self._room(pixels.nbytes)) is None:
                return
            written = 0
            with contextlib.suppress(OSError):
                written = os.pwrite(self._file.fileno(), pixels.data, offset)
            if written < pixels.nbytes:  # the disk is full, or broken
                self._limit = 0
                return
            self._slots[key] = _Slot(offset, pixels.shape, pixels.dtype, zlib.adler32(pixels.data))

    def _room(self, size: int) -> int | None:
        if free := self._free.get(size):
            return free.pop()
        if self._end + size > self._limit:
            return None
        self._end += size
        return self._end - size

    def get(self, key: Hashable) -> np.ndarray | None:
        """A block as it was put."""
        if os.getpid() != self._pid:
            return None
        with self._lock:
            slot = self._slots.get(key)
            if self._file is None or slot is None:
                return None
            pixels = np.empty(slot.shape, slot.dtype)
            with contextlib.suppress(OSError):
                os.preadv(self._file.fileno(), [pixels.data], slot.offset)
        if zlib.adler32(pixels.data) != slot.checksum:  # lost on the way to the disk
            return None
        pixels.flags.writeable = False
        return pixels

    def drop(self, key: Hashable) -> None:
        """Let go of a block; its place is the next one's."""
        with self._lock:
            if slot := self._slots.pop(key, None):
                size = int(np.prod(slot.shape)) * slot.dtype.itemsize
                self._free.setdefault(size, []).append(slot.offset)

    def clear(self) -> None:
        """Let go of every block."""
        for key in list(self._slots):
            self.drop(key)

    def close(self) -> None:
        """Let go of the file."""
        self.clear()
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None
