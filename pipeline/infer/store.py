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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from pipeline.data.files import atomic_write_json, sync, writing
from pipeline.spec.errors import BadRequest
from pipeline.spec.grid import Sheet, Tile
from pipeline.spec.layers import NO_SENSOR, OUTSIDE, Layer
from pipeline.spec.manifest import TileRecord

STAMP, LOG, STORE, LOCK = "run.json", "tiles.jsonl", "store.zarr", "lock"


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
        return finished_tiles(self.root)

    def write(self, tile: Tile, arrays: Mapping[str, np.ndarray], record: TileRecord) -> None:
        """Store a tile's layers, then its record.

        Raises:
            DataTrouble: the disk is full or failing; what was stored before is kept.
        """
        self.put(tile, arrays, record.sheet)
        self.log(record)

    def put(self, tile: Tile, arrays: Mapping[str, np.ndarray], sheet: str) -> None:
        """Store a tile's layers. It does not count as finished before its record is there.

        No two tiles share a chunk: several processes may put tiles into one store.

        Raises:
            DataTrouble: the disk is full or failing.
        """
        top, left = self._origin[sheet]
        rows = slice(top + tile.rows.start, top + tile.rows.stop)
        cols = slice(left + tile.cols.start, left + tile.cols.stop)
        with writing(self.root):
            for name, values in arrays.items():
                self._arrays[sheet][name][rows, cols] = values
            # its record must not outlive it in a power cut; a chunk of nothing but fill has no file
            for path in (self.root / STORE / name for name in self.chunks(tile, sheet)):
                if path.exists():
                    sync(path)

    def log(self, record: TileRecord) -> None:
        """Say that a tile is finished, after its layers were put: for one process at a time.

        Raises:
            DataTrouble: the disk is full or failing.
        """
        self._append([record])

    def _append(self, records: Sequence[TileRecord]) -> None:
        lines = "".join(json.dumps(dataclasses.asdict(record)) + "\n" for record in records)
        with writing(self.root), self._log.open("a") as log:
            log.write(lines)
            log.flush()
            os.fsync(log.fileno())

    def adopt(self, other: Path, tiles: Iterable[tuple[Tile, TileRecord]]) -> list[TileRecord]:
        """Take finished tiles over from another run's store, bit-identical, with their records.

        Chunks are hard-linked where the file system can, else copied: zarr replaces a chunk's file
        and never writes into it, so that neither run can change the other's.

        Args:
            other: root of the other run's store; of the same sheets, layers and tile size.
            tiles: each with its record there.

        Returns:
            The records of the tiles that were taken. A tile whose chunks are damaged, or do not
            hold the pixels that its record states, is left out; so are all tiles of a store that
            is laid out otherwise.

        Raises:
            DataTrouble: the disk is full or failing.
        """
        taken = []
        alike = {name: self._laid_out_alike(other, name) for name in self._arrays}
        for tile, record in tiles:
            if record.status == "failed" or not alike.get(record.sheet):
                continue
            files = self.chunks(tile, record.sheet)
            with writing(self.root):
                for name in files:
                    _link(other / STORE / name, self.root / STORE / name)
            if self._holds(tile, record):
                taken.append(record)
            else:
                for name in files:
                    (self.root / STORE / name).unlink(missing_ok=True)
        self._append(taken)
        return taken

    def _laid_out_alike(self, other: Path, sheet: str) -> bool:
        theirs, own = other / STORE / sheet, self.root / STORE / sheet
        try:
            return all((theirs / name / "zarr.json").read_bytes()
                       == (own / name / "zarr.json").read_bytes() for name in self._arrays[sheet])
        except OSError:
            return False

    def chunks(self, tile: Tile, sheet: str) -> list[str]:
        """Files of a tile, one a layer, relative to the store; one of nothing but fill is none."""
        top, left = self._origin[sheet]
        n = self.tile_px
        at = ((top + tile.rows.start) // n, (left + tile.cols.start) // n)
        return [f"{sheet}/{name}/{array.metadata.encode_chunk_key(at)}"
                for name, array in self._arrays[sheet].items()]

    def _holds(self, tile: Tile, record: TileRecord) -> bool:
        """Whether all of a tile's chunks can be read, and hold the pixels of its record."""
        try:
            read = {layer.name: self.view(record.sheet, layer.name)[tile.rows, tile.cols]
                    for layer in self.layers}
        except (OSError, ValueError, RuntimeError):  # codecs raise the latter two
            return False
        codes, nodata = read["sensor"], {layer.name: layer.nodata for layer in self.layers}
        found = [int(((codes != NO_SENSOR) & (codes != OUTSIDE)).sum()),
                 *(int((read[k] != nodata[k]).sum()) for k in ("map", "confidence"))]
        # without its chunk a tile of gaps would be one outside the area
        return (set(found) == {sum(record.mapped_px.values())}
                and int((codes != OUTSIDE).sum()) == record.area_px)

    def view(self, sheet: str, layer: str) -> SheetView:
        """A layer of a sheet, as an array of the sheet's shape."""
        top, left = self._origin[sheet]
        h, w = self._sheets[sheet].geobox.shape
        return SheetView(self._arrays[sheet][layer], top, left, (h, w))


def finished_tiles(root: Path) -> dict[str, TileRecord]:
    """Records of the tiles that the run below ``root`` has finished, by key."""
    records: dict[str, TileRecord] = {}
    if (root / LOG).exists():
        for line in (root / LOG).read_text().splitlines():
            try:
                record = TileRecord(**json.loads(line))
            except (json.JSONDecodeError, TypeError):
                continue  # the line that a crash cut short: its tile is done again
            if record.status != "failed":
                records[record.key] = record
    return records


def clear(root: Path) -> None:
    """Forget a run: first what says that tiles are finished, then all that it was made from.

    Nothing of it may stay: a run that is killed before it has written its own items, or its own
    level shifts, would be resumed with those of the run before.
    """
    with writing(root):
        for name in (STAMP, LOG):
            (root / name).unlink(missing_ok=True)
        sync(root)
        for entry in root.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != LOCK:
                entry.unlink()


def _link(source: Path, target: Path) -> None:
    """``source`` under another name too, or a copy of it; nothing where it is not there (a chunk
    of nothing but fill has no file)."""
    target.unlink(missing_ok=True)
    if not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, target)


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
        handle = (root / LOCK).open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadRequest(f"another run is writing to {root.parent}",
                             then="wait for it, or choose another --out") from None
        yield
