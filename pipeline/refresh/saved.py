"""What a run has finished, kept in the bucket too while it goes on: a machine may be lost.

``unfinished/ID/`` holds what the run store has that the published version has not: the chunks of
the tiles that were made, then the log that names them. The next refresh, on whatever machine, finds
there what it finds on a disk that was not lost, and takes the tiles over (``carry``).
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress

from pipeline.data.files import writing
from pipeline.infer.store import LOG, STAMP, STORE, RunStore
from pipeline.mapping import STATE
from pipeline.refresh.bucket import Bucket
from pipeline.refresh.versions import REPORT, TRASH, VERSIONS, Shelf
from pipeline.spec.errors import DataTrouble
from pipeline.spec.grid import Tile

UNFINISHED = "unfinished"
SAVE_S = 30.0  # what was finished since the last save is all that a lost machine costs


class Saver:
    """Saves the finished tiles of one run until it is stopped.

    Args:
        bucket: of the map.
        name: of the version that is being made.
        store: of the run.
        tiles: that are to be made, by key; what was carried over is in the bucket already.
    """

    def __init__(self, bucket: Bucket, name: str, store: RunStore, tiles: Mapping[str, Tile]
                 ) -> None:
        self._bucket, self._place = bucket, f"{UNFINISHED}/{name}"
        self._store, self._tiles = store, tiles
        self._saved: dict[str, str] = {}  # key -> its line in the log
        self._whole = False  # everything that is finished is saved
        self._end = threading.Event()
        self._saving = threading.Thread(target=self._loop, name="saver", daemon=True)
        self._saving.start()

    def stop(self) -> None:
        """Save what is left, and end; what earlier runs had left is a part of it now."""
        self._end.set()
        self._saving.join()
        if self._whole:
            with suppress(DataTrouble):  # it does no harm
                forget(self._bucket, self._place)

    def _loop(self) -> None:
        while True:
            ended = self._end.wait(SAVE_S)
            self._whole = False
            # a network that is away: the next time; a run that is promoted: it is done with
            with suppress(DataTrouble, OSError):
                self._save()
                self._whole = True
            if ended:
                return

    def _save(self) -> None:
        root, done = self._store.root, self._store.done()
        (root / STAMP).stat()  # no run is here any more: then nothing can be said of it
        fresh = [key for key in self._tiles if key in done and key not in self._saved]
        if not fresh:
            return
        names = [f"{STORE}/{name}" for key in fresh
                 for name in self._store.chunks(self._tiles[key], done[key].sheet)]
        if not self._saved:  # what says of which run they are
            names += [p.relative_to(root).as_posix()
                      for p in (*root.glob("*.json"), *(root / STORE).rglob("zarr.json"))]
        self._bucket.upload((f"{self._place}/{STATE}/{name}", root / name)
                            for name in names if (root / name).is_file())
        lines = {key: json.dumps(dataclasses.asdict(done[key])) + "\n" for key in fresh}
        text = "".join([*self._saved.values(), *lines.values()])
        self._bucket.put(f"{self._place}/{STATE}/{LOG}", text.encode())
        self._saved |= lines


def restore(bucket: Bucket, shelf: Shelf) -> None:
    """Bring what lost machines have left into the working folder, as if they had worked here."""
    for name in bucket.folders(UNFINISHED):
        place = f"{UNFINISHED}/{name}"
        known = (shelf.stage(name).exists() or shelf.version(name).exists()  # not uploaded yet
                 or bucket.exists(f"{VERSIONS}/{name}/{REPORT}"))
        if not known and bucket.exists(f"{place}/{STATE}/{LOG}"):
            fetch(bucket, place, shelf, shelf.stage(name).name)


def forget(bucket: Bucket, but: str = "") -> None:
    """Delete what was kept, except one place: it has been published, refused or taken over."""
    for place in (f"{UNFINISHED}/{name}" for name in bucket.folders(UNFINISHED)):
        if place != but:
            bucket.delete([f"{place}/{STATE}/{LOG}"])  # from now on there is nothing
            bucket.delete(bucket.keys(place))


def fetch(bucket: Bucket, place: str, shelf: Shelf, name: str) -> None:
    """Download a folder of the bucket aside, then rename it into place below ``versions``."""
    aside = shelf.folder / f"{TRASH}{uuid.uuid4().hex}"  # ``Shelf.tidy`` clears it after a kill
    try:
        with writing(aside):
            aside.mkdir(parents=True)
            bucket.download((key, aside / key.removeprefix(f"{place}/"))
                            for key in bucket.keys(place))
            os.rename(aside, shelf.folder / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
