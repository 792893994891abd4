"""Checkpoints on disk: a folder with ``model.safetensors`` and ``card.json``. Never pickle."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline.spec.card import CheckpointCard
from pipeline.spec.errors import BadRequest

STORE = Path(__file__).resolve().parents[2] / "models" / "checkpoints"
WEIGHTS, CARD = "model.safetensors", "card.json"
STUDENT = "fast"  # folder in a checkpoint's, with the checkpoint of its student

# Far above any checkpoint of this project: a wrong file is refused before it fills the memory.
MAX_WEIGHTS, MAX_CARD = 1 << 30, 1 << 22  # bytes


def checkpoint_names() -> tuple[str, ...]:
    """Names of the checkpoints that ship with the project."""
    return tuple(sorted(p.parent.name for p in STORE.glob(f"*/{CARD}")))


def find_checkpoint(path_or_name: str | os.PathLike[str]) -> Path:
    """Folder of a checkpoint: a path first, then a shipped name.

    Args:
        path_or_name: folder, one of its two files, or a name.

    Raises:
        BadRequest: neither; the message lists the names.
    """
    text = os.fspath(path_or_name)
    path = Path(text)
    if path.is_file() and path.name in (WEIGHTS, CARD):
        path = path.parent
    if (path / CARD).is_file():
        return path
    if text in checkpoint_names():  # a name is no path: nothing outside the store is reached
        return STORE / text
    raise BadRequest("no such checkpoint", got=text,
                     allowed=f"a folder with {CARD}, or one of: {', '.join(checkpoint_names())}",
                     then="train one with python -m pipeline.train")


def load_checkpoint(
    path_or_name: str | os.PathLike[str], *, student: bool = False,
) -> tuple[CheckpointCard, dict[str, np.ndarray]]:
    """Card and weights by name.

    Args:
        path_or_name: see ``find_checkpoint``.
        student: those of its student, a checkpoint of its own in the folder ``fast``.

    Raises:
        BadRequest: not found, truncated, altered, foreign, or of another feature path; or it has no
            student, or one of another teacher.
    """
    folder = find_checkpoint(path_or_name)
    if student:
        folder = _student_of(folder)
    card = _card(folder)
    raw = _bytes(folder / WEIGHTS, MAX_WEIGHTS)
    digest = hashlib.sha256(raw).hexdigest()
    if digest != card.sha256:
        raise _damaged(folder / WEIGHTS, "is not the file of its card (truncated or replaced)",
                       got=f"sha256 {digest[:12]}", allowed=str(card.sha256)[:12])
    try:
        return card, load(raw)
    except (SafetensorError, KeyError, ValueError) as error:
        raise _damaged(folder / WEIGHTS, "is not a safetensors file", got=str(error)) from None


def _card(folder: Path) -> CheckpointCard:
    try:
        return CheckpointCard.from_json(json.loads(_bytes(folder / CARD, MAX_CARD)))
    except (ValueError, RecursionError):
        raise _damaged(folder / CARD, "is not JSON") from None


def _student_of(folder: Path) -> Path:
    """Folder of a checkpoint's student; one that learned from other weights is left behind from an
    earlier training, and would not map as its teacher does."""
    own, then = folder / STUDENT, "teach it one: python -m pipeline.train ... --student"
    if not (own / CARD).is_file():
        raise BadRequest("this checkpoint has no student", got="--speed fast",
                         allowed="exact, default", then=then)
    learned_from, teacher = _card(own).teacher.get("sha256"), _card(folder).sha256
    if learned_from not in (None, teacher):
        raise BadRequest("the checkpoint's student learned from another one",
                         got=f"sha256 {str(learned_from)[:12]}", allowed=teacher[:12], then=then)
    return own


def save_checkpoint(
    folder: str | os.PathLike[str], card: CheckpointCard, arrays: Mapping[str, np.ndarray]
) -> CheckpointCard:
    """Write both files beside their names and rename them into place, the card last.

    Args:
        folder: made where missing; other files in it are left alone.
        card: its ``sha256`` is filled in here.
        arrays: weights by name.

    Returns:
        The card as written.

    Raises:
        BadRequest: the folder cannot be written.
    """
    path = Path(folder)
    raw = save({k: np.ascontiguousarray(v) for k, v in arrays.items()})
    card = dataclasses.replace(card, sha256=hashlib.sha256(raw).hexdigest())
    text = json.dumps(card.to_json(), indent=2, allow_nan=False) + "\n"
    parts = [(path / WEIGHTS, raw), (path / CARD, text.encode())]
    partial = [target.with_name(f".{target.name}.partial") for target, _ in parts]
    try:
        path.mkdir(parents=True, exist_ok=True)
        for temporary, (_, content) in zip(partial, parts, strict=True):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for temporary, (target, _) in zip(partial, parts, strict=True):
            os.replace(temporary, target)
    except OSError as error:
        raise BadRequest(f"cannot write the checkpoint {path}", got=str(error),
                         then="choose another --out") from None
    finally:
        for temporary in partial:  # gone already when all went well
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    return card


def _bytes(path: Path, limit: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > limit:
            raise _damaged(path, "is too large for a checkpoint", got=f"{size} bytes",
                           allowed=f"up to {limit}")
        return path.read_bytes()
    except OSError as error:
        raise _damaged(path, "cannot be read", got=error.strerror) from None


def _damaged(path: Path, what: str, got: str | None = None, allowed: str = "") -> BadRequest:
    return BadRequest(f"{path} {what}", got=got, allowed=allowed,
                      then="get the checkpoint again or train it with python -m pipeline.train")
