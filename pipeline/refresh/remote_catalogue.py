"""The product catalogue of a bucket, made from what the bucket holds.

No machine has all versions of all maps. So what the catalogue is made from, a few small JSON files
a version, is gathered from the bucket into a folder that looks like an output root; the catalogue
is made there as on a disk, and uploaded. Two machines may do so at once: whoever is done looks
again, and starts over when the bucket holds other versions than it counted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from pipeline.data.files import atomic_write_bytes, writing
from pipeline.publish.sheets import MANIFEST
from pipeline.refresh.bucket import Bucket, below
from pipeline.refresh.catalogue import INDEX, update
from pipeline.refresh.entries import CATALOG, COLLECTION, ITEM
from pipeline.refresh.models import MODELS
from pipeline.refresh.product import CHANGE
from pipeline.refresh.remote import POINTER
from pipeline.refresh.report import PAGE
from pipeline.refresh.versions import REPORT, VERSIONS, Shelf

_FACTS = (MANIFEST, CHANGE, REPORT)  # of a version; beside the items of its sheets
_ROUNDS = 5  # more machines than these do not finish within one another's seconds

Held = dict[tuple[str, str], tuple[str, tuple[str, ...]]]  # map -> published version, all versions


def publish_catalogue(root: str, work: Path) -> None:
    """Bring the catalogue of a bucket up to date.

    Args:
        root: ``s3://bucket/prefix``.
        work: folder of this machine; what is gathered stays there for the next time.

    Raises:
        DataTrouble: the bucket cannot be reached, or the disk fails.
    """
    bucket, mirror = Bucket(root), work / ".mirror"
    held = _held(bucket)
    for _ in range(_ROUNDS):
        _gather(bucket, mirror, held)
        update(mirror)
        _upload(bucket, mirror, held)
        if (now := _held(bucket)) == held:
            break
        held = now


def _held(bucket: Bucket) -> Held:
    """Maps of the bucket with their published version and all that may be complete ones."""
    found = {}
    for region in bucket.folders():
        if region.startswith((".", "_")):
            continue
        for task in bucket.folders(region):
            place = f"{region}/{task}"
            if current := str(bucket.get_json(f"{place}/{POINTER}").get("version", "")):
                found[region, task] = current, tuple(bucket.folders(f"{place}/{VERSIONS}"))
    return found


def _gather(bucket: Bucket, mirror: Path, held: Held) -> None:
    """Make the mirror of what the bucket holds."""
    for path in mirror.glob("[!._]*/*"):
        if path.is_dir() and (path.parent.name, path.name) not in held:
            shutil.rmtree(path)
    for (region, task), (current, versions) in held.items():
        shelf = Shelf(mirror / region / task)
        for name in {*shelf.versions()} - {*versions}:
            shutil.rmtree(shelf.version(name))
        for name in {*versions} - {*shelf.versions()}:
            _gather_version(bucket, f"{region}/{task}/{VERSIONS}/{name}", shelf.version(name))
        if current in shelf.versions() and shelf.current() != current:
            with writing(shelf.path):
                shelf.point(current)
    for key in bucket.keys(MODELS):
        if not (mirror / key).is_file() and (content := bucket.get(key)) is not None:
            atomic_write_bytes(mirror / key, content)


def _gather_version(bucket: Bucket, prefix: str, folder: Path) -> None:
    """The facts of a complete version; of its rasters only that they are there."""
    if not bucket.exists(f"{prefix}/{REPORT}"):
        return
    stage = folder.with_name(f".{folder.name}")
    shutil.rmtree(stage, ignore_errors=True)
    sheets = [s for s in bucket.folders(prefix) if not s.startswith(".")]
    for key in (*_FACTS, *(f"{s}{'/' if s else ''}item.json" for s in ("", *sheets))):
        if (content := bucket.get(f"{prefix}/{key}")) is not None:
            atomic_write_bytes(stage / key, content)
    with writing(stage):
        if bucket.exists(f"{prefix}/{PAGE}"):
            (stage / PAGE).touch()
        for item in stage.rglob("item.json"):
            item.with_name("map.tif").touch()
        stage.rename(folder)


def _upload(bucket: Bucket, mirror: Path, held: Held) -> None:
    """What the catalogue links to before the links, and what has gone after them."""
    items = [(f"{region}/{task}/{ITEM}", mirror / region / task / ITEM) for region, task in held]
    bucket.upload(_all(items))
    bucket.upload(_all([(MODELS, mirror / MODELS)]))
    collections = [f"{region}/{task}/{COLLECTION}" for region, task in held]
    bucket.upload((key, mirror / key) for key in (*collections, CATALOG, INDEX)
                  if (mirror / key).is_file())
    for prefix, folder in items:
        there = {f"{prefix}/{name}" for name, _ in below(folder)}
        bucket.delete(key for key in bucket.keys(prefix) if key not in there)


def _all(folders: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, Path]]:
    """Keys and paths of all files below folders."""
    for prefix, folder in folders:
        for name, path in below(folder):
            yield f"{prefix}/{name}", path
