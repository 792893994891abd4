"""The simulated world: its formulas by hand-worked numbers, its fields across the zone boundary."""

from __future__ import annotations

import dataclasses
import math
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pytest
import shapely
from odc.geo.geobox import GeoBox

from pipeline.data.aoi import read_aoi
from pipeline.sandbox import SandboxParams
from pipeline.sandbox.acquire import stage
from pipeline.sandbox.canopy import canopy
from pipeline.sandbox.geo import mgrs_tile, transformer
from pipeline.sandbox.landscape import ground_at, ground_on
from pipeline.sandbox.noise import smooth, uniform
from pipeline.sandbox.optical import encode
from pipeline.sandbox.phenology import COVER_CODE, COVERS, Cycle, double_logistic, fraction
from pipeline.sandbox.radar import LOOKS, backscatter, speckle
from pipeline.sandbox.schedule import products, zone_grid, zones
from pipeline.sandbox.spectra import band_mean, endmembers, surface
from pipeline.sandbox.truth import about
from pipeline.sandbox.weather import drought, sky, sun, wetness
from pipeline.spec.errors import BadRequest

TINY = SandboxParams.tiny()


def test_double_logistic_by_hand() -> None:
    cycle = Cycle(start=100, end=200, up=0.1, down=0.2, peak=0.8)
    # at the start: 1/2 + 1/(1 + e^-20) - 1; ten days later: 1/(1 + e^-1) + 1/(1 + e^-18) - 1
    assert double_logistic(100, cycle) == pytest.approx(0.5, abs=1e-8)
    assert double_logistic(110, cycle) == pytest.approx(0.7310586, abs=1e-6)
    assert double_logistic(150, cycle) == pytest.approx(1 / (1 + math.exp(-5)) - math.exp(-10)
                                                        / (1 + math.exp(-10)), abs=1e-9)
    assert double_logistic(205, cycle) == pytest.approx(1 / (1 + math.e), abs=1e-4)
    assert double_logistic(120, cycle, shift=20) == double_logistic(100, cycle)
    assert fraction((cycle,), 150, np.zeros(2)) == pytest.approx([0.8 * 0.9932617] * 2, abs=1e-4)
    assert fraction((), 150, np.zeros(2)).tolist() == [0, 0]


def test_a_winter_crop_is_seen_from_both_sides_of_new_year() -> None:
    sown_before = Cycle(start=-30, end=160, up=0.1, down=0.1, peak=1.0)
    late, early = (fraction((sown_before,), d, np.zeros(1))[0] for d in (360, 5))
    assert late == pytest.approx(1 / (1 + math.exp(-2.5)), abs=1e-6)  # day -5: 25 days after start
    assert early > late > 0.9


def test_noise_depends_on_the_place_only() -> None:
    x, y = np.meshgrid(np.arange(0, 4000, 13.0), np.arange(-2000, 2000, 17.0))
    whole = smooth(x, y, 300, 1, octaves=3)
    np.testing.assert_array_equal(whole[50:90, 20:70], smooth(x[50:90, 20:70], y[50:90, 20:70],
                                                              300, 1, octaves=3))
    assert abs(whole.mean()) < 0.15
    assert 0.8 < whole.std() < 1.2
    draws = uniform(3, np.arange(100_000))
    assert draws.mean() == pytest.approx(0.5, abs=0.01)
    assert draws.var() == pytest.approx(1 / 12, abs=0.002)


