"""The checkpoints that made the maps, kept beside them and described by STAC (extension mlm).

A map can then be made again after its checkpoint was replaced, and says what it came from: a map's
item is ``derived_from`` the item of its checkpoint, as the extension recommends.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipeline.data.checkpoints import CARD, WEIGHTS, find_checkpoint
from pipeline.data.files import atomic_write_json, hidden_folder, writing
from pipeline.publish.item import file_facts
from pipeline.spec.card import CheckpointCard
from pipeline.spec.errors import PipelineError
from pipeline.spec.tasks import task as task_of

MODELS = "_models"  # no region's name begins like this
# v1.4.0: the newest that pystac reads
MLM_EXTENSION = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
_FILE_EXTENSION = "https://stac-extensions.github.io/file/v2.1.0/schema.json"


def keep_model(root: Path, manifest: Mapping[str, Any]) -> str:
    """Keep the checkpoint of a map below the root, unless it is there; returns the href of its
    item relative to the root, or nothing where the checkpoint is no longer to be had.

    Raises:
        BadRequest, DataTrouble: it cannot be written.
    """
    digest = str(manifest["card"]["sha256"])
    name = f"{task_of(manifest['request']['task']).key}-{digest[:12]}"
    folder = root / MODELS / name
    href = f"{MODELS}/{name}/item.json"
    if (folder / "item.json").is_file():
        return href
    source = _source(str(manifest["request"]["checkpoint"]), digest)
    if source is None:
        return ""
    card = CheckpointCard.from_json(json.loads((source / CARD).read_text()))
    stage = hidden_folder(root / MODELS)
    try:
        with writing(folder):
            for file in (CARD, WEIGHTS):
                shutil.copyfile(source / file, stage / file)
            atomic_write_json(stage / "item.json", _item(stage, name, card))
            stage.chmod(0o755)
            stage.rename(folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return href


def drop_models(root: Path, used: Collection[str]) -> None:
    """Delete the checkpoints that no version needs any more.

    Args:
        root: of the output.
        used: hrefs of ``keep_model``.
    """
    for path in (root / MODELS).glob("*/item.json"):
        if path.relative_to(root).as_posix() not in used:
            shutil.rmtree(path.parent, ignore_errors=True)


def _source(checkpoint: str, digest: str) -> Path | None:
    """Folder of the checkpoint, or of the student in it, whose weights have that SHA-256; None
    where another one has taken its place, or none."""
    try:
        found = find_checkpoint(checkpoint)
        for folder in (found, found / "fast"):
            weights = folder / WEIGHTS
            if weights.is_file() and hashlib.sha256(weights.read_bytes()).hexdigest() == digest:
                return folder
    except (PipelineError, OSError):
        return None
    return None


def model_collection(root: Path) -> dict[str, Any]:
    """The collection of the checkpoints that are kept; empty when there is none."""
    names = sorted(p.parent.name for p in (root / MODELS).glob("*/item.json")
                   if not p.parent.name.startswith("."))
    if not names:
        return {}
    return {
        "type": "Collection", "stac_version": "1.1.0", "stac_extensions": [], "id": "models",
        "title": "Checkpoints", "description": "The checkpoints that made the maps.",
        "license": "other",
        "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]},
                   "temporal": {"interval": [["2014-01-01T00:00:00Z", None]]}},
        "links": [
            {"rel": rel, "href": "../catalog.json", "type": "application/json"}
            for rel in ("root", "parent")
        ] + [
            {"rel": "item", "href": f"./{name}/item.json", "type": "application/geo+json"}
            for name in names
        ],
    }


def _item(folder: Path, name: str, card: CheckpointCard) -> dict[str, Any]:
    """STAC item of a checkpoint; what it learned from may lie anywhere, so it has no place."""
    task = task_of(card.task)
    kind = "regression" if not task.classes else "classification"
    classes = [{"value": c.code, "name": re.sub(r"[^0-9A-Za-z-_]", "-", c.name),
                "description": c.name} for c in task.classes]
    return {
        "type": "Feature", "stac_version": "1.1.0",
        "stac_extensions": [MLM_EXTENSION, _FILE_EXTENSION],
        "id": name, "collection": "models", "geometry": None,
        "properties": {
            "title": f"{card.name} ({card.method}, {card.encoder})",
            "description": " ".join(card.notes) or f"Checkpoint {card.name}.",
            "datetime": None, "start_datetime": "2014-01-01T00:00:00Z",
            "end_datetime": "9999-12-31T23:59:59Z",
            "mlm:name": _mlm_name(card.name), "mlm:architecture": f"{card.method} {card.encoder}",
            "mlm:framework": "PyTorch", "mlm:tasks": [kind],
            "mlm:input": [
                {
                    "name": sensor, "bands": [],
                    "description": "Monthly composites: " + ", ".join(
                        (*entry.features, *entry.context, *entry.static)),
                    "input": {"shape": [-1, card.steps, entry.channels],
                              "dim_order": ["batch", "time", "channel"], "data_type": "float32"},
                }
                for sensor, entry in card.sensors.items()
            ],
            "mlm:output": [{
                "name": task.title, "tasks": [kind], "bands": [],
                "result": {"shape": [-1, max(len(classes), 1)], "dim_order": ["batch", "class"],
                           "data_type": "float32"},
                **({"classification:classes": classes} if classes else {}),
            }],
            "wallmap:card_sha256": card.sha256,
        },
        "links": [
            {"rel": "root", "href": "../../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../collection.json", "type": "application/json"},
            {"rel": "collection", "href": "../collection.json", "type": "application/json"},
        ],
        "assets": {
            "model": {"href": f"./{WEIGHTS}", "type": "application/octet-stream",
                      "title": "Weights", "roles": ["mlm:model", "mlm:weights"],
                      "mlm:artifact_type": "safetensors.torch.save_file",
                      **file_facts(folder / WEIGHTS)},
            "card": {"href": f"./{CARD}", "type": "application/json", "title": "Card",
                     "roles": ["metadata"], **file_facts(folder / CARD)},
        },
    }


def _mlm_name(name: str) -> str:
    """A name as the extension wants it: it begins with a letter and ends with one or a digit."""
    plain = re.sub(r"[^0-9A-Za-z_.-]", "-", name).strip("._-")
    return plain if re.fullmatch(r"[A-Za-z].+", plain) else f"model-{plain or 'unnamed'}"
