"""Writing the whole sandbox: all products, the static catalogue, the item table, the truth."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import stac_geoparquet.arrow
from tqdm.auto import tqdm

from pipeline.sandbox.acquire import stage, write_product
from pipeline.sandbox.items import COLLECTION
from pipeline.sandbox.layers import LAYER_COLLECTION, write_layers
from pipeline.sandbox.params import SandboxParams
from pipeline.sandbox.schedule import products, zones
from pipeline.sandbox.truth import write_truth
from pipeline.spec.errors import BadRequest

VERSION = 2  # raise it whenever equal parameters would give other files
PARAMETERS = "sandbox.json"
_TITLE = {"s1": "Simulated Sentinel-1 RTC", "s2": "Simulated Sentinel-2 L2A",
          "l8": "Simulated Landsat Collection 2 Level-2", "dem": "Simulated Copernicus DEM GLO-30",
          "landcover": "Simulated ESA WorldCover"}
_FOLDER = COLLECTION | LAYER_COLLECTION


def write(out: Path, params: SandboxParams, progress: bool = False) -> Path:
    """Write a sandbox, or find the finished one with the same parameters.

    Everything is written into a hidden folder beside ``out`` and renamed when complete. A sandbox
    of other parameters at ``out`` is replaced, with whatever was put into its folder since.

    Args:
        out: folder of the sandbox.
        params: its parameters.
        progress: show a progress bar.

    Returns:
        Path of ``catalog.json``.

    Raises:
        BadRequest: ``out`` is there and not a sandbox, or cannot be written.
    """
    out = Path(out).absolute()
    if _recorded(out) == _record(params):
        return out / "catalog.json"
    if out.exists() and _recorded(out) is None and (not out.is_dir() or any(out.iterdir())):
        raise BadRequest("the output folder is there and is not a sandbox", got=str(out),
                         then="give another folder to --out")
    try:
        _write_whole(out, params, progress)
    except OSError as error:
        raise BadRequest("the output folder cannot be written", got=str(out),
                         then=f"{error.strerror or error}: give another folder to --out"
                         ) from error
    return out / "catalog.json"


def _write_whole(out: Path, params: SandboxParams, progress: bool) -> None:
    """All or nothing: work in a hidden folder beside ``out``, rename it at the end."""
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        work.chmod(0o755)  # mkdtemp makes it private
        items = _write_products(work, params, progress) | write_layers(params, work)
        _write_catalogue(work, params, items)
        _write_table(work, items)
        write_truth(params, work)
        (work / PARAMETERS).write_text(json.dumps(_record(params), indent=1))
        _put(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _record(params: SandboxParams) -> dict[str, Any]:
    fields = dataclasses.asdict(params)
    del fields["workers"]
    return {"version": VERSION, "params": fields}


def _recorded(out: Path) -> dict[str, Any] | None:
    """What is recorded of the sandbox at ``out``; None where there is none."""
    try:
        found = json.loads((out / PARAMETERS).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _put(work: Path, out: Path) -> None:
    old = work.with_name(work.name + "-old")
    if out.exists():
        os.rename(out, old)
    os.rename(work, out)
    shutil.rmtree(old, ignore_errors=True)


def _write_products(out: Path, params: SandboxParams, progress: bool
                    ) -> dict[str, list[dict[str, Any]]]:
    jobs = {(s, z): products(params, s, z) for s in COLLECTION for z in zones(params)}
    total = sum(map(len, jobs.values()))
    items: dict[str, list[dict[str, Any]]] = {s: [] for s in COLLECTION}
    with (
        tqdm(total=total, desc="demo region", unit="scene", disable=not progress) as bar,
        ThreadPoolExecutor(params.workers) as pool,
    ):
        for (sensor, zone), todo in jobs.items():
            at = stage(params, sensor, zone)
            for found in pool.map(lambda p, at=at: write_product(at, p, out), todo):
                items[sensor].append(found)
                bar.update()
    return items


def _write_catalogue(out: Path, params: SandboxParams, items: dict[str, list[dict[str, Any]]]
                     ) -> None:
    for sensor, found in items.items():
        name = _FOLDER[sensor]
        _dump(out / name / "collection.json", {
            "type": "Collection", "id": name, "stac_version": "1.0.0", "stac_extensions": [],
            "title": _TITLE[sensor], "license": "CC0-1.0",
            "description": f"{_TITLE[sensor]}: made by a simulator, not by a satellite.",
            "extent": {
                "spatial": {"bbox": [list(params.bounds)]},
                "temporal": {"interval": [[
                    params.timeline.start.strftime("%Y-%m-%dT%H:%M:%SZ"),
                    params.timeline.end.strftime("%Y-%m-%dT%H:%M:%SZ")]]},
            },
            "links": [
                {"rel": "root", "href": "../catalog.json", "type": "application/json"},
                {"rel": "parent", "href": "../catalog.json", "type": "application/json"},
                *({"rel": "item", "href": f"./{i['id']}/{i['id']}.json",
                   "type": "application/json"} for i in found),
            ],
        })
    _dump(out / "catalog.json", {
        "type": "Catalog", "id": "sandbox", "stac_version": "1.0.0", "stac_extensions": [],
        "title": "Simulated demo region",
        "description": f"Simulated Sentinel-1, Sentinel-2 and Landsat, seed {params.seed}.",
        "links": [
            {"rel": "root", "href": "./catalog.json", "type": "application/json"},
            *({"rel": "child", "href": f"./{name}/collection.json", "type": "application/json"}
              for name in _FOLDER.values()),
        ],
    })


def _write_table(work: Path, items: dict[str, list[dict[str, Any]]]) -> None:
    """``items.parquet``: the same items as stac-geoparquet, hrefs relative to the table, so that
    the folder may be moved."""
    rows = []
    for sensor, found in items.items():
        for i in found:
            base = f"./{_FOLDER[sensor]}/{i['id']}"
            assets = {k: {**a, "href": f"{base}/{a['href'].removeprefix('./')}"}
                      for k, a in i["assets"].items()}
            rows.append({**i, "assets": assets, "links": []})
    table = stac_geoparquet.arrow.parse_stac_items_to_arrow(rows)
    stac_geoparquet.arrow.to_parquet(table, work / "items.parquet")


def _dump(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1))
