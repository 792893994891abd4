"""Refreshes that publish into a bucket, in a few milliseconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.refresh.bucket import Bucket
from pipeline.refresh.remote import POINTER, mirrored
from pipeline.refresh.versions import Shelf
from tests.support.versions import result, write_version

IDS = [f"2023110{k}T030000Z" for k in range(1, 8)]


def unnamed(folder: Path) -> Path:
    """A version without a name."""
    write_version(folder, np.array([[0, 1]]), np.array([[99, 99]]))
    chunk = folder / ".run" / "store.zarr" / "c" / "0"
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes(b"tile")
    return folder


def refresher(root: str, template: Path) -> Callable[..., Shelf]:
    """A refresh on a machine of its own work folder, in a few milliseconds."""

    def go(work: Path, name: str, *, region: str = "demo", tier: str = "provisional",
           keep: int = 3) -> Shelf:
        shelf = Shelf(work / region / "cropland")
        with mirrored(root, region, "cropland", shelf, keep, 0) as mirror:
            mirror.catch_up()
            if name:
                made(shelf, template, name, region, tier)
        return shelf

    return go


def made(shelf: Shelf, template: Path, name: str, region: str = "demo",
         tier: str = "provisional") -> None:
    """A version, promoted as a refresh does it."""
    stage = shelf.open_stage(name)
    for path in template.rglob("*"):
        if path.is_file():
            target = stage / path.relative_to(template)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    told = result(region=region, version=name, previous=shelf.current(), tier=tier)
    (stage / "report.json").write_text(json.dumps(told.to_json()))
    shelf.promote(stage, told)


def read(root: str, region: str = "demo") -> tuple[str, list[str]]:
    """What a reader finds: the published version and the names of its files."""
    found = Bucket(f"{root}/{region}/cropland")
    name = found.get_json(POINTER).get("version", "")
    prefix = f"versions/{name}/"
    return name, [k.removeprefix(prefix) for k in found.keys(prefix.rstrip("/"))] if name else []
