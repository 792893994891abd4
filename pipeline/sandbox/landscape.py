"""The world: blocks of fields, woods, shrubs, a river and a town, as a pure function of the place.

Blocks are cells of a jittered Voronoi diagram; a farmed block is cut into a rotated brick pattern
of fields, some of them merged, some with hedges. Nothing depends on a grid, so both UTM zones
sample the same world and fields run on across the boundary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from odc.geo.geobox import GeoBox

from pipeline.sandbox.geo import epsg_of
from pipeline.sandbox.noise import mix, smooth, uniform
from pipeline.sandbox.params import SandboxParams
from pipeline.sandbox.phenology import COVER_CODE
from pipeline.sandbox.terrain import ridges

# farmed land: share of each cover
_SHARES = {"winter cereal": 0.26, "maize": 0.11, "rapeseed": 0.10, "sunflower": 0.12,
           "alfalfa": 0.06, "pasture": 0.11, "hay meadow": 0.09, "dry grassland": 0.05,
           "vineyard": 0.05, "lavender": 0.05}
_RIVER_EVERY_M = 6000.0


@dataclass(frozen=True)
class Ground:
    """What does not change with the date, on one grid.

    Attributes:
        x, y: [Y, X] place in the local plane, metres.
        cover: [Y, X] uint8 code into ``COVERS``.
        field: [Y, X] int32 row of the field table.
        texture: [Y, X] float32 multiplies green cover (mean 1).
        exposure: [Y, X] float32 dryness of the site, standard normal (aspect, elevation, soil).
        field_cover: [F] uint8 cover code of each field.
        shift: [F] days by which the field's calendar is late.
        vigour: [F] multiplies green cover.
        chlorophyll: [F] multiplies visible reflectance of green leaves.
        soil: [F] multiplies soil reflectance.
        roughness: [F] dB added to bare-soil backscatter.
        leaf: [F] multiplies dry leaf mass per area.
    """

    x: np.ndarray
    y: np.ndarray
    cover: np.ndarray
    field: np.ndarray
    texture: np.ndarray
    exposure: np.ndarray
    field_cover: np.ndarray
    shift: np.ndarray
    vigour: np.ndarray
    chlorophyll: np.ndarray
    soil: np.ndarray
    roughness: np.ndarray
    leaf: np.ndarray


def ground_on(params: SandboxParams, grid: GeoBox) -> Ground:
    """The world at the pixel centres of a grid."""
    h, w = grid.shape
    step = grid.resolution.x
    east, north = np.meshgrid(grid.affine.c + step * (np.arange(w) + 0.5),
                              grid.affine.f - step * (np.arange(h) + 0.5))
    x, y = params.to_plane(epsg_of(grid)).transform(east, north)
    return ground_at(params, np.asarray(x), np.asarray(y))


def ground_at(params: SandboxParams, x: np.ndarray, y: np.ndarray) -> Ground:
    """The world at places of the local plane, metres, [Y, X]."""
    seed, grain = params.seed, params.grain_m
    block, edge = _blocks(x, y, grain, seed)
    row, col, hedge = _bricks(x, y, grain, block)
    # trees and shrubs grow on a wild share of the blocks, towns on a few
    kind = uniform(block, 1)
    patch = smooth(x, y, grain * 0.45, seed, 11, octaves=2)
    cover = _crop(mix(block, row, col), block)
    cover = np.where(hedge, COVER_CODE["deciduous forest"], cover)
    shrubs = np.where(patch > 0.9, COVER_CODE["evergreen forest"],
                      np.where(patch < -1.1, COVER_CODE["pasture"], COVER_CODE["shrubland"]))
    woods = np.where(patch > 0.1, COVER_CODE["evergreen forest"], COVER_CODE["deciduous forest"])
    cover = np.where(edge < grain * 0.012, COVER_CODE["track"], cover)
    cover = np.where(kind < 0.36, shrubs, cover)
    cover = np.where(kind < 0.20, woods, cover)
    cover = np.where(kind < 0.06, COVER_CODE["built-up"], cover)
    river = _river_distance(x, y, seed, grain)
    cover = np.where(river < grain * 0.09, COVER_CODE["deciduous forest"], cover)
    cover = np.where(river < grain * 0.05, COVER_CODE["water"], cover).astype(np.uint8)

    farmed = (kind >= 0.36) & ~hedge & (river >= grain * 0.09)
    parcel = np.where(farmed, mix(block, row, col), mix(block, 5))
    _, first, field = np.unique(mix(parcel, cover), return_index=True, return_inverse=True)
    return _traits(x, y, seed, cover, field.reshape(x.shape).astype(np.int32),
                   mix(parcel, cover).ravel()[first], cover.ravel()[first])


def _traits(x: np.ndarray, y: np.ndarray, seed: int, cover: np.ndarray, field: np.ndarray,
            key: np.ndarray, field_cover: np.ndarray) -> Ground:
    def normal(k: int) -> np.ndarray:
        # sum of three uniforms, scaled to standard deviation 1: nearly normal and bounded
        return (uniform(key, 3 * k) + uniform(key, 3 * k + 1) + uniform(key, 3 * k + 2) - 1.5) * 2

    exposure = 0.85 * ridges(x, y, seed) + 0.35 * smooth(x, y, 120, seed, 32)
    grain = np.where(cover == COVER_CODE["built-up"], 0.7, 0.08)  # gardens between the roofs
    return Ground(
        x=x, y=y, cover=cover, field=field,
        texture=(1 + grain * smooth(x, y, 60, seed, 33, octaves=3)).clip(0).astype(np.float32),
        exposure=exposure.astype(np.float32),
        field_cover=field_cover, shift=normal(0) * 14,
        vigour=np.clip(1 + normal(1) * 0.18, 0.4, 1.4),
        chlorophyll=1 + normal(2) * 0.14, soil=1 + normal(3) * 0.14, roughness=normal(4) * 0.7,
        leaf=1 + normal(5) * 0.16,
    )


def _blocks(x: np.ndarray, y: np.ndarray, grain: float, seed: int
            ) -> tuple[np.ndarray, np.ndarray]:
    """Hash of the nearest block centre, and metres to the border with the next."""
    i, j = np.floor(x / grain).astype(np.int64), np.floor(y / grain).astype(np.int64)
    best = np.full(x.shape, np.inf)
    second = np.full(x.shape, np.inf)
    name = np.zeros(x.shape, np.uint64)
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            key = mix(seed, 3, i + di, j + dj)
            cx = (i + di + 0.1 + 0.8 * uniform(key, 0)) * grain
            cy = (j + dj + 0.1 + 0.8 * uniform(key, 1)) * grain
            d = np.hypot(x - cx, y - cy)
            nearer = d < best
            second = np.where(nearer, best, np.minimum(second, d))
            best = np.where(nearer, d, best)
            name = np.where(nearer, key, name)
    return name, (second - best) / 2


def _bricks(x: np.ndarray, y: np.ndarray, grain: float, block: np.ndarray
            ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and column of the field in its block's rotated brick pattern, and where hedges stand."""
    angle = uniform(block, 10) * np.pi
    width = grain * (0.11 + 0.12 * uniform(block, 11))
    length = grain * (0.25 + 0.25 * uniform(block, 12))
    u = (x * np.cos(angle) + y * np.sin(angle)) / length
    v = (-x * np.sin(angle) + y * np.cos(angle)) / width
    row = np.floor(v).astype(np.int64)
    # a third of the rows is farmed together with the next one
    row = np.where((row % 2 == 1) & (uniform(block, row, 13) < 0.33), row - 1, row)
    u = u + uniform(block, row, 14)
    col = np.floor(u).astype(np.int64)
    to_side = np.minimum((u - col), 1 - (u - col)) * length
    return row, col, (to_side < grain * 0.008) & (uniform(block, row, col, 15) < 0.4)


def _crop(field: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Cover code of a farmed field; neighbours in a block often grow the same."""
    draw = np.where(uniform(field, 16) < 0.25, uniform(block, 17), uniform(field, 18))
    codes = np.array([COVER_CODE[name] for name in _SHARES])
    upto = np.cumsum(list(_SHARES.values()))[:-1]  # the last one takes what rounding leaves
    return codes[np.searchsorted(upto, draw, side="right")]


def _river_distance(x: np.ndarray, y: np.ndarray, seed: int, grain: float) -> np.ndarray:
    """Metres (along x) from a meandering river; there is one every 6 km."""
    bend = 0.35 * grain * np.sin(y / (1.4 * grain) + seed) - 0.75 * grain
    off = x - bend - 12 * smooth(x, y, 150, seed, 41)
    return np.abs((off + _RIVER_EVERY_M / 2) % _RIVER_EVERY_M - _RIVER_EVERY_M / 2)
