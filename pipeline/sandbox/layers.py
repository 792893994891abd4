"""Tiles of elevation and land cover as Planetary Computer publishes them, cut to the region.

Their pixels lie on the products' own lattices in degrees, so that reading them for a map in UTM
is the real thing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from rasterio.crs import CRS

from pipeline.sandbox.cogs import write_cog
from pipeline.sandbox.landscape import ground_at
from pipeline.sandbox.params import SandboxParams
from pipeline.sandbox.phenology import COVERS
from pipeline.sandbox.properties import COG
from pipeline.sandbox.terrain import elevation, landcover

LAYER_COLLECTION = {"dem": "cop-dem-glo-30", "landcover": "esa-worldcover"}
_MARGIN_M = {"dem": 3000.0, "landcover": 600.0}  # slopes reach further than the map
_WORLDCOVER = (("v100", 2020, 1.1), ("v200", 2021, 1.4))  # version, year, rarity of its mistakes
_EXTENSIONS = [f"https://stac-extensions.github.io/{name}/schema.json"
               for name in ("projection/v1.1.0", "raster/v1.1.0")]


@dataclass(frozen=True)
class LayerTile:
    """The part of a product's tile that is written.

    Attributes:
        lon, lat: south-west corner of the product's tile, whole degrees.
        transform: of the part, EPSG:4326.
        shape: of the part.
    """

    lon: int
    lat: int
    transform: Affine
    shape: tuple[int, int]

    @property
    def name(self) -> str:
        """``N43E005``."""
        return (f"{'NS'[self.lat < 0]}{abs(self.lat):02d}"
                f"{'EW'[self.lon < 0]}{abs(self.lon):03d}")

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north, degrees."""
        (h, w), t = self.shape, self.transform
        return t.c, t.f + h * t.e, t.c + w * t.a, t.f


def write_layers(params: SandboxParams, out: Path) -> dict[str, list[dict[str, Any]]]:
    """Write all tiles and their items below ``out``; returns the items per layer."""
    found: dict[str, list[dict[str, Any]]] = {layer: [] for layer in LAYER_COLLECTION}
    for tile in tiles(params, "dem"):
        x, y = _plane(params, tile)
        name = f"Copernicus_DSM_COG_10_{tile.name[:3]}_00_{tile.name[3:]}_00_DEM"
        item = _item(params, tile, "dem", name, "data", {
            "datetime": "2021-04-22T00:00:00Z", "platform": "TanDEM-X", "gsd": 30}, "float32")
        _write(out, item, elevation(x, y, params.seed), tile, -32767)
        found["dem"].append(item)
    for tile in tiles(params, "landcover"):
        x, y = _plane(params, tile)
        cover = ground_at(params, x, y).cover
        for version, year, wrong in _WORLDCOVER:
            codes = landcover(cover, tuple(c.name for c in COVERS), x, y, params.seed, wrong)
            name = f"ESA_WorldCover_10m_{year}_{version}_{tile.name}"
            item = _item(params, tile, "landcover", name, "map", {
                "datetime": None, "start_datetime": f"{year}-01-01T00:00:00Z",
                "end_datetime": f"{year}-12-31T23:59:59Z",
                "esa_worldcover:product_tile": tile.name,
                "esa_worldcover:product_version": f"{version[1]}.0.0",
                "grid:code": f"ESAWORLDCOVER-{tile.name}"}, "uint8")
            _write(out, item, codes, tile, 0)
            found["landcover"].append(item)
    return found


def tiles(params: SandboxParams, layer: str) -> Iterator[LayerTile]:
    """Parts of the product's tiles that the region and a margin touch, west to east.

    Copernicus DEM: one degree a tile, a second of arc a pixel (from 50 degrees on wider ones),
    pixel centres on whole seconds. WorldCover: three degrees a tile, 12 000 pixels a degree.
    """
    side = {"dem": 1, "landcover": 3}[layer]
    per_degree = {"dem": 3600, "landcover": 12_000}[layer]
    across = per_degree
    if layer == "dem":
        wider = next(k for limit, k in ((50, 1.0), (60, 1.5), (70, 2.0), (80, 3.0))
                     if params.lat < limit)
        across = round(per_degree / wider)
    half = 0.5 if layer == "dem" else 0.0  # pixel
    west, south, east, north = _box(params, _MARGIN_M[layer])
    for lat in range(math.floor(south / side) * side, math.ceil(north), side):
        for lon in range(math.floor(west / side) * side, math.ceil(east), side):
            left, top = lon - half / across, lat + side + half / per_degree
            cols = np.clip([math.floor((west - left) * across), math.ceil((east - left) * across)],
                           0, side * across)
            rows = np.clip([math.floor((top - north) * per_degree),
                            math.ceil((top - south) * per_degree)], 0, side * per_degree)
            shape = int(rows[1] - rows[0]), int(cols[1] - cols[0])
            if min(shape) > 0:
                corner = left + cols[0] / across, top - rows[0] / per_degree
                yield LayerTile(lon, lat, Affine(1 / across, 0, float(corner[0]),
                                                 0, -1 / per_degree, float(corner[1])), shape)


def _box(params: SandboxParams, margin: float) -> tuple[float, float, float, float]:
    west, south, east, north = params.bounds
    dy = margin / 111_320
    dx = dy / math.cos(math.radians(params.lat))
    return west - dx, south - dy, east + dx, north + dy


def _plane(params: SandboxParams, tile: LayerTile) -> tuple[np.ndarray, np.ndarray]:
    """[Y, X] places of the pixel centres in the local plane, metres."""
    (h, w), t = tile.shape, tile.transform
    lon, lat = np.meshgrid(t.c + t.a * (np.arange(w) + 0.5), t.f + t.e * (np.arange(h) + 0.5))
    x, y = params.to_plane(4326).transform(lon, lat)
    return np.asarray(x), np.asarray(y)


def _item(params: SandboxParams, tile: LayerTile, layer: str, name: str, asset: str,
          properties: dict[str, Any], dtype: str) -> dict[str, Any]:
    place = {"proj:shape": list(tile.shape), "proj:transform": list(tile.transform)[:6]}
    band = {"data_type": dtype} | ({"nodata": 0} if layer == "landcover" else {"unit": "meter"})
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name,
        "collection": LAYER_COLLECTION[layer],
        "geometry": shapely.geometry.mapping(shapely.box(*tile.bounds)),
        "bbox": list(tile.bounds),
        "properties": {**properties, "proj:epsg": 4326, **place, "sandbox:seed": params.seed},
        "links": [
            {"rel": "root", "href": "../../catalog.json", "type": "application/json"},
            {"rel": "parent", "href": "../collection.json", "type": "application/json"},
            {"rel": "collection", "href": "../collection.json", "type": "application/json"},
        ],
        "assets": {asset: {"href": f"./{name}.tif", "type": COG, "title": f"Simulated {layer}",
                           "roles": ["data"], "raster:bands": [band]}},
        "stac_extensions": _EXTENSIONS,
    }


def _write(out: Path, item: dict[str, Any], data: np.ndarray, tile: LayerTile, nodata: float
           ) -> None:
    folder = out / item["collection"] / item["id"]
    folder.mkdir(parents=True)
    write_cog(folder / f"{item['id']}.tif", data, tile.transform, CRS.from_epsg(4326), nodata)
    (folder / f"{item['id']}.json").write_text(json.dumps(item))
