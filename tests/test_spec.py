"""Nouns: periods, lattice, cards, requests."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from pipeline.spec.card import FEATURE_PATH, CheckpointCard, SensorCard
from pipeline.spec.errors import BadRequest
from pipeline.spec.grid import sheets, utm_zone, window
from pipeline.spec.request import MapRequest, last_season, sensor_order
from pipeline.spec.sensors import SENSORS, sensor
from pipeline.spec.tasks import CROPLAND, LFMC, TASKS, task
from pipeline.spec.timeline import Timeline, month_of, month_text, parse_period

NOW = datetime(2024, 3, 15, tzinfo=UTC)


def test_a_single_month_is_the_last_of_the_timeline() -> None:
    timeline = parse_period("2023-10", 12, NOW)
    assert str(timeline) == "2022-11:2023-10"
    assert timeline.start == datetime(2022, 11, 1, tzinfo=UTC)
    assert timeline.end == datetime(2023, 11, 1, tzinfo=UTC)
    assert timeline == parse_period("2022-11:2023-10", 12, NOW)


def test_steps_are_calendar_months() -> None:
    timeline = parse_period("2022-11:2023-10", 12, NOW)
    assert timeline.step_of(datetime(2022, 11, 1, tzinfo=UTC)) == 0
    assert timeline.step_of(datetime(2023, 10, 31, 23, 59, tzinfo=UTC)) == 11
    assert timeline.step_of(datetime(2023, 11, 1, tzinfo=UTC)) is None
    assert month_text(month_of(datetime(1999, 12, 31, tzinfo=UTC))) == "1999-12"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2023", "not a month"), ("2023-13", "not a month"), ("1950-01", "not a month"),
        ("2023-10:2022-11", "upside down"), ("2024-04", "future"),
        ("2023-01:2023-10", "12 monthly steps, the period has 10"), ("", "not a month"),
    ],
)
def test_a_bad_period_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says) as caught:
        parse_period(text, 12, NOW)
    assert "\n" not in str(caught.value)


def test_the_last_season_is_complete_on_both_hemispheres() -> None:
    assert str(last_season(CROPLAND, 44, NOW)) == "2022-11:2023-10"
    assert str(last_season(CROPLAND, -20, NOW)) == "2022-05:2023-04"
    assert str(last_season(LFMC, 44, NOW)) == "2023-11:2024-02"


def test_unknown_keys_list_the_valid_ones() -> None:
    with pytest.raises(BadRequest, match="s1, s2, l8"):
        sensor("s3")
    with pytest.raises(BadRequest, match="cropland, lfmc"):
        task("forest")
    with pytest.raises(BadRequest, match="unknown sensor"):
        sensor_order("s1,s9")
    with pytest.raises(BadRequest, match="twice"):
        sensor_order("s1,s1")
    assert sensor_order("auto") == ()
    assert sensor_order("s2, s1") == ("s2", "s1")


def test_tasks_are_consistent() -> None:
    for t in TASKS.values():
        assert t.pixel_m % t.read_m == 0
        assert set(t.features) == set(SENSORS)
        assert t.nodata not in {c.code for c in t.classes}
        if not t.classes:  # the largest value still fits below nodata
            assert t.valid_range[1] / t.scale < t.nodata


def test_sheets_partition_an_area_across_a_zone_boundary() -> None:
    area = shapely.box(5.9, 44.0, 6.1, 44.05)
    west, east = sheets(area, 10)
    assert (west.name, west.epsg, east.name, east.epsg) == ("utm31n", 32631, "utm32n", 32632)
    total = sum(s.inside(s.geobox).sum() for s in (west, east)) * 1e-4  # km2
    to_31 = Transformer.from_crs(4326, 32631, always_xy=True).transform
    exact = shapely.transform(shapely.segmentize(area, 0.001), to_31, interleaved=False).area
    # UTM areas at a zone's edge are 0.08 % too large on either side
    assert total == pytest.approx(exact / 1e6, rel=3e-4)


def test_sheets_across_the_equator() -> None:
    north, south = sheets(shapely.box(30.0, -0.01, 30.02, 0.01), 10)
    assert (north.epsg, south.epsg) == (32636, 32736)


@settings(max_examples=40, deadline=None)
@given(
    west=st.floats(-179, 178), south=st.floats(-79, 80), width=st.floats(0.001, 0.02),
    height=st.floats(0.001, 0.02), tile_px=st.integers(16, 300),
)
def test_tiles_cover_each_pixel_of_a_sheet_once(
    west: float, south: float, width: float, height: float, tile_px: int
) -> None:
    for sheet in sheets(shapely.box(west, south, west + width, south + height), 10):
        seen = np.zeros(sheet.geobox.shape, int)
        for tile in sheet.tiles(tile_px):
            seen[tile.rows, tile.cols] += 1
            assert tile.geobox == sheet.geobox[tile.rows, tile.cols]
            assert max(tile.geobox.shape) <= tile_px
        inside = sheet.inside(sheet.geobox)
        assert (seen[inside] == 1).all()
        assert seen.max() <= 1


def test_overlapping_areas_share_the_lattice() -> None:
    (one,) = sheets(shapely.box(3.0, 50.8, 3.1, 50.85), 250)
    (two,) = sheets(shapely.box(3.03, 50.81, 3.2, 50.9), 250)
    for sheet in (one, two):
        assert sheet.geobox.affine.c % 250 == 0
        assert sheet.geobox.affine.f % 250 == 0
    tile = next(iter(one.tiles(64)))
    assert tile.ix == int(tile.geobox.affine.c // (64 * 250))


def test_utm_zones_partition_the_globe() -> None:
    assert [utm_zone(v) for v in (-180, -174.001, -174, 0, 5.999, 6, 179.999, 180)] == [
        1, 1, 2, 31, 31, 32, 60, 60,
    ]


def test_window_snaps_outwards() -> None:
    box = window((501365, 5629041, 501999, 5629679), 32631, 10)
    assert box.boundingbox.bbox == (501360, 5629040, 502000, 5629680)


def make_card(**changes: object) -> CheckpointCard:
    """A small valid card."""
    s1 = SensorCard(
        features=("vv", "vh"), mean=(-10.0, -17.0), std=(3.0, 3.0), radiometry="gamma0-rtc",
        accepts=("gamma0-rtc",), coverage_steps=(1, 4, 12), coverage_score=(0.5, 0.8, 0.9),
        coverage_half_width=(60.0, 40.0, 30.0),
    )
    card = CheckpointCard(
        name="test", task="cropland", method="mdico", encoder="tempcnn", options={},
        feature_path=FEATURE_PATH, steps=12, sensors={"s1": s1}, metric="weighted F1",
        protocol="none", baselines={}, data=(), sha256="0" * 64,
    )
    return dataclasses.replace(card, **changes)  # type: ignore[arg-type]


def test_a_card_survives_json() -> None:
    card = make_card()
    again = CheckpointCard.from_json(json.loads(json.dumps(card.to_json())))
    assert again.sensors["s1"].features == ("vv", "vh")
    assert json.dumps(again.to_json()) == json.dumps(card.to_json())


def test_coverage_is_interpolated_and_never_extrapolated() -> None:
    s1 = make_card().sensors["s1"]
    found = [s1.score_at(k) for k in (0, 1, 2.5, 12, 99)]
    assert found == pytest.approx([0.5, 0.5, 0.65, 0.9, 0.9])
    assert s1.half_width_at(8) == pytest.approx(35.0)
    bare = dataclasses.replace(s1, coverage_half_width=())
    assert math.isnan(bare.half_width_at(3))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": 99}, "another schema"),
        ({"feature_path": "0"}, "another feature path"),
        ({"surprise": 1}, "missing or unknown fields"),
        ({"sensors": {"s1": {}}}, "missing or unknown fields"),
        ({"sensors": 3}, "missing or unknown fields"),
    ],
)
def test_a_card_of_another_make_is_refused(change: dict, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        CheckpointCard.from_json({**make_card().to_json(), **change})


@pytest.mark.parametrize("broken", [{"std": (0.0, 1.0)}, {"mean": (1.0,)}, {"coverage_score": ()},
                                    {"mean": (math.inf, 0.0)}])
def test_missing_statistics_raise(broken: dict) -> None:
    raw = make_card().to_json()
    raw["sensors"]["s1"] |= broken
    with pytest.raises(BadRequest, match="s1"):
        CheckpointCard.from_json(raw)


def test_a_request_is_checked_where_it_is_born() -> None:
    def request(tile_px: int = 512, device: str = "cpu", sensor: str = "s1") -> MapRequest:
        return MapRequest("a.geojson", sensor, CROPLAND, Timeline(24000, 12), "c", "k", Path("o"),
                          tile_px, device)

    assert request().to_json()["period"] == "2000-01:2000-12"
    for bad in ({"tile_px": 8}, {"device": "tpu"}, {"sensor": "s7"}):
        with pytest.raises(BadRequest):
            request(**bad)  # type: ignore[arg-type]


def test_tiles_that_ask_for_their_pixels_at_once_leave_the_warnings_alone() -> None:
    """rasterio turns warnings off for the whole process while it draws an outline."""
    (sheet,) = sheets(shapely.box(3.05, 50.65, 3.06, 50.66), 10)
    wanted, before = sheet.inside(sheet.geobox), list(warnings.filters)
    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(6) as pool:
            masks = list(pool.map(lambda _: sheet.inside(sheet.geobox), range(600)))
    finally:
        sys.setswitchinterval(often)
    assert all((mask == wanted).all() for mask in masks)
    assert warnings.filters == before
