"""A tile that fails leaves nothing behind; an empty one is a failure only where all are empty."""

from __future__ import annotations

import dataclasses
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import shapely

from pipeline.data.items import ItemSet
from pipeline.data.presence import hollow
from pipeline.data.search import to_item
from pipeline.infer.plan import PlanRow
from pipeline.infer.tile import map_tile
from pipeline.spec.cube import Cube
from pipeline.spec.errors import DataTrouble
from pipeline.spec.grid import window
from pipeline.spec.layers import NO_QUALITY, NO_SENSOR, OUTSIDE, layers_of
from pipeline.spec.tasks import CROPLAND
from tests.support.records import record
from tests.support.tiles import FakeReader, predictor_of, rows_of


class Doubled(FakeReader):
    """Two observations a month; the named sensor cannot be read."""

    def __init__(self, lost: str = "") -> None:
        super().__init__()
        self.lost = lost

    def __call__(self, row: PlanRow, sensor: str) -> tuple[Cube, float]:
        if sensor == self.lost:
            raise DataTrouble(f"cannot read an image of {sensor}")
        cube, took = super().__call__(row, sensor)
        return dataclasses.replace(cube, count=cube.count * 2), took


def mapped(row: PlanRow, reader: Doubled) -> tuple:
    first: Future = Future()
    first.set_result(reader(row, row.choices[0].sensor))
    return map_tile(row, first, reader, predictor_of(), layers_of(CROPLAND))


@pytest.mark.parametrize("mode", ["order", "all"])
def test_what_was_made_before_a_failure_is_not_kept(mode: str) -> None:
    """The first sensor is read and maps half of the tile; the second one's file is lost."""
    row = dataclasses.replace(rows_of(("s2", "s1"))[0], mode=mode)
    inside = row.sheet.inside(row.tile.geobox)
    whole, arrays = mapped(row, Doubled())
    assert whole.status == "mapped"
    assert set(np.unique(arrays["observations"][inside])) <= {24, 48}  # of 12 months, all of them
    failed, arrays = mapped(row, Doubled("s1"))
    assert failed.status == "failed"
    assert "an image of s1" in failed.reason
    assert failed.mapped_px == {}
    for name in ("map", "confidence"):
        assert (arrays[name] == 255).all()
    for name, code in (("sensor", NO_SENSOR), ("quality", NO_QUALITY)):
        np.testing.assert_array_equal(arrays[name], np.where(inside, code, OUTSIDE))
    assert (arrays["observations"][inside] == 0).all()


GRID = window((500000, 5600000, 500040, 5600040), 32631, 10)


def image(folder: Path, name: str, value: float) -> pystac.Item:
    path = folder / f"{name}.tif"
    with rasterio.open(path, "w", driver="GTiff", width=4, height=4, count=1, dtype="float32",
                       crs="EPSG:32631", transform=GRID.affine) as file:
        file.write(np.full((4, 4), value, np.float32), 1)
    raw = record(name, "2023-05-01T00:00:00Z") | {
        "collection": "sentinel-1-rtc", "assets": {"vv": {"href": str(path)}},
        "geometry": shapely.geometry.mapping(shapely.box(2.9, 50.4, 3.1, 50.6))}
    return to_item(raw)


def test_only_where_all_images_are_hollow_something_is_wrong(tmp_path: Path) -> None:
    empty, border, good = (image(tmp_path, name, value) for name, value in (
        ("empty", -32768), ("border", 0), ("good", 0.1)))

    def found(*items: pystac.Item) -> list[str]:
        return [Path(href).stem for href in hollow(ItemSet("s1", "c", items), GRID)]

    assert found(empty, border) == ["empty", "border"]
    for order in ((empty, good), (good, empty), (empty, good, border)):
        assert found(*order) == []
