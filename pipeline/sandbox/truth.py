"""The truth beside the imagery: land cover, cropland and fuel moisture, and labelled points."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from rasterio.crs import CRS

from pipeline.sandbox.canopy import canopy
from pipeline.sandbox.cogs import write_cog
from pipeline.sandbox.geo import epsg_of, transformer
from pipeline.sandbox.landscape import Ground, ground_on
from pipeline.sandbox.params import SandboxParams
from pipeline.sandbox.phenology import COVERS, CROPLAND
from pipeline.sandbox.schedule import s2_gap_box, zone_grid, zones
from pipeline.spec.grid import utm_zone
from pipeline.spec.tasks import LFMC
from pipeline.spec.timeline import month_text

LFMC_NOISE = 5.0  # standard error of a field measurement, percent


def write_truth(params: SandboxParams, out: Path) -> None:
    """Write ``truth/`` below ``out``: per zone ``cropland_utmZZn.tif`` (0, 1), ``cover_utmZZn.tif``
    (code into ``COVERS``) and ``lfmc_YYYY-MM_utmZZn.tif`` (0.1 %, the middle of the month) on the
    10 m grid of Sentinel-2; ``points_cropland.geojson``, ``points_lfmc.geojson``, ``truth.json``.

    Args:
        params: of the sandbox.
        out: folder of the catalogue.
    """
    folder = out / "truth"
    folder.mkdir(parents=True)
    rng = np.random.default_rng([params.seed, 80])
    places = _places(params, params.cropland_points * 4, rng)
    cropland: list[dict[str, Any]] = []
    lfmc: list[dict[str, Any]] = []
    for zone in zones(params):
        grid = zone_grid(params, zone, "s2")
        ground = ground_on(params, grid)
        save = _saver(folder, grid, zone)
        crops = CROPLAND[ground.cover].astype(np.uint8)
        save("cropland", crops, 255)
        save("cover", ground.cover, 255)
        mine = places[[utm_zone(lon) == zone for lon, _ in places]]
        cropland += _cropland_points(params, grid, ground, mine)
        sites = mine[: round(params.lfmc_sites * len(mine) / len(places))]
        for month in params.timeline.months:
            day = date(month // 12, month % 12 + 1, 15)
            value = canopy(params.seed, ground, day).lfmc
            save(f"lfmc_{month_text(month)}", np.rint(value / LFMC.scale).astype(np.uint16),
                 LFMC.nodata)
            if month_text(month) in params.lfmc_month_list:
                lfmc += _lfmc_points(params, grid, value, sites, month_text(month), rng)
    cropland = _balanced(cropland, params.cropland_points, rng)
    _write_points(folder / "points_cropland.geojson", cropland)
    _write_points(folder / "points_lfmc.geojson", lfmc)
    (folder / "truth.json").write_text(json.dumps(about(params), indent=1))


def _saver(folder: Path, grid: GeoBox, zone: int) -> Any:
    crs = CRS.from_epsg(epsg_of(grid))

    def save(name: str, data: np.ndarray, nodata: int) -> None:
        write_cog(folder / f"{name}_utm{zone:02d}n.tif", data, grid.affine, crs, nodata)

    return save


def _places(params: SandboxParams, n: int, rng: np.random.Generator) -> np.ndarray:
    """[N, 2] random longitudes and latitudes in the region."""
    west, south, east, north = params.bounds
    return rng.uniform((west, south), (east, north), (n, 2))


def _pixels(grid: GeoBox, lonlat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    to_utm = transformer(4326, epsg_of(grid))
    east, north = to_utm.transform(lonlat[:, 0], lonlat[:, 1])
    rows = (grid.affine.f - np.asarray(north)) // 10
    cols = (np.asarray(east) - grid.affine.c) // 10
    return rows.astype(int), cols.astype(int)


def _features(params: SandboxParams, lonlat: np.ndarray, values: list[dict[str, Any]]
              ) -> list[dict[str, Any]]:
    """Points with their values and the block (``group``) that they lie in."""
    x, y = params.to_plane(4326).transform(lonlat[:, 0], lonlat[:, 1])
    return [
        {"type": "Feature",
         "properties": {**v, "group": f"{int(a // params.group_m)}_{int(b // params.group_m)}"},
         "geometry": {"type": "Point", "coordinates": [round(lon, 7), round(lat, 7)]}}
        for (lon, lat), a, b, v in zip(lonlat.tolist(), x, y, values, strict=True)
    ]


def _cropland_points(
    params: SandboxParams, grid: GeoBox, ground: Ground, places: np.ndarray
) -> list[dict[str, Any]]:
    crops = CROPLAND[ground.cover]
    # anywhere, field edges too: points in the middle of fields only would make a coarse sensor
    # look as good as its map is not
    rows, cols = _pixels(grid, places)
    values = [{"cropland": int(crops[r, c]), "cover": COVERS[ground.cover[r, c]].name}
              for r, c in zip(rows, cols, strict=True)]
    return _features(params, places, values)


def _balanced(points: list[dict[str, Any]], n: int, rng: np.random.Generator
              ) -> list[dict[str, Any]]:
    """``n`` points (or what there is), half of them cropland where possible."""
    order = rng.permutation(len(points))
    by_class = [[points[k] for k in order if points[k]["properties"]["cropland"] == value]
                for value in (0, 1)]
    crops = min(len(by_class[1]), max(n // 2, n - len(by_class[0])))
    return by_class[1][:crops] + by_class[0][: n - crops]


def _lfmc_points(
    params: SandboxParams, grid: GeoBox, value: np.ndarray, sites: np.ndarray, period: str,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    mean = block_means(value, grid, LFMC.pixel_m)
    east, north = transformer(4326, epsg_of(grid)).transform(*sites.T)
    values = []
    for (lon, lat), e, n in zip(sites.tolist(), east, north, strict=True):
        true = mean[int(e // LFMC.pixel_m), int(n // LFMC.pixel_m)]
        values.append({"lfmc_percent": round(true + LFMC_NOISE * float(rng.standard_normal()), 1),
                       "site": f"{lon:.5f}_{lat:.5f}", "period": period})
    return _features(params, sites, values)


def block_means(value: np.ndarray, grid: GeoBox, pixel_m: int) -> dict[tuple[int, int], float]:
    """Mean over each pixel of the coarse lattice (edges at multiples of ``pixel_m``), keyed by
    (easting // pixel_m, northing // pixel_m)."""
    h, w = grid.shape
    cols = ((grid.affine.c + 10 * np.arange(w) + 5) // pixel_m).astype(int)
    rows = ((grid.affine.f - 10 * np.arange(h) - 5) // pixel_m).astype(int)
    c0, r0 = cols.min(), rows.min()
    wide = cols.max() - c0 + 1
    at = (rows - r0)[:, None] * wide + (cols - c0)[None, :]
    total = np.bincount(at.ravel(), value.ravel().astype(np.float64))
    count = np.bincount(at.ravel())
    return {(int(k % wide + c0), int(k // wide + r0)): float(total[k] / count[k])
            for k in np.flatnonzero(count)}


def _write_points(path: Path, features: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def _outline(params: SandboxParams, box: shapely.Geometry) -> Any:
    hx, hy = params.half_m
    part = shapely.intersection(box, shapely.box(-hx, -hy, hx, hy))
    if part.area == 0:
        return None
    back = transformer(params.plane, 4326).transform
    return shapely.geometry.mapping(shapely.transform(part, back, interleaved=False))


def about(params: SandboxParams) -> dict[str, Any]:
    """Contents of ``truth.json``: legends, gaps (GeoJSON, EPSG:4326), relations used."""
    hx, hy = params.half_m
    east = shapely.box(hx - 2 * hx * params.s1_gap, -hy, hx, hy)
    return {
        "about": "Simulated; no measurement of any satellite. Truth on Sentinel-2's 10 m grid.",
        "cropland": {"0": "other", "1": "temporary crops", "nodata": 255},
        "cover": {str(k): c.name for k, c in enumerate(COVERS)},
        "lfmc": {"unit": "%", "scale": LFMC.scale, "nodata": LFMC.nodata,
                 "when": "the 15th of the month"},
        "no_clear_sentinel_2": _outline(params, s2_gap_box(params)),
        "no_sentinel_1": _outline(params, east),
        "simulated": "Sentinel-2 baselines change within the season (03.01, 04.00, 05.09) and "
                     "some passes are there twice (reprocessed as 05.10); the calendar of each "
                     "field repeats every year.",
        "relations": dict(_relations()),
    }


def _relations() -> Iterator[tuple[str, str]]:
    yield "phenology", "double logistic, Beck et al. 2006, doi:10.1016/j.rse.2005.10.021"
    yield "leaf water", "EWT = LFMC/100 x leaf mass per area, doi:10.1016/j.rse.2004.03.017"
    yield "short-wave infrared", "exp(-absorption x path x EWT), doi:10.1016/S0034-4257(01)00191-2"
    yield "absorption of water", "Hale & Querry 1973, doi:10.1364/AO.12.000555"
    yield "radar", "water cloud model, Attema & Ulaby 1978, doi:10.1029/RS013i002p00357, with " \
                   "vegetation water content = LFMC/100 x green dry mass"
    yield "terrain", "exposed ground, which dries out first, is high ground; WorldCover's codes " \
                     "are those of the cover, with patches of mistakes"
    yield "bare soil, radar", "linear in dB with moisture, doi:10.1109/TGE.1978.294586"
    yield "bare soil, optical", "darkens with moisture, doi:10.2136/sssaj2002.7220"
