"""The run store: what a run has finished, safe against a crash at any moment.

One Zarr array a layer and sheet, one chunk a lattice tile: writing a tile twice is harmless. A
tile counts as finished when its line is in ``tiles.jsonl``, which is written after its chunks.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pipeline.data.files import atomic_write_json, sync, writing
from pipeline.spec.errors import BadRequest
from pipeline.spec.grid import Sheet, Tile
from pipeline.spec.layers import Layer
from pipeline.spec.manifest import TileRecord

STAMP, LOG, STORE = "run.json", "tiles.jsonl", "store.zarr"


class SheetView:
    """A sheet's window of a stored layer: ``shape``, ``dtype`` and 2-D slicing, like an array."""

    def __init__(self, array: zarr.Array, top: int, left: int, shape: tuple[int, int]) -> None:
        self._array, self._top, self._left = array, top, left
        self.shape, self.dtype = shape, array.dtype

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        rows, cols = (slice(*k.indices(n)) for k, n in zip(key, self.shape, strict=True))
        return np.asarray(
            self._array[
                self._top + rows.start : self._top + rows.stop,
                self._left + cols.start : self._left + cols.stop,
            ]
        )


class RunStore:
    """The store of one run, below ``root``. Open it with ``RunStore.open``."""

    def __init__(self, root: Path, sheets: Sequence[Sheet], layers: Sequence[Layer],
                 tile_px: int) -> None:
        self.root, self.layers, self.tile_px = root, tuple(layers), tile_px
        self._log = root / LOG
        self._origin: dict[str, tuple[int, int]] = {}
        self._sheets = {s.name: s for s in sheets}
        with writing(root):
            group = zarr.open_group(str(root / STORE), mode="a")
            self._arrays = {s.name: self._open_sheet(group, s) for s in sheets}

    @classmethod
    def open(
        cls, root: Path, identity: Mapping[str, Any], sheets: Sequence[Sheet],
        layers: Sequence[Layer], tile_px: int, resume: bool,
    ) -> RunStore:
        """Open the store of a run, emptied first unless it is to be resumed. Hold ``locked``.

        Args:
            root: folder of the run's state.
            identity: request, checkpoint and items; a run is resumed only under the same identity.
            sheets, layers, tile_px: what is stored.
            resume: keep the tiles that are finished.

        Raises:
            BadRequest: ``resume``, and the run was another one.
            DataTrouble: the disk is full or failing.
        """
        stamp = root / STAMP
        # tiles of an older version's run have no values in the layers that it did not know
        identity = {**identity, "layers": [layer.name for layer in layers]}
        if not resume:
            clear(root)
        elif stamp.exists() and (changed := _changed(_read(stamp), identity)):
            raise BadRequest(
                f"{root.parent} holds a run of another request", got=f"other {changed}",
                then="repeat the first command with --resume, or leave --resume out to start over",
            )
        atomic_write_json(stamp, dict(identity))
        return cls(root, sheets, layers, tile_px)

    def _open_sheet(self, group: zarr.Group, sheet: Sheet) -> dict[str, zarr.Array]:
        # the sheet's first pixel lies inside a lattice tile: chunks are lattice tiles all the same
        n, (row, col), (h, w) = self.tile_px, sheet.lattice_origin, sheet.geobox.shape
        top, left = row % n, col % n
        self._origin[sheet.name] = (top, left)
        shape = (-(-(top + h) // n) * n, -(-(left + w) // n) * n)
        return {
            layer.name: group.require_array(
                f"{sheet.name}/{layer.name}", shape=shape, chunks=(n, n), dtype=layer.dtype,
                fill_value=layer.nodata,
            )
            for layer in self.layers
        }

    def done(self) -> dict[str, TileRecord]:
        """Records of the tiles that need not be done again, by key."""
        records: dict[str, TileRecord] = {}
        if self._log.exists():
            for line in self._log.read_text().splitlines():
                try:
                    record = TileRecord(**json.loads(line))
                except (json.JSONDecodeError, TypeError):
                    continue  # the line that a crash cut short: its tile is done again
                if record.status != "failed":
                    records[record.key] = record
        return records

    def write(self, tile: Tile, arrays: Mapping[str, np.ndarray], record: TileRecord) -> None:
        """Store a tile's layers, then its record.

        Raises:
            DataTrouble: the disk is full or failing; what was stored before is kept.
        """
        top, left = self._origin[record.sheet]
        rows = slice(top + tile.rows.start, top + tile.rows.stop)
        cols = slice(left + tile.cols.start, left + tile.cols.stop)
        with writing(self.root):
            for name, values in arrays.items():
                self._arrays[record.sheet][name][rows, cols] = values
            with self._log.open("a") as log:
                log.write(json.dumps(dataclasses.asdict(record)) + "\n")
                log.flush()
                os.fsync(log.fileno())

    def view(self, sheet: str, layer: str) -> SheetView:
        """A layer of a sheet, as an array of the sheet's shape."""
        top, left = self._origin[sheet]
        h, w = self._sheets[sheet].geobox.shape
        return SheetView(self._arrays[sheet][layer], top, left, (h, w))


def clear(root: Path) -> None:
    """Forget a run: first what says that tiles are finished, then the tiles."""
    with writing(root):
        for name in (STAMP, LOG):
            (root / name).unlink(missing_ok=True)
        sync(root)
        if (root / STORE).exists():
            shutil.rmtree(root / STORE)


def _read(stamp: Path) -> dict[str, Any]:
    """A run's identity; nothing where the file is damaged, so that it equals no other."""
    try:
        found = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Names of the parts in which two identities differ."""
    plain = json.loads(json.dumps(dict(new)))
    return ", ".join(sorted(k for k in {*old, *plain} if old.get(k) != plain.get(k)))


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold a run's folder alone, until the block ends or the process dies.

    Raises:
        BadRequest: another process holds it.
    """
    with writing(root):
        handle = (root / "lock").open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadRequest(f"another run is writing to {root.parent}",
                             then="wait for it, or choose another --out") from None
        yield
