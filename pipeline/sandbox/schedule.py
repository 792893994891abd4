"""Which satellite passes when, over which zone, and how the archive names what it made of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.geometry.base import BaseGeometry

from pipeline.sandbox.geo import transformer
from pipeline.sandbox.params import SandboxParams
from pipeline.spec.grid import utm_epsg, utm_zone, window

S2_OFFSET_BASELINE = "04.00"  # first with the +1000 offset


@dataclass(frozen=True)
class Product:
    """One item to be: an acquisition over one zone, processed once.

    Attributes:
        sensor: sensor key.
        when: acquisition time.
        platform: as the archive spells it.
        zone: UTM zone.
        orbit: relative orbit (Sentinel) or WRS path (Landsat).
        ascending: direction of flight.
        baseline: Sentinel-2 processing baseline, ``NN.NN``; empty for others.
        made: generation time.
        number: of the pass in its series, from 0.
    """

    sensor: str
    when: datetime
    platform: str
    zone: int
    orbit: int
    ascending: bool
    made: datetime
    number: int
    baseline: str = ""

    @property
    def before_offset(self) -> bool:
        """Made by a baseline before 04.00: no offset, and a cloud mask that misses thin cloud."""
        return bool(self.baseline) and self.baseline < S2_OFFSET_BASELINE


def zones(params: SandboxParams) -> tuple[int, ...]:
    """UTM zones of the region, west to east."""
    west, _, east, _ = params.bounds
    return tuple(range(utm_zone(west), utm_zone(east) + 1))


@lru_cache(maxsize=16)
def zone_grid(params: SandboxParams, zone: int, sensor: str) -> GeoBox:
    """Grid of 10 m pixels that a sensor's scenes of a zone lie on.

    Sides are multiples of 60 m, so that 20 m and 30 m pixels fit. Landsat's edges are odd
    multiples of 15 m, as USGS grids them. Sentinel-1 scenes end where the region's part without
    Sentinel-1 begins.
    """
    hx, hy = params.half_m
    seam = params.to_plane(4326)
    left = seam.transform(zone * 6 - 186, params.lat)[0] - params.overlap_m
    right = seam.transform(zone * 6 - 180, params.lat)[0] + params.overlap_m
    margin = 60.0
    part = shapely.box(max(left, -hx - margin), -hy - margin, min(right, hx + margin), hy + margin)
    to_utm = transformer(params.plane, utm_epsg(zone, True)).transform
    bounds = shapely.transform(shapely.segmentize(part, 500), to_utm, interleaved=False).bounds
    if sensor == "s1" and params.s1_gap:
        end = to_utm(hx - 2 * hx * params.s1_gap, 0.0)[0]
        bounds = (bounds[0], bounds[1], min(bounds[2], max(end, bounds[0] + 60)), bounds[3])
    coarse = window(bounds, utm_epsg(zone, True), 60)
    half = 15 if sensor == "l8" else 0
    corner = Affine(10, 0, coarse.affine.c - half, 0, -10, coarse.affine.f + half)
    return GeoBox((coarse.shape[0] * 6, coarse.shape[1] * 6), corner, coarse.crs)


def s2_gap_box(params: SandboxParams) -> BaseGeometry:
    """North-west block without clear Sentinel-2, in the local plane (empty when switched off)."""
    hx, hy = params.half_m
    if params.s2_gap == 0:
        return shapely.Polygon()
    far = 10 * max(hx, hy)
    return shapely.box(-far, hy - 2 * hy * params.s2_gap, -hx + hx * params.s2_gap, far)


def products(params: SandboxParams, sensor: str, zone: int) -> list[Product]:
    """All items of a sensor over a zone, in the order of time.

    Raises:
        KeyError: unknown sensor.
    """
    return {"s1": _s1, "s2": _s2, "l8": _l8}[sensor](params, zone)


def _days(params: SandboxParams, phase: int, every: int, clock: timedelta) -> list[datetime]:
    time, found = params.timeline, []
    when = time.start + timedelta(days=phase) + clock
    while when < time.end:
        found.append(when)
        when += timedelta(days=every)
    return found


def _s1(params: SandboxParams, zone: int) -> list[Product]:
    # one slice after the other along the orbit: the zones are 25 s apart
    late = timedelta(seconds=25 * (zone % 2))
    found = []
    for orbit, ascending, phase, clock in (
        (88, True, 2, timedelta(hours=17, minutes=31, seconds=12)),
        (139, False, 8, timedelta(hours=5, minutes=39, seconds=44)),
    ):
        for n, when in enumerate(_days(params, phase, params.s1_days, clock + late)):
            found.append(Product("s1", when, "SENTINEL-1A", zone, orbit, ascending,
                                 when + timedelta(hours=9), n))
    return sorted(found, key=lambda p: p.when)


def _s2(params: SandboxParams, zone: int) -> list[Product]:
    clock = timedelta(hours=10, minutes=32, seconds=29, microseconds=24000)
    days = _days(params, 3, params.s2_days, clock)
    found = []
    for n, when in enumerate(days):
        platform = ("Sentinel-2A", "Sentinel-2B")[n % 2]
        # in this simulation the change of baseline falls into the season
        baseline = ("03.01", "04.00", "05.09")[3 * n // len(days)]
        made = when + timedelta(hours=4, minutes=zone % 60)
        found.append(Product("s2", when, platform, zone, 108, False, made, n, baseline))
        if n % 6 == 2:  # reprocessed later: the archive keeps both
            again = params.timeline.end + timedelta(days=150, hours=7 * n)
            found.append(Product("s2", when, platform, zone, 108, False, again, n, "05.10"))
    return found


def _l8(params: SandboxParams, zone: int) -> list[Product]:
    path = 196 - (zone - 31) % 200
    clock = timedelta(hours=10, minutes=23, seconds=17, microseconds=105000)
    days = _days(params, 1 + 7 * (zone % 2), params.l8_days, clock)
    found = [
        Product("l8", when, ("landsat-8", "landsat-9")[n % 2], zone, path, False,
                when + timedelta(days=9), n)
        for n, when in enumerate(days)
    ]
    middle = days[len(days) // 2] + timedelta(days=1)
    found.append(Product("l8", middle, "landsat-7", zone, path, False,
                         middle + timedelta(days=20), len(days)))
    return found


def incidence(product: Product) -> float:
    """Incidence angle of a Sentinel-1 pass at the region, degrees: the two orbits differ."""
    return 39.0 if product.ascending else 34.5


def absolute_orbit(product: Product) -> int:
    """Absolute orbit of Sentinel-1A that fits relative orbit and date: relative =
    (absolute - 73) mod 175 + 1, and 175 orbits last 12 days."""
    days = (product.when - datetime(2014, 4, 3, 21, tzinfo=UTC)) / timedelta(days=12)
    return 72 + product.orbit + 175 * math.floor(days - product.orbit / 175)
