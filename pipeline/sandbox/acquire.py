"""One acquisition over one zone: simulate it, write its COGs and its item."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS

from pipeline.sandbox import optical, radar
from pipeline.sandbox.canopy import Canopy, canopy
from pipeline.sandbox.cogs import write_cog
from pipeline.sandbox.geo import epsg_of, utm_transform
from pipeline.sandbox.items import COLLECTION, item
from pipeline.sandbox.landscape import Ground, ground_on
from pipeline.sandbox.noise import chance
from pipeline.sandbox.params import SandboxParams
from pipeline.sandbox.properties import L8_ASSETS, item_id, l8_assets, s1_assets, s2_assets
from pipeline.sandbox.schedule import (
    Product,
    incidence,
    s2_gap_box,
    zone_grid,
)
from pipeline.sandbox.weather import sky
from pipeline.spec.sensors import S2, SENSORS

S2_PIXEL_M = {b.name: b.resolution_m for b in S2.bands} | {"SCL": 20}
L8_SCALE, L8_OFFSET = 2.75e-5, -0.2
_SCL_CLOUDS = (8, 9, 10)


@dataclass(frozen=True)
class Layer:
    """One asset's pixels: its key, [Y, X] array as stored, pixel size in metres, nodata."""

    asset: str
    dn: np.ndarray
    pixel_m: int
    nodata: float


@dataclass(frozen=True)
class Stage:
    """One sensor over one zone: what all of its acquisitions share.

    Attributes:
        params: of the sandbox.
        grid: 10 m grid.
        ground: the world on it.
        gap: [Y, X] bool, always cloudy for this sensor.
    """

    params: SandboxParams
    grid: GeoBox
    ground: Ground
    gap: np.ndarray


def stage(params: SandboxParams, sensor: str, zone: int) -> Stage:
    """The world as a sensor's scenes of a zone see it."""
    grid = zone_grid(params, zone, sensor)
    ground = ground_on(params, grid)
    gap = np.zeros(grid.shape, bool)
    box = s2_gap_box(params)
    if sensor == "s2" and not box.is_empty:
        gap = shapely.contains_xy(box, ground.x, ground.y)
    return Stage(params, grid, ground, gap)


def random(params: SandboxParams, p: Product, *more: int) -> np.random.Generator:
    """Generator of a product's noise; a reprocessed product has the noise of its original."""
    code = SENSORS[p.sensor].code
    return np.random.default_rng([params.seed, code, p.when.toordinal(), p.zone, p.orbit, *more])


def simulate(at: Stage, p: Product) -> tuple[list[Layer], dict[str, float]]:
    """Pixels of all assets of a product, and the shares (percent) that its item states."""
    state = canopy(at.params.seed, at.ground, p.when.date())
    if p.sensor == "s1":
        return list(_s1(at, p, state)), {}
    return (_s2 if p.sensor == "s2" else _l8)(at, p, state)


def write_product(at: Stage, p: Product, out: Path) -> dict[str, Any]:
    """Write a product's COGs and item below ``out``.

    Args:
        at: where it was acquired.
        p: what was acquired.
        out: folder of the catalogue.

    Returns:
        The item as a JSON object.
    """
    layers, cover = simulate(at, p)
    assets = {"s1": s1_assets, "s2": lambda: s2_assets(p, at.grid, S2_PIXEL_M),
              "l8": lambda: l8_assets(p, at.grid)}[p.sensor]()
    name = item_id(p, at.grid)
    folder = out / COLLECTION[p.sensor] / name
    folder.mkdir(parents=True)
    crs = CRS.from_epsg(epsg_of(at.grid))
    for layer in layers:
        write_cog(folder / assets[layer.asset]["href"], layer.dn,
                  utm_transform(at.grid, layer.pixel_m), crs, layer.nodata)
    found = item(at.params, p, at.grid, assets, cover)
    (folder / f"{name}.json").write_text(json.dumps(found))
    return found


def _s1(at: Stage, p: Product, state: Canopy) -> Iterator[Layer]:
    key = (at.params.seed, 71, p.orbit, p.when.toordinal())
    wind = 6 * chance(*key) - 2
    border = np.zeros(at.grid.shape, bool)
    if p.number % 3 == 1:  # a slanted strip of zeros, as at the edge of a slice
        rows, cols = np.indices(at.grid.shape)
        border = cols < 4 + rows * 0.02 * (1 if p.ascending else 2)
    for k, pol in enumerate(("vh", "vv")):
        power = radar.backscatter(at.ground, state, pol, incidence(p), wind)
        power = power * radar.speckle(power.shape, random(at.params, p, k))
        power[border] = 0
        yield Layer(pol, power, 10, float(radar.NODATA))


def _s2(at: Stage, p: Product, state: Canopy) -> tuple[list[Layer], dict[str, float]]:
    over = optical.veil(sky(at.params, 2, p.when), at.ground.x, at.ground.y, at.gap)
    light = 0.98 + 0.04 * chance(at.params.seed, 72, p.when.toordinal())
    # older baselines correct the atmosphere less well
    haze = 0.012 if p.before_offset else 0.0
    layers = []
    for k, (band, size) in enumerate(S2_PIXEL_M.items()):
        if band == "SCL":
            continue
        coarse = size // 10
        rho = optical.observe(at.ground, state, over, "s2", band, coarse, light, 0.004,
                              random(at.params, p, k)) + np.float32(haze)
        layers.append(Layer(band, optical.encode(rho, 1e-4, 0 if p.before_offset else -0.1),
                            size, 0))
    cirrus = chance(at.params.seed, 73, p.when.toordinal()) < 0.5
    scl = optical.scene_classes(at.ground, state, over, p.before_offset, cirrus)
    layers.append(Layer("SCL", scl, 20, 0))
    share = np.bincount(scl.ravel(), minlength=12) * 100.0 / scl.size
    cover = {str(code): float(share[code]) for code in range(12)}
    return layers, cover | {"cloud": float(sum(share[c] for c in _SCL_CLOUDS))}


def _l8(at: Stage, p: Product, state: Canopy) -> tuple[list[Layer], dict[str, float]]:
    code = 7 if p.platform == "landsat-7" else 3
    over = optical.veil(sky(at.params, code, p.when), at.ground.x, at.ground.y, at.gap)
    light = 0.98 + 0.04 * chance(at.params.seed, 74, p.when.toordinal())
    h, w = at.grid.shape[0] // 3, at.grid.shape[1] // 3
    fill = np.zeros((h, w), bool)
    if code == 7:  # scan-line corrector off: slanted stripes without data
        rows, cols = np.indices((h, w))
        fill = (rows + cols // 6) % 14 < 4
    layers = []
    for k, (band, (asset, _, _)) in enumerate(L8_ASSETS.items()):
        rho = optical.observe(at.ground, state, over, "l8", band, 3, light, 0.003,
                              random(at.params, p, k))
        dn = optical.encode(rho, L8_SCALE, L8_OFFSET)
        layers.append(Layer(asset, np.where(fill, np.uint16(0), dn), 30, 0))
    qa = optical.qa_pixel(state, over, fill)
    layers.append(Layer("qa_pixel", qa, 30, 1))
    cloudy = float(((qa >> 3) & 1)[~fill].mean() * 100)
    return layers, {"cloud": cloudy}

