"""The product catalogue: static STAC that is browsed without a server, and an index beside it.

``ROOT/catalog.json`` -> ``REGION/TASK/collection.json`` -> ``REGION/TASK/items/*.json``, and
``ROOT/index.parquet`` (stac-geoparquet) with all items. It holds nothing of its own: everything is
made again from the versions that there are, so that a catalogue that a crash left half updated is
whole after the next refresh. Items come first and links to them after, and what has gone is
unlinked before it is deleted, so that no link leads nowhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import stac_geoparquet.arrow

from pipeline.data.files import atomic_write_bytes, replacing, writing
from pipeline.refresh.entries import (
    CATALOG,
    COLLECTION,
    ITEM,
    TO_ROOT,
    Json,
    Version,
    catalog_entry,
    collection_entry,
    item_entry,
    item_name,
    moved,
)
from pipeline.refresh.models import MODELS, drop_models, keep_model, model_collection
from pipeline.refresh.product import Product, read_json
from pipeline.refresh.result import RefreshResult
from pipeline.refresh.versions import Shelf, report_of
from pipeline.spec.errors import BadRequest, DataTrouble

INDEX = "index.parquet"


def update(root: Path) -> None:
    """Bring the catalogue of an output root up to date. One process at a time.

    Args:
        root: with ``REGION/TASK/versions/ID`` below it.

    Raises:
        BadRequest: it cannot be written to.
        DataTrouble: the disk is full or failing.
    """
    collections: list[tuple[str, Json]] = []
    index: list[Json] = []
    for path in _shelves(root):
        items, collection = _entries(root, path)
        if not collection:
            continue
        place = path.relative_to(root)
        for name, item in items:
            _put(path / ITEM / f"{name}.json", item)
            index.append(moved(item, place))
        _put(path / COLLECTION, collection)
        _sweep(path / ITEM, {name for name, _ in items})
        collections.append((f"./{place.as_posix()}/{COLLECTION}", collection))
    drop_models(root, {link["href"] for item in index for link in item["links"]})
    if models := model_collection(root):
        _put(root / MODELS / COLLECTION, models)
        collections.append((f"./{MODELS}/{COLLECTION}", models))
    _put(root / CATALOG, catalog_entry(collections))
    _write_index(root / INDEX, index)


def _shelves(root: Path) -> Iterator[Path]:
    """Folders ``REGION/TASK`` with a published version."""
    for path in sorted(root.glob("*/*")):
        if path.is_dir() and not path.parent.name.startswith((".", "_")) and Shelf(path).current():
            yield path


def _entries(root: Path, path: Path) -> tuple[list[tuple[str, Json]], Json]:
    """Names and items of all versions of a map, oldest first, and its collection."""
    shelf = Shelf(path)
    versions = [v for name in shelf.versions() if (v := _version(shelf, name))]
    current = shelf.current()
    published = next((v for v in versions if v.result.version == current), None)
    if published is None:
        return [], {}
    items = []
    for k, version in enumerate(versions):
        model = keep_model(root, version.product.manifest)
        for sheet in version.items:
            neighbours = {
                "predecessor-version": _nearest(reversed(versions[:k]), sheet),
                "successor-version": _nearest(versions[k + 1 :], sheet),
                "latest-version": current if sheet in published.items else "",
            }
            item = item_entry(version, sheet, neighbours, f"{TO_ROOT}{model}" if model else "")
            items.append((item_name(version.result.version, sheet), item))
    return items, collection_entry(published, items)


def _version(shelf: Shelf, name: str) -> Version | None:
    """A version; None when it has gone meanwhile (another refresh prunes) or is not whole."""
    folder = shelf.version(name)
    try:
        result, product = RefreshResult.from_json(report_of(folder)), Product.open(folder)
    except (BadRequest, DataTrouble):
        return None
    items = {sheet: read_json(path / "item.json") for sheet, path in product.sheets.items()}
    return Version(product, result, items) if all(items.values()) else None


def _nearest(versions: Iterable[Version], sheet: str) -> str:
    """Id of the first version that has a sheet; empty where none does."""
    return next((v.result.version for v in versions if sheet in v.items), "")


def _put(path: Path, entry: Json) -> None:
    """Write a document whole, and only where it has changed: copies of the catalogue elsewhere
    need not be copied again."""
    content = (json.dumps(entry, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    if not path.is_file() or path.read_bytes() != content:
        atomic_write_bytes(path, content)


def _sweep(folder: Path, names: set[str]) -> None:
    """Delete items of versions that are no more."""
    with writing(folder):
        for path in folder.glob("*.json"):
            if path.stem not in names:
                path.unlink(missing_ok=True)


def _write_index(path: Path, items: list[Json]) -> None:
    """The index, whole; none where there is no item."""
    if not items:
        with writing(path):
            path.unlink(missing_ok=True)
        return
    with replacing(path) as temporary:
        batches = stac_geoparquet.arrow.parse_stac_items_to_arrow(items)
        stac_geoparquet.arrow.to_parquet(batches, temporary)