def test_both_zones_sample_one_world() -> None:
    grids = {z: zone_grid(TINY, z, "s2") for z in zones(TINY)}
    assert sorted(grids) == [31, 32]
    a, b = (ground_on(TINY, grids[z]) for z in (31, 32))
    # places of zone 31's pixels that zone 32's scene holds, too
    to_other = transformer(TINY.plane, 32632)
    east, north = to_other.transform(a.x, a.y)
    g = grids[32]
    cols = np.floor((east - g.affine.c) / 10).astype(int)
    rows = np.floor((g.affine.f - north) / 10).astype(int)
    both = (rows >= 0) & (rows < g.shape[0]) & (cols >= 0) & (cols < g.shape[1])
    assert both.sum() > 400
    # exactly the same at the same place ...
    again = ground_at(TINY, a.x[both][None], a.y[both][None])
    np.testing.assert_array_equal(again.cover[0], a.cover[both])
    # ... and nearly so at the nearest pixel centre, up to 7 m away
    assert (b.cover[rows[both], cols[both]] == a.cover[both]).mean() > 0.8
    moist = [canopy(TINY.seed, ground, date(2023, 8, 15)).lfmc for ground in (a, b)]
    near = np.abs(moist[0][both] - moist[1][rows[both], cols[both]])
    assert np.median(near) < 3


def test_fields_run_on_across_the_boundary() -> None:
    y = np.arange(-200, 200, 5.0)
    west, east = (ground_at(TINY, np.full((1, y.size), x), y[None]).cover[0] for x in (-1.0, 1.0))
    assert (west == east).mean() > 0.9


def test_clouds_are_one_sky_over_both_zones() -> None:
    p = next(p for p in products(TINY, "s2", 31) if abs(sky(TINY, 2, p.when).level) < 3)
    x, y = np.meshgrid(np.arange(-300, 300, 10.0), np.arange(-200, 200, 10.0))
    whole = sky(TINY, 2, p.when).depth(x, y)
    np.testing.assert_array_equal(whole[:, 30:], sky(TINY, 2, p.when).depth(x[:, 30:], y[:, 30:]))
    assert (whole > 0).any()
    assert (whole < 0).any()


def test_speckle_has_unit_mean_and_the_stated_looks() -> None:
    s = speckle((500, 500), np.random.default_rng(0))
    assert s.dtype == np.float32
    assert s.mean() == pytest.approx(1, abs=0.01)
    assert s.mean() ** 2 / s.var() == pytest.approx(LOOKS, rel=0.03)


def test_band_passes_average_the_spectra() -> None:
    knots, line = np.array([0.0, 1.0]), np.array([0.0, 1.0])
    assert band_mean(0.5, 0.2, knots, line) == pytest.approx(0.5)
    assert band_mean(0.0, 0.2, knots, line) == pytest.approx(0.05 * 11 / 21)  # clamped below 0
    green = endmembers(0.833, 0.106)["green"]
    assert endmembers(0.665, 0.031)["green"] < 0.05 < 0.4 < green
    assert endmembers(1.61, 0.09)["water"] < 0.01


def test_the_sensors_see_the_fuel_moisture() -> None:
    at = stage(TINY, "s2", 31)
    wet = canopy(TINY.seed, at.ground, date(2023, 5, 15))
    shrubs = at.ground.cover == COVER_CODE["shrubland"]
    dry = canopy(TINY.seed, at.ground, date(2023, 8, 15))
    assert np.median(dry.lfmc[shrubs]) < 95 < np.median(wet.lfmc[shrubs])
    assert dry.lfmc.min() >= 30
    assert wet.lfmc.max() <= 260

    def ndwi(state: object) -> np.ndarray:
        nir, swir = (surface(at.ground, state, "s2", b) for b in ("B08", "B11"))  # type: ignore[arg-type]
        return (nir - swir) / (nir + swir)

    assert np.median(ndwi(dry)[shrubs]) < np.median(ndwi(wet)[shrubs]) - 0.02
    vh = [backscatter(at.ground, s, "vh", 38, 0)[shrubs].mean() for s in (dry, wet)]
    assert vh[0] < vh[1]


def test_shares_of_the_ground_sum_to_one() -> None:
    at = stage(TINY, "s2", 32)
    for month in range(1, 13):
        c = canopy(TINY.seed, at.ground, date(2023, month, 10))
        total = c.green + c.dry + c.soil + c.paved + c.water
        np.testing.assert_allclose(total, 1, atol=1e-5)
        assert min(v.min() for v in (c.green, c.dry, c.soil, c.paved)) >= 0


