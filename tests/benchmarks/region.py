"""A large region for benchmarks: the images of a sandbox, repeated side by side.

What is measured is how fast, not how well: a field more does no harm.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from tqdm.auto import tqdm

from pipeline.sandbox import SandboxParams, write
from pipeline.sandbox.cogs import write_cog
from pipeline.sandbox.geo import footprint

REPEAT, SIDE_KM = 4, 10.4  # 4 x 1 056 pixels
MARGIN_M = 240.0  # of the area within the images
EPSG = 32631
SENSORS = ("sentinel-1-rtc", "sentinel-2-l2a")
PARAMS = SandboxParams(lon=3.0, lat=48.0, width_km=SIDE_KM, height_km=SIDE_KM, s1_days=24,
                       s2_days=12, l8_days=120, s2_gap=0.0, s1_gap=0.0, workers=1, seed=7)


def make(folder: Path, repeat: int = REPEAT) -> Path:
    """Write the region below a folder, or find it there, or in the folder itself.

    Returns the region's own folder, with ``catalog.json`` and ``aoi.geojson``.

    Twelve months of Sentinel-1 (31 images of two bands) and Sentinel-2 (31 passes of ten bands and
    a mask): some 8 GB for 4 224 x 4 224 pixels.
    """
    if (folder / "aoi.geojson").exists():
        return folder
    out = folder / f"x{repeat}"
    if (out / "catalog.json").exists():
        return out
    base = write(folder / "base", PARAMS).parent
    for name in SENSORS:
        item = rewritten(base / name, out / name, sorted((base / name).glob("*/*.json")),
                         lambda page, source, to: _repeated(page, source, to, repeat))
    (out / "aoi.geojson").write_text(json.dumps(area_of(item)))
    catalog = json.loads((base / "catalog.json").read_text())
    catalog["links"] = [k for k in catalog["links"] if k["rel"] != "child"
                        or k["href"].split("/")[1] in SENSORS]
    (out / "catalog.json").write_text(json.dumps(catalog))
    return out


def rewritten(
    source: Path, out: Path, pages: Sequence[Path],
    made: Callable[[dict[str, Any], Path, Path], dict[str, Any]],
) -> dict[str, Any]:
    """Write a collection of other images from some pages of one; returns the last item.

    Args:
        source, out: folders of the collections.
        pages: of the items.
        made: an item, of its page, the folder of its images and ``out``.
    """
    links = []
    for page in tqdm(pages, desc=source.name, unit="image"):
        item = made(json.loads(page.read_text()), page.parent, out)
        links.append({"rel": "item", "href": f"./{item['id']}/{item['id']}.json"})
    collection = json.loads((source / "collection.json").read_text())
    collection["links"] = [k for k in collection["links"] if k["rel"] != "item"] + links
    collection["extent"]["spatial"]["bbox"] = [item["bbox"]]
    (out / "collection.json").write_text(json.dumps(collection))
    return item


def _repeated(item: dict[str, Any], source: Path, out: Path, n: int) -> dict[str, Any]:
    """An item whose images show theirs n x n times."""
    folder = out / item["id"]
    folder.mkdir(parents=True, exist_ok=True)
    for asset in item["assets"].values():
        with rasterio.open(source / asset["href"]) as file:
            pixels, transform, crs, nodata = file.read(1), file.transform, file.crs, file.nodata
        pixels = np.tile(pixels, (n, n))
        write_cog(folder / asset["href"], pixels, transform, crs, nodata)
        asset |= {"proj:shape": list(pixels.shape), "proj:transform": list(transform)[:6]}
        asset.pop("proj:bbox", None)
    return on_grid(item, pixels.shape, Affine(*transform[:6]), crs.to_string(), folder)


def on_grid(
    item: dict[str, Any], shape: tuple[int, int], transform: Affine, crs: str, folder: Path
) -> dict[str, Any]:
    """Say in an item's page, and write it there, that its images have another grid."""
    grid = GeoBox(shape, transform, crs)
    outline = footprint(grid)
    item |= {"geometry": shapely.geometry.mapping(outline), "bbox": list(outline.bounds)}
    item["properties"] |= {k: v for k, v in (("proj:shape", list(grid.shape)),
                                             ("proj:transform", list(grid.affine)[:6]))
                           if k in item["properties"]}
    for key in ("proj:bbox", "proj:geometry"):
        item["properties"].pop(key, None)
    (folder / f"{item['id']}.json").write_text(json.dumps(item))
    return item


def part(region: Path, side: int) -> dict[str, Any]:
    """A square in the middle of the region, as a GeoJSON feature.

    Args:
        region: of ``make``.
        side: pixels of 10 m.
    """
    page = next((region / SENSORS[0]).glob("*/*.json"))
    asset = next(iter(json.loads(page.read_text())["assets"].values()))
    t, (height, width) = Affine(*asset["proj:transform"]), asset["proj:shape"]
    x, y = t.c + width // 2 * t.a, t.f + height // 2 * t.e
    half = side * 5
    return _feature(x - half, y - half, x + half, y + half)


def area_of(item: dict[str, Any]) -> dict[str, Any]:
    """The area: all but a margin of an item's grid."""
    asset = next(iter(item["assets"].values()))
    t, (height, width) = Affine(*asset["proj:transform"]), asset["proj:shape"]
    left, top = t.c + MARGIN_M, t.f - MARGIN_M
    right, bottom = t.c + width * t.a - MARGIN_M, t.f + height * t.e + MARGIN_M
    return _feature(left, bottom, right, top)


def _feature(left: float, bottom: float, right: float, top: float) -> dict[str, Any]:
    """A box in metres as a feature in degrees."""
    box = shapely.segmentize(shapely.box(left, bottom, right, top), 1000)
    back = Transformer.from_crs(EPSG, 4326, always_xy=True).transform
    outline = shapely.transform(box, back, interleaved=False)
    return {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(outline)}
