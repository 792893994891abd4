"""Memory that was freed, kept for the next tile."""

from __future__ import annotations

import ctypes
from functools import cache

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # numbers of glibc's malloc.h
_LARGEST = 32 << 20  # bytes: the most that every version of glibc takes
_KEPT = 128 << 20


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
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _KEPT))
