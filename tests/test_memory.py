"""Freed memory is kept where the C library can be told so, and nothing breaks where it cannot."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from pipeline.infer import memory

# Bytes that the system had to make afresh for four arrays of 24 MiB, eight times taken and freed.
_FAULTS = """
import resource, sys
import numpy as np
from pipeline.infer.memory import keep_freed
if sys.argv[1] == "kept":
    assert keep_freed()
def taken():
    arrays = [np.full(3 << 20, 1.5) for _ in range(4)]
taken()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    taken()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize())
"""
ONCE = 4 * (24 << 20)


def fresh(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", _FAULTS, how], capture_output=True, text=True,
                          env={"NUMPY_MADVISE_HUGEPAGE": "0"}, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_blocks_are_used_again() -> None:
    assert fresh("kept") < ONCE
    assert fresh("as ever") > 4 * ONCE


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    memory.keep_freed.cache_clear()
    assert memory.keep_freed() is False
    memory.keep_freed.cache_clear()
