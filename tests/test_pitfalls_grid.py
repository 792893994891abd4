"""Where the world is cut: the antimeridian, and the borders of UTM zones."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from shapely.geometry import mapping

from pipeline.data.aoi import read_aoi
from pipeline.data.items import ItemSet
from pipeline.data.search import search, to_item
from pipeline.spec.grid import Sheet, sheets, utm_zone
from pipeline.spec.timeline import parse_period
from tests.support.records import record
from tests.support.stac_server import StacServer

YEAR = parse_period("2023-10", 12)


def centres(sheet: Sheet) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude of the centres of all pixels of a sheet's window, [Y, X] each."""
    t, (h, w) = sheet.geobox.affine, sheet.geobox.shape
    x, y = np.meshgrid(t.c + (np.arange(w) + 0.5) * t.a, t.f + (np.arange(h) + 0.5) * t.e)
    return Transformer.from_crs(sheet.epsg, 4326, always_xy=True).transform(x, y)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    border=st.sampled_from([-174, -6, 0, 6, 12, 174, 180]),
    south=st.sampled_from([-79.9, -40.003, -0.004, 0.0, 31.7, 60.0, 83.9]),
    west=st.floats(0.001, 0.01), east=st.floats(0.001, 0.01),
    lean=st.floats(-0.004, 0.004), pixel_m=st.sampled_from([10, 50, 250]),
)
def test_pixels_meet_at_a_zone_border_without_a_gap_and_without_a_double(
    border: int, south: float, west: float, east: float, lean: float, pixel_m: int
) -> None:
    """A pixel is mapped exactly when its centre lies in the area and in its sheet's own zone, and
    a place has one zone: so no two sheets map it, and none leaves it out."""
    north = south + 0.008
    area = shapely.Polygon([(border - west, south), (border + east, south),
                            (border + east + lean, north), (border - west + lean, north)])
    if border == 180:
        area = shapely.union_all([
            shapely.intersection(area, shapely.box(170, -90, 180, 90)),
            shapely.transform(shapely.intersection(area, shapely.box(180, -90, 190, 90)),
                              lambda xy: xy - (360, 0))])
    parts = sheets(area, pixel_m)
    assert len({s.name for s in parts}) == len(parts)
    assert {s.zone for s in parts} == {utm_zone(border - west),
                                       1 if border == 180 else utm_zone(border)}
    metre = 2e-5  # degrees, and the bend of an edge between two of its vertices
    inner, outer = area.buffer(-metre), area.buffer(metre)
    for sheet in parts:
        lon, lat = centres(sheet)
        mapped = sheet.inside(sheet.geobox)
        own = (lon >= sheet.zone * 6 - 186) & (lon < sheet.zone * 6 - 180)
        own &= (lat >= 0) == sheet.north
        near = (np.abs(lon - border) < metre * 2) | (np.abs(lat) < metre)
        assert (own | near)[mapped].all()
        assert shapely.contains_xy(outer, lon, lat)[mapped & ~near].all()
        assert mapped[shapely.contains_xy(inner, lon, lat) & own & ~near].all()


@pytest.mark.parametrize("text", ["179.99,10,-179.99,10.01", "179.999,-17,-179.98,-16.99"])
def test_an_area_across_the_antimeridian_is_two_small_sheets(text: str) -> None:
    area = read_aoi(text).geometry
    parts = sheets(area, 10)
    assert [s.zone for s in parts] == [1, 60]
    assert all(max(s.geobox.shape) < 500 for s in parts)  # and no belt around the globe
    square_m = sum(s.inside(s.geobox).sum() for s in parts) * 100
    west, south, east, north = (float(v) for v in text.split(","))
    middle = np.cos(np.radians((south + north) / 2))
    assert square_m == pytest.approx(
        (east + 360 - west) * (north - south) * 111_200**2 * middle, rel=0.01)


def test_images_across_the_antimeridian_are_found_once_and_no_others(region: Path) -> None:
    def image(name: str, *boxes: tuple[float, float, float, float]) -> dict:
        outline = shapely.union_all([shapely.box(*b) for b in boxes])
        raw = record(name, f"2023-05-{len(name) % 28 + 1:02d}T22:00:00Z", platform="sentinel-1a")
        return raw | {"collection": "sentinel-1-rtc", "geometry": mapping(outline),
                      "bbox": list(outline.bounds)}

    wanted = [image("e", (178, 9, 180, 11)), image("ww", (-180, 9, -178, 11)),
              image("both", (179, 9, 180, 11), (-180, 9, -179, 11))]
    others = [image("n" * k, (lon, 9, lon + 2, 11))
              for k, lon in enumerate(range(-176, 176, 8), start=5)]
    area = read_aoi("179.9,10,-179.9,10.1").geometry
    with StacServer(region, page=2) as server, pytest.MonkeyPatch.context() as patch:
        server.items = copy.deepcopy(wanted + others)
        asked: list[shapely.Geometry] = []
        answer = server.search

        def watched(query: dict) -> list[dict]:
            asked.append(shapely.geometry.shape(query["intersects"]))
            return answer(query)

        patch.setattr(server, "search", watched)
        found = search(server.url, "s1", area, YEAR)
    assert sorted(i.id for i in found.items) == ["both", "e", "ww"]
    assert found.skipped == ()
    assert asked
    for outline in asked:  # one side of the line at a time, never a belt around the globe
        west, _, east, _ = outline.bounds
        assert east - west < 0.2
    for sheet, names in zip(sheets(area, 10), ({"ww", "both"}, {"e", "both"}), strict=True):
        touching = {found.items[k].id for k in found.touching(sheet.geobox)}
        assert names <= touching


def test_a_window_at_the_antimeridian_touches_its_images_only() -> None:
    def image(name: str, west: float) -> dict:
        raw = record(name, "2023-05-01T22:00:00Z")
        return raw | {"geometry": mapping(shapely.box(west, 9, west + 1, 11))}

    items = ItemSet("s2", "c", tuple(to_item(image(n, w)) for n, w in (
        ("east", 179.0), ("west", -180.0), ("near", 177.0), ("greenwich", 0.0))))
    inner = sheets(shapely.box(179.5, 10, 179.52, 10.01), 10)[0].geobox
    assert [items.items[k].id for k in items.touching(inner)] == ["east"]
