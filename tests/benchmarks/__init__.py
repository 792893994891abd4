"""What is measured rather than tested: ``python -m tests.benchmarks --help``."""

from __future__ import annotations

import os
from pathlib import Path


def apart(folder: Path) -> dict[str, str]:
    """Environment of a process whose rates are kept in a folder, not among the user's own."""
    return {**os.environ, "XDG_CACHE_HOME": str(folder)}
