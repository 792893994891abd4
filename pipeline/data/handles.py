"""Files left open for whoever reads them next, and what GDAL keeps of them.

A tile needs other blocks of the same files as its neighbour. Opening one takes 1.5 ms, in which
no other thread of Python gets on, and a map of a year opens each of hundreds once a tile.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from weakref import WeakSet

import numpy as np
from rasterio import DatasetReader
from rasterio._env import get_gdal_config, set_gdal_config  # rasterio has no public name

# Of what GDAL keeps beside files that are open. A year of Sentinel-2 with blocks of 512 x 512 fits.
KEPT_BYTES = 384 << 20

_every: WeakSet[OpenFiles] = WeakSet()
_lock = threading.Lock()  # of all of them: held while the process forks


class _BlockCache:
    """GDAL's cache of decoded blocks, which is one for the process: 5 % of the machine's memory,
    as long as files stay open. We hold blocks ourselves: it is small while anybody is within.

    Not a ``rasterio.Env``: each of several threads would bring back what another had set.
    """

    def __init__(self, size: int) -> None:
        self._size, self._within, self._before = size, 0, 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if self._within == 0:
                self._before = get_gdal_config("GDAL_CACHEMAX")
                set_gdal_config("GDAL_CACHEMAX", self._size)
            self._within += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if self._within == 0:
                set_gdal_config("GDAL_CACHEMAX", self._before)


SMALL_BLOCK_CACHE = _BlockCache(16 << 20)


def most_open() -> int:
    """How many files may be left open: half of what the process may have, a thousand at most."""
    try:
        import resource
    except ImportError:  # Windows
        return 256
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1024 if soft == resource.RLIM_INFINITY else min(soft // 2, 1024)


def _size(file: DatasetReader) -> int:
    """Bytes that GDAL keeps of an open file, at most: a block as it was packed; but for DEFLATE, a
    window of as much again."""
    rows, cols = file.block_shapes[0]
    block = rows * cols * file.count * np.dtype(file.dtypes[0]).itemsize
    packing = file.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION")
    return block if packing in (None, "DEFLATE") else 2 * block


class OpenFiles:
    """Opened files by least recent use, each with one reader at a time; safe between threads, and
    closed before the process forks: two processes would move one place in a file.

    Args:
        limit: files that are left open while nobody reads them.
        size: bytes that these may take.
    """

    def __init__(self, limit: int, size: int = KEPT_BYTES) -> None:
        self._limit, self._most, self._bytes = limit, size, 0
        self._idle: OrderedDict[Hashable, tuple[DatasetReader, int]] = OrderedDict()
        _every.add(self)

    def lend(
        self, key: Hashable, until: ExitStack, opened: Callable[[], DatasetReader]
    ) -> DatasetReader:
        """The file of a key, opened now if none is idle.

        Args:
            key: of the file as it is now.
            until: when this stack is left the file is idle again, or closed after an error.
            opened: opens it.
        """
        with _lock:
            file = self._taken(key) if key in self._idle else None
        if file is None:
            file = opened()

        def back(kind: type[BaseException] | None, *_: object) -> None:
            if kind is None:
                self._keep(key, file)
            else:
                file.close()

        until.push(back)
        return file

    def _keep(self, key: Hashable, file: DatasetReader) -> None:
        size = _size(file)
        with _lock:
            spare = [self._taken(key)] if key in self._idle else []
            self._idle[key] = file, size
            self._bytes += size
            while len(self._idle) > self._limit or self._bytes > self._most:
                spare.append(self._taken(next(iter(self._idle))))
        for other in spare:
            other.close()

    def _taken(self, key: Hashable) -> DatasetReader:
        file, size = self._idle.pop(key)
        self._bytes -= size
        return file

    def clear(self) -> None:
        """Close those that nobody reads."""
        with _lock:
            idle = self._all_taken()
        for file in idle:
            file.close()

    def _all_taken(self) -> list[DatasetReader]:
        return [self._taken(key) for key in list(self._idle)]


def _before_fork() -> None:
    _lock.acquire()
    for files in list(_every):
        for file in files._all_taken():
            file.close()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_before_fork, after_in_parent=_lock.release,
                        after_in_child=_lock.release)
