"""The plan: which sensor a tile and each of its cells is mapped from, and why."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pystac
import pytest
import shapely

from pipeline.data.items import ItemSet
from pipeline.infer.plan import plan
from pipeline.spec.grid import sheets
from pipeline.spec.tasks import CROPLAND
from tests.support.tiles import AREA, YEAR
from tests.support.toy import sensor_card, toy_card

WIDE = shapely.box(2.9, 50.7, 3.1, 50.9)


def item(name: str, month: int, cloud: float | None, box: shapely.Geometry) -> pystac.Item:
    properties = {} if cloud is None else {"eo:cloud_cover": cloud}
    return pystac.Item(name, shapely.geometry.mapping(box), list(box.bounds),
                       datetime(2023, month, 5, tzinfo=UTC), properties)


def test_the_plan_expects_the_hand_worked_number_of_steps() -> None:
    (sheet,) = sheets(AREA, 10)
    s2 = ItemSet("s2", "c", (item("a", 1, 50.0, WIDE), item("b", 1, 80.0, WIDE),
                             item("c", 7, 0.0, WIDE), item("d", 8, 100.0, WIDE)))
    rows = plan([sheet], 512, {"s2": s2}, toy_card(CROPLAND), YEAR, ("s2",))
    # January: 1 - 0.5 * 0.8 = 0.6; July: 1; August: 0
    for row in rows:
        assert row.choices[0].expected_steps == pytest.approx(1.6)
        assert row.choices[0].score == pytest.approx(0.5 + 0.4 * 1.6 / 12)
        assert "asked for" in row.reason


def test_auto_takes_the_better_score_and_says_why() -> None:
    (sheet,) = sheets(AREA, 10)
    items = {
        "s1": ItemSet("s1", "c", tuple(item(f"r{m}", m, None, WIDE) for m in range(1, 13))),
        "s2": ItemSet("s2", "c", tuple(item(f"o{m}", m, 70.0, WIDE) for m in range(1, 13))),
    }
    card = toy_card(CROPLAND, {"s1": sensor_card(CROPLAND, "s1", (0.5, 0.85)),
                               "s2": sensor_card(CROPLAND, "s2", (0.5, 0.95))})
    (row, *_) = plan([sheet], 512, items, card, YEAR, ())
    # s1 has all 12 steps: 0.85; s2 expects 3.6 of them: 0.5 + 0.45 * 0.3 = 0.635
    assert [c.sensor for c in row.choices] == ["s1", "s2"]
    assert "best expected weighted F1" in row.reason
    assert "s2 0.635 at 3.6" in row.reason
    (row, *_) = plan([sheet], 512, items, card, YEAR, ("s2", "s1"))
    assert [c.sensor for c in row.choices] == ["s2", "s1"]


def test_the_choice_of_a_pixel_depends_on_neither_tile_nor_area() -> None:
    # Sentinel-2 covers the west only: there it leads, in the east Sentinel-1 does
    west = shapely.box(2.9, 50.7, 3.02, 50.9)
    items = {
        "s1": ItemSet("s1", "c", tuple(item(f"r{m}", m, None, WIDE) for m in range(1, 13))),
        "s2": ItemSet("s2", "c", tuple(item(f"o{m}", m, 0.0, west) for m in range(1, 13))),
    }
    card = toy_card(CROPLAND, {"s1": sensor_card(CROPLAND, "s1", (0.5, 0.85)),
                               "s2": sensor_card(CROPLAND, "s2", (0.5, 0.95))})

    def leader(area: shapely.Geometry, tile_px: int) -> dict[tuple[int, int], str]:
        """First sensor of every pixel, by its lattice row and column."""
        (sheet,) = sheets(area, 10)
        found = {}
        row0, col0 = sheet.lattice_origin
        for row in plan([sheet], tile_px, items, card, YEAR, ()):
            for key in ("s1", "s2"):
                for y, x in np.argwhere(row.where(key, 0)):
                    at = (row0 + row.tile.rows.start + y, col0 + row.tile.cols.start + x)
                    assert at not in found
                    found[int(at[0]), int(at[1])] = key
        return found

    big, small = shapely.box(3.0, 50.8, 3.05, 50.815), shapely.box(3.018, 50.803, 3.04, 50.81)
    one = leader(big, 512)
    assert set(one.values()) == {"s1", "s2"}
    assert leader(big, 48) == one
    part = leader(small, 100)
    assert part
    assert all(one[at] == key for at, key in part.items())


def test_a_tile_without_an_acquisition_has_no_choice() -> None:
    (sheet,) = sheets(AREA, 10)
    elsewhere = ItemSet("s1", "c", (item("x", 1, None, shapely.box(9, 9, 10, 10)),))
    for row in plan([sheet], 64, {"s1": elsewhere}, toy_card(CROPLAND), YEAR, ("s1",)):
        assert row.choices == ()
        assert not row.where("s1", 0).any()
        assert "no acquisition" in row.reason
