"""Finished cells on disk: one file each, named after everything that decides what is in it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.files import replacing
from pipeline.learn.cell import Cell, Found
from pipeline.learn.recipe import Row

# Version of training and prediction (cell.py, fit.py, forests.py, models/). Raise it whenever the
# same recipe would give another result: cells of an older engine are then made again.
ENGINE = "2"

_DAMAGED = (OSError, EOFError, KeyError, ValueError, NotImplementedError, zipfile.BadZipFile,
            zlib.error)


def fingerprint(value: Any) -> str:
    """sha256 of everything in a value: dataclasses, mappings, sequences, arrays, plain values.

    Equal content gives an equal fingerprint, in any process and on any machine.
    """
    sha = hashlib.sha256()
    _add(sha, value)
    return sha.hexdigest()


def weights_of(row: Row) -> dict[str, str]:
    """sha256 of each file of the user's weights; empty for rows that have none."""
    folder = row.recipe.network.get("weights")
    if not folder:
        return {}
    files = sorted(p for p in Path(str(folder)).glob("*") if p.is_file())
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def cell_path(folder: Path, config: Mapping[str, Any]) -> Path:
    """File of a cell.

    Args:
        folder: of the cells.
        config: plain JSON with all that decides the cell's content.
    """
    return folder / f"{hashlib.sha256(_text(config).encode()).hexdigest()}.npz"


def save_cell(folder: Path, config: Mapping[str, Any], cell: Cell) -> None:
    """Write a cell whole or not at all.

    Args:
        folder: of the cells.
        config: see ``cell_path``; kept in the file, so that a cell tells what it is.
        cell: finished.
    """
    arrays: dict[str, np.ndarray] = {
        "config": np.array(_text(config)), "epochs": np.array(cell.epochs),
        "seconds": np.array(cell.seconds),
    }
    for sensor, found in cell.found.items():
        arrays |= {f"found/{sensor}/rows": found.rows, f"found/{sensor}/value": found.value,
                   f"found/{sensor}/raw": found.raw.astype(np.float32)}
    for group, named in (("history", cell.history), ("features", cell.features),
                         ("temperature", cell.temperature)):
        arrays |= {f"{group}/{name}": np.asarray(v) for name, v in named.items()}
    with replacing(cell_path(folder, config)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load_cell(folder: Path, config: Mapping[str, Any]) -> Cell | None:
    """A finished cell; None where there is none, or its file is damaged or is another cell's."""
    path = cell_path(folder, config)
    if not path.is_file():
        return None
    try:
        # opened here: of a damaged file NumPy would leave its own handle open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        if str(arrays["config"]) != _text(config):
            return None
        return _cell(arrays)
    except _DAMAGED:
        return None


def _cell(arrays: Mapping[str, np.ndarray]) -> Cell:
    named: dict[str, dict[str, np.ndarray]] = {}
    for name, value in arrays.items():
        group, _, rest = name.partition("/")
        named.setdefault(group, {})[rest] = value
    parts = named["found"]
    sensors = dict.fromkeys(name.rpartition("/")[0] for name in parts)
    return Cell(
        found={s: Found(parts[f"{s}/rows"], parts[f"{s}/value"], parts[f"{s}/raw"])
               for s in sensors},
        history=named.get("history", {}), epochs=float(arrays["epochs"]),
        seconds=float(arrays["seconds"]),
        temperature={k: float(v) for k, v in named.get("temperature", {}).items()},
        features=named.get("features", {}),
    )


def _text(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True, allow_nan=False)


def _add(sha: Any, value: Any) -> None:
    """Add a value with its type and length, so that no two values run into each other."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        sha.update(f"map {len(value)};".encode())
        for key, item in value.items():
            _add(sha, key)
            _add(sha, item)
    elif isinstance(value, np.ndarray) and value.dtype != object:
        sha.update(f"array {value.dtype.str} {value.shape};".encode())
        sha.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, list | tuple | np.ndarray):
        sha.update(f"list {len(value)};".encode())
        for item in value:
            _add(sha, item)
    else:
        text = repr(value).encode()
        sha.update(f"{type(value).__name__} {len(text)};".encode() + text)
