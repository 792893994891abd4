"""A sheet's files appear in the target folder complete and in order, its STAC item last."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.data.files import hidden_folder, remove_leftovers, sync, writing
from pipeline.spec.errors import DataTrouble


def open_stage(target: Path) -> Path:
    """A new hidden folder inside ``target``, on its disk, to make a sheet's files in.

    What a crashed run left in hidden folders there is removed.

    Raises:
        BadRequest: ``target`` cannot be made or written to.
        DataTrouble: the disk is full or failing.
    """
    remove_leftovers(target)
    return hidden_folder(target)


def promote(stage: Path, target: Path, names: Sequence[str]) -> None:
    """Rename a stage's finished files into ``target`` one by one, then remove the stage.

    The last name is the sheet's STAC item, which stands for "complete": an older one is removed
    first and the new one comes last, so that at no moment an item names a mixture of two maps.

    Args:
        stage: of ``open_stage(target)``.
        target: folder of the sheet.
        names: file names, in order; the item last.

    Raises:
        DataTrouble: a file is missing from the stage (nothing is renamed), or the disk fails.
        BadRequest: ``target`` cannot be written to.
    """
    missing = [name for name in names if not (stage / name).is_file()]
    if missing:
        raise DataTrouble(f"unfinished files for {target}", got=", ".join(missing),
                          then="type the command again with --resume")
    with writing(target):
        for name in names:
            sync(stage / name)
        (target / names[-1]).unlink(missing_ok=True)
        for name in names:
            os.replace(stage / name, target / name)
        sync(target)
    shutil.rmtree(stage, ignore_errors=True)
