"""Whole files or none: what is written appears under its name complete, or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.spec.errors import BadRequest, DataTrouble

HIDDEN = ".wallmap-"  # prefix of the hidden folders that unfinished files live in

# the request named a place that cannot be written to; other errors are the disk's (full, broken)
_WRONG_PLACE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR,
    errno.EEXIST, errno.ENAMETOOLONG,
}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Temporary path on the same disk that takes the place of ``path`` when the block ends well.

    It lies in a hidden folder of its own, so that side files of a library go with it. If the block
    raises (Ctrl-C, too), what ``path`` was before stays as it was.

    Args:
        path: the file to write; missing parent folders are made.

    Raises:
        BadRequest: the place cannot be written to.
        DataTrouble: the disk is full or failing.
    """
    folder = hidden_folder(path.parent)
    try:
        with writing(path):
            yield folder / path.name
            sync(folder / path.name)
            os.replace(folder / path.name, path)
            sync(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def writable_folder(path: Path) -> Path:
    """``path``, made when missing, after a trial write: better to fail before the work than after.

    Raises:
        BadRequest: it cannot be written to.
        DataTrouble: the disk is full or failing.
    """
    hidden_folder(path).rmdir()
    return path


def hidden_folder(parent: Path) -> Path:
    """A new hidden folder in ``parent``, which is made when missing."""
    with writing(parent):
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=HIDDEN, dir=parent))


def remove_leftovers(parent: Path) -> None:
    """Remove the hidden folders that crashed runs left; only for a folder no other run uses."""
    for folder in parent.glob(f"{HIDDEN}*"):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the block's ``OSError`` into one line that names ``path`` and the remedy."""
    try:
        yield
    except OSError as error:
        raise write_trouble(path, error) from error


def write_trouble(path: Path, error: Exception) -> BadRequest | DataTrouble:
    """The user's error for a failed write of ``path``."""
    root: BaseException = error
    while root.__cause__ is not None:  # rasterio's "see previous exception"
        root = root.__cause__
    reason = getattr(root, "strerror", None) or str(root) or type(root).__name__
    if isinstance(error, OSError) and error.errno in _WRONG_PLACE:
        return BadRequest(f"cannot write {path}", got=reason, then="try --out with another folder "
                          "(in a schedule: root, work, metrics)")
    return DataTrouble(
        f"could not write {path}", got=reason,
        then=f"{_free_mb(path)} MB are free there; make room and type the command again "
        "(pipeline.map: with --resume)",
    )


def atomic_write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all (see ``replacing``)."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def atomic_write_text(path: Path, content: str) -> None:
    """Write UTF-8 text whole or not at all (see ``replacing``)."""
    atomic_write_bytes(path, content.encode())


def atomic_write_json(path: Path, content: Any) -> None:
    """Write strict JSON (no NaN), indented, whole or not at all (see ``replacing``)."""
    atomic_write_text(
        path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    )


def sync(path: Path) -> None:
    """Force a file, or a folder's entries, to the disk: a rename alone survives no power cut."""
    if path.is_dir() and os.name != "posix":
        return  # Windows cannot open folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _free_mb(path: Path) -> int:
    folder = next((p for p in (path, *path.absolute().parents) if p.is_dir()), Path.cwd())
    return shutil.disk_usage(folder).free // 2**20