def test_water_cloud_model_by_hand() -> None:
    at = stage(TINY, "s1", 31)
    c = canopy(TINY.seed, at.ground, date(2023, 2, 10))
    k = np.flatnonzero((at.ground.cover == COVER_CODE["track"]).ravel())[0]
    cover = COVERS[COVER_CODE["track"]]
    got = backscatter(at.ground, c, "vv", 38, 0).ravel()[k]
    content, dry, green, moist = (getattr(c, n).ravel()[k] for n in
                                  ("content", "dry", "green", "moisture"))
    t = math.exp(-2 * 0.40 / math.cos(math.radians(38)) * (content + 0.25 * dry))
    rough = cover.rough + at.ground.roughness[at.ground.field.ravel()[k]]
    soil = 10 ** ((-14.5 + 22 * moist + rough) / 10)
    volume = cover.volume[0] * (0.55 + 0.45 * (green + 0.25 * dry))
    assert got == pytest.approx(volume * (1 - t) + t * soil, rel=1e-4)


def test_encoding_keeps_zero_for_nodata() -> None:
    rho = np.array([-0.3, -0.1, 0.0, 0.2537, 9.0], np.float32)
    assert encode(rho, 1e-4, -0.1).tolist() == [1, 1, 1000, 3537, 65535]
    assert encode(rho, 1e-4, 0.0).tolist() == [1, 1, 1, 2537, 65535]
    assert encode(rho, 2.75e-5, -0.2).tolist() == [1, 3636, 7273, 16498, 65535]


def test_season_and_sun() -> None:
    assert drought(1, date(2023, 2, 1)) < 0.1 < 0.8 < drought(1, date(2023, 8, 10))
    assert all(0 <= wetness(1, date(2023, m, 1)) < 1 for m in range(1, 13))
    noon, south = sun(43.9, datetime(2023, 6, 21, 11, 36))
    assert noon == pytest.approx(90 - 43.9 + 23.4, abs=0.5)
    assert south == pytest.approx(180, abs=3)
    assert sun(43.9, datetime(2023, 6, 21, 9, 0))[1] < 150


@pytest.mark.parametrize(("epsg", "x", "y", "tile"), [
    (32631, 740_000, 4_860_000, "31TGJ"), (32632, 259_000, 4_860_000, "32TKP"),
    (32631, 500_000, 5_630_000, "31UES"), (32633, 460_000, 5_550_000, "33UVR"),
])
def test_mgrs_squares(epsg: int, x: int, y: int, tile: str) -> None:
    grid = GeoBox.from_bbox((x, y, x + 60, y + 60), epsg, shape=(6, 6))
    assert mgrs_tile(epsg % 100, grid) == tile


@pytest.mark.parametrize(("bad", "what"), [
    ({"width_km": 0.0}, "size"), ({"lat": -30.0}, "centre"), ({"first": "2024-01"}, "upside down"),
    ({"s2_days": 0}, "at least 1"),
])
def test_bad_parameters_are_refused(bad: dict[str, float], what: str) -> None:
    with pytest.raises(BadRequest, match=what):
        SandboxParams(**bad)  # type: ignore[arg-type]


def test_the_demo_area_crosses_the_boundary_and_both_gaps() -> None:
    area = read_aoi(str(Path(__file__).parents[1] / "aoi" / "demo.geojson"))
    west, south, east, north = SandboxParams.demo().bounds
    assert shapely.box(west, south, east, north).covers(area.geometry)
    assert area.geometry.bounds[0] < 6 < area.geometry.bounds[2]
    told = about(SandboxParams.demo())
    for gap in ("no_clear_sentinel_2", "no_sentinel_1"):
        assert area.geometry.intersection(shapely.geometry.shape(told[gap])).area > 0
    assert (area.defaults["task"], area.defaults["period"]) == ("cropland", "2023-10")
    assert about(dataclasses.replace(SandboxParams.demo(), s1_gap=0.0))["no_sentinel_1"] is None
