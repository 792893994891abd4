"""STAC entries of the product catalogue: an item a version and sheet, a collection a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.publish.item import COG_TYPE
from pipeline.refresh.product import CHANGE, Product, read_json
from pipeline.refresh.report import PAGE
from pipeline.refresh.result import RefreshResult
from pipeline.refresh.versions import REPORT, VERSIONS
from pipeline.spec.layers import layers_of

STAC = "1.1.0"
VERSION_EXTENSION = "https://stac-extensions.github.io/version/v1.2.0/schema.json"
ITEM, COLLECTION, CATALOG = "items", "collection.json", "catalog.json"
TO_ROOT = "../../../"  # from an item's file
_GEOJSON, _JSON = "application/geo+json", "application/json"

Json = dict[str, Any]


@dataclass(frozen=True)
class Version:
    """One version of a map, as far as the catalogue tells of it.

    Attributes:
        product: files and manifest.
        result: of the refresh that made it.
        items: sheet -> the map's own STAC item.
    """

    product: Product
    result: RefreshResult
    items: Mapping[str, Json]


def link(rel: str, href: str, title: str = "") -> Json:
    """A link to a STAC document of ours."""
    kind = _GEOJSON if rel in ("item", "derived_from") or rel.endswith("-version") else _JSON
    return {"rel": rel, "href": href, "type": kind, **({"title": title} if title else {})}


def item_name(version: str, sheet: str) -> str:
    """Name of an item's file, without ``.json``."""
    return f"{version}-{sheet}"


def item_entry(
    version: Version, sheet: str, neighbours: Mapping[str, str], model: str
) -> Json:
    """The catalogue's item of one sheet of a version: what the map's own item says, and its place
    in the history.

    Args:
        version: of the map.
        sheet: name.
        neighbours: version ids by relation: ``predecessor-version``, ``successor-version``,
            ``latest-version`` (the published one); only versions that have the sheet.
        model: href of the model's item; empty where it is not known.
    """
    product, result, made = version.product, version.result, version.items[sheet]
    folder, name = product.sheets[sheet], result.version
    below = f"../{VERSIONS}/{name}"
    own = below if folder == product.folder else f"{below}/{folder.name}"
    change = read_json(product.folder / CHANGE)
    assets = {
        key: {**asset, "href": f"{own}/{asset['href'].removeprefix('./')}"}
        for key, asset in {**made["assets"], **change.get("assets", {}).get(sheet, {})}.items()
    }
    if (product.folder / PAGE).is_file():
        assets["report"] = {"href": f"{below}/{PAGE}", "type": "text/html", "roles": ["metadata"],
                            "title": "What this refresh changed, and why"}
    assets["record"] = {"href": f"{below}/{REPORT}", "type": _JSON, "roles": ["metadata"],
                        "title": "The refresh, for machines"}
    inputs = [link_ for link_ in made["links"] if link_["rel"] == "derived_from"]
    return {
        **made,
        "id": f"{result.region}-{result.task}-{item_name(name, sheet)}",
        "collection": f"{result.region}-{result.task}",
        "stac_extensions": [*made["stac_extensions"], VERSION_EXTENSION],
        "properties": {
            **made["properties"], "version": name,
            "deprecated": neighbours["latest-version"] != name,
            "wallmap:region": result.region, "wallmap:tier": result.tier,
            "wallmap:tiles_recomputed": result.tiles.recomputed,
            "wallmap:tiles_carried": result.tiles.carried,
            **{f"wallmap:{key}": change[key] for key in ("changed_share", "significant_share")
               if key in change},
        },
        "links": [
            link("root", f"{TO_ROOT}{CATALOG}"), link("parent", f"../{COLLECTION}"),
            link("collection", f"../{COLLECTION}"),
            *(link(rel, f"./{item_name(other, sheet)}.json", other)
              for rel, other in neighbours.items() if other and other != name),
            *([link("derived_from", model, "the checkpoint that made the map")] if model else []),
            *inputs,
        ],
        "assets": assets,
    }


def collection_entry(version: Version, items: Sequence[tuple[str, Json]]) -> Json:
    """The collection of a region and task.

    Args:
        version: the published one.
        items: file name and item of every version and sheet, oldest first.
    """
    task, result = version.product.task, version.result
    boxes = [item["bbox"] for _, item in items]
    whole = [min(b[0] for b in boxes), min(b[1] for b in boxes),
             max(b[2] for b in boxes), max(b[3] for b in boxes)]
    first = min(item["properties"]["start_datetime"] for _, item in items)
    last = max(item["properties"]["end_datetime"] for _, item in items)
    return {
        "type": "Collection", "stac_version": STAC, "stac_extensions": [VERSION_EXTENSION],
        "id": f"{result.region}-{result.task}",
        "title": f"{task.title}, {result.region}",
        "description": f"{task.title} of {result.region} at {task.pixel_m} m, kept current: each "
                       "item is a version of the map; the newest one that was found sound is the "
                       f"latest-version. Published now: {result.version} ({result.tier}).",
        "keywords": [task.key, result.region, "sentinel-1", "sentinel-2", "landsat"],
        "license": "other", "version": result.version,
        "extent": {"spatial": {"bbox": [whole]},
                   "temporal": {"interval": [[first, last]]}},
        "summaries": {
            "wallmap:tier": sorted({i["properties"]["wallmap:tier"] for _, i in items}),
            "proj:code": sorted({i["properties"]["proj:code"] for _, i in items}),
            "gsd": [task.pixel_m],
        },
        "item_assets": {layer.name: {"title": layer.title, "type": COG_TYPE}
                        for layer in layers_of(task)},
        "assets": {"thumbnail": {
            "href": f"./{VERSIONS}/{result.version}/preview.png", "type": "image/png",
            "roles": ["thumbnail"], "title": "The published map"}},
        "links": [
            link("root", f"../../{CATALOG}"), link("parent", f"../../{CATALOG}"),
            *(link("item", f"./{ITEM}/{name}.json", name) for name, _ in reversed(items)),
        ],
    }


def catalog_entry(collections: Sequence[tuple[str, Json]]) -> Json:
    """The root: one child a map, and the models that made them."""
    return {
        "type": "Catalog", "stac_version": STAC, "id": "wallmap",
        "title": "Maps that are kept current",
        "description": "Wall-to-wall maps from whichever satellite sensor is there, one collection "
                       "a region and task.",
        "links": [
            link("root", f"./{CATALOG}"),
            *(link("child", href, entry["title"]) for href, entry in collections),
        ],
    }


def moved(item: Json, folder: Path) -> Json:
    """An item for the index at the root: hrefs relative to there.

    Args:
        item: of ``item_entry``.
        folder: ``REGION/TASK``, relative to the root.
    """
    assets = {name: {**asset, "href": f"./{folder.as_posix()}/{asset['href'].removeprefix('../')}"}
              for name, asset in item["assets"].items()}
    # the index says what a search may want; Parquet knows no empty structure
    kept = {key: value for key, value in item["properties"].items() if not isinstance(value, dict)}
    links = [{**one, "href": one["href"].removeprefix(TO_ROOT)} for one in item["links"]
             if one["rel"] == "derived_from"]
    return {**item, "assets": assets, "properties": kept, "links": links}
