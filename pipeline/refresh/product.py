"""A finished version of a map, as it lies in a folder: manifest, sheets, record of its refresh."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.publish.sheets import MANIFEST
from pipeline.spec.errors import DataTrouble
from pipeline.spec.tasks import Task
from pipeline.spec.tasks import task as task_of

CHANGE = "change.json"  # summary of what changed, beside change.tif


@dataclass(frozen=True)
class Product:
    """One version of a map.

    Attributes:
        folder: of the version.
        manifest: as ``pipeline.map`` wrote it.
        task: what is mapped.
        sheets: name -> folder of its COGs.
    """

    folder: Path
    manifest: Mapping[str, Any]
    task: Task
    sheets: Mapping[str, Path]

    @classmethod
    def open(cls, folder: Path) -> Product:
        """The version in a folder.

        Raises:
            DataTrouble: there is no whole map.
        """
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            task = task_of(manifest["request"]["task"])
            names = sorted({str(tile["sheet"]) for tile in manifest["tiles"]})
            files = set(manifest["files"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataTrouble(f"{folder} holds no finished map", got=str(error)) from None
        # a single sheet's files lie in the folder itself (``publish.sheets``)
        sheets = {name: folder / name if f"{name}/map.tif" in files else folder for name in names}
        if not sheets or not all((f / "map.tif").is_file() for f in sheets.values()):
            raise DataTrouble(f"{folder} holds no finished map", got="map.tif is missing")
        return cls(folder, manifest, task, sheets)


def is_whole(folder: Path) -> bool:
    """Whether a version has all files that its manifest names; nobody but people takes one away."""
    try:
        product = Product.open(folder)
    except DataTrouble:
        return False
    return all((folder / str(name)).is_file() for name in product.manifest["files"])


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file; empty where there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
