"""Files left open for whoever reads them next.

A tile needs other blocks of the same files as its neighbour. Opening one takes 1.5 ms, in which
no other thread of Python gets on, and a map of a year opens each of hundreds once a tile.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import ExitStack

from rasterio import DatasetReader


def most_open() -> int:
    """How many files may be left open: half of what the process may have, a thousand at most."""
    try:
        import resource
    except ImportError:  # Windows
        return 256
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1024 if soft == resource.RLIM_INFINITY else min(soft // 2, 1024)


class OpenFiles:
    """Opened files by least recent use, each with one reader at a time; safe between threads.

    Args:
        limit: files that are left open while nobody reads them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._idle: OrderedDict[Hashable, DatasetReader] = OrderedDict()
        self._lock = threading.Lock()

    def lend(
        self, key: Hashable, until: ExitStack, opened: Callable[[], DatasetReader]
    ) -> DatasetReader:
        """The file of a key, opened now if none is idle.

        Args:
            key: of the file as it is now.
            until: when this stack is left the file is idle again, or closed after an error.
            opened: opens it.
        """
        with self._lock:
            found = self._idle.pop(key, None)
        file = opened() if found is None else found

        def back(kind: type[BaseException] | None, *_: object) -> None:
            if kind is None:
                self._keep(key, file)
            else:
                file.close()

        until.push(back)
        return file

    def _keep(self, key: Hashable, file: DatasetReader) -> None:
        with self._lock:
            spare = [self._idle.pop(key)] if key in self._idle else []
            self._idle[key] = file
            while len(self._idle) > self._limit:
                spare.append(self._idle.popitem(last=False)[1])
        for other in spare:
            other.close()

    def clear(self) -> None:
        """Close those that nobody reads."""
        with self._lock:
            idle, self._idle = self._idle, OrderedDict()
        for file in idle.values():
            file.close()
