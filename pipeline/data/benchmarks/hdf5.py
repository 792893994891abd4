"""HDF5 files, read whole, with words instead of tracebacks where that fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.spec.errors import BadRequest, DataTrouble


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Data sets of an HDF5 file.

    Raises:
        BadRequest: h5py, an optional part of this project, is not installed.
        DataTrouble: the file is no HDF5 file, damaged, or lacks one of the names.
    """
    try:
        import h5py
    except ImportError:
        raise BadRequest("HDF5 files cannot be read: h5py is not installed",
                         then="pip install 'wallmap[benchmarks]'") from None
    try:
        with h5py.File(path, "r") as file:
            return {name: file[name][()] for name in names}
    except KeyError as error:
        raise DataTrouble(f"{path} is of another layout", got=str(error),
                          allowed=", ".join(names)) from None
    except OSError as error:
        raise DataTrouble(f"cannot read {path}", got=str(error)[:200]) from None
