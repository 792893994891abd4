"""Memory that was freed, kept for the next tile."""

from __future__ import annotations

import ctypes
import os
from functools import cache

_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ARENA_MAX = -3, -1, -8  # numbers of glibc's malloc.h
_LARGEST = 32 << 20  # bytes: the most that every version of glibc takes
_KEPT = 128 << 20
_ARENAS = 2  # for each core. Threads have eight, each with room that others cannot use: in a
# thousand tiles a process grew by a fifth


@cache
def keep_freed() -> bool:
    """Keep freed blocks instead of giving them back to the system, which has to fill each page
    with zeros before it may be used again: a tenth of the time that a map takes.

    Returns:
        Whether the C library could be told so: glibc can.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return False
    return all(mallopt(*setting) for setting in (
        (_MMAP_THRESHOLD, _LARGEST), (_TRIM_THRESHOLD, _KEPT),
        (_ARENA_MAX, _ARENAS * (os.cpu_count() or 1))))
