"""The plan, as a file and against the pixels: what is expected, chosen, and chosen again."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import shapely

from pipeline import cli
from pipeline.data.items import ItemSet
from pipeline.infer.decide import changes, decide
from pipeline.infer.plan import Cell, Choice, PlanRow, plan
from pipeline.map import command
from pipeline.publish.plan_file import plan_geojson
from pipeline.spec.grid import sheets
from pipeline.spec.sensors import SENSORS
from pipeline.spec.tasks import CROPLAND
from pipeline.spec.timeline import Timeline
from tests.support.toy import sensor_card, toy_card

YEAR = Timeline(2023 * 12, 12)
AREA = shapely.box(3.0, 50.8, 3.01, 50.806)
WIDE = shapely.box(2.9, 50.7, 3.1, 50.9)


def item(name: str, when: datetime, box: shapely.Geometry, **properties: object) -> pystac.Item:
    return pystac.Item(name, shapely.geometry.mapping(box), list(box.bounds), when,
                       {"platform": "a", **properties})


def monthly(sensor: str, cloud: float, box: shapely.Geometry) -> ItemSet:
    return ItemSet(sensor, "c", tuple(
        item(f"{sensor}{m}", datetime(2023, m, 5, tzinfo=UTC), box, **{"eo:cloud_cover": cloud})
        for m in range(1, 13)))


# ---------------------------------------------------------------- expectations


def test_expected_observations_are_hand_worked() -> None:
    at = datetime(2023, 3, 5, tzinfo=UTC)
    west = shapely.box(2.9, 50.7, 3.005, 50.9)
    frames = (
        item("a", at, WIDE), item("b", at + timedelta(seconds=25), WIDE),  # one pass: counts once
        item("c", at + timedelta(days=6), WIDE, **{"eo:cloud_cover": 60.0}),
        item("d", datetime(2023, 7, 1, tzinfo=UTC), west),
    )
    (sheet,) = sheets(AREA, 10)
    (row,) = plan([sheet], 4096, {"s1": ItemSet("s1", "c", frames)}, toy_card(CROPLAND), YEAR, ())
    for cell in row.cells:
        (choice,) = cell.choices
        assert len(choice.observations) == 12
        assert choice.observations[2] == pytest.approx(1 + 0.4)
        assert 0 <= choice.observations[6] <= 1
        assert sum(choice.observations) == pytest.approx(1.4 + choice.observations[6])
    assert row.choices[0].observations[2] == pytest.approx(1.4)


# ---------------------------------------------------------------- the file


def geometries(plan_file: dict) -> list[shapely.Geometry]:
    return [shapely.from_geojson(json.dumps(f["geometry"])) for f in plan_file["features"]]


def rings(geometry: shapely.Geometry):
    for part in shapely.get_parts(geometry):
        yield part.exterior, True
        yield from ((ring, False) for ring in part.interiors)


@pytest.mark.parametrize("area", [
    shapely.box(5.95, 50.0, 6.05, 50.05).difference(shapely.box(5.98, 50.01, 5.99, 50.02)),
    shapely.MultiPolygon([shapely.box(179.96, -16.5, 180, -16.47),
                          shapely.box(-180, -16.5, -179.96, -16.47)]),
], ids=["two zones and a hole", "across the antimeridian"])
def test_the_cells_of_the_file_are_the_area(area) -> None:
    parts = sheets(area, 10)
    items = {"s1": monthly("s1", 0.0, shapely.box(-180, -90, 180, 90))}
    rows = plan(parts, 200, items, toy_card(CROPLAND), YEAR, ())
    written = json.loads(json.dumps(plan_geojson(rows, YEAR, "weighted F1"), allow_nan=False))
    assert written["type"] == "FeatureCollection"
    assert "crs" not in written  # RFC 7946, section 4
    assert written["months"][0] == "2023-01"
    assert len({f["id"] for f in written["features"]}) == len(written["features"])
    shapes = geometries(written)
    for shape in shapes:
        assert shape.is_valid
        west, south, east, north = shape.bounds
        assert -180 <= west < east <= 180
        assert -90 <= south < north <= 90
        assert east - west < 0.1  # none around the world
        for ring, outer in rings(shape):
            assert ring.is_ccw is outer  # RFC 7946, section 3.1.6
    union = shapely.union_all(shapes)
    assert union.symmetric_difference(area).area < 1e-3 * area.area
    assert sum(s.area for s in shapes) == pytest.approx(union.area, rel=1e-4)  # no overlap


def test_a_feature_says_what_is_expected_and_why() -> None:
    (sheet,) = sheets(AREA, 10)
    card = toy_card(CROPLAND, {"s1": sensor_card(CROPLAND, "s1", (0.5, 0.85)),
                               "s2": sensor_card(CROPLAND, "s2", (0.5, 0.95))})
    items = {"s1": monthly("s1", 0.0, WIDE), "s2": monthly("s2", 70.0, WIDE)}

    def first(order: tuple[str, ...], mode=None) -> dict:
        rows = plan([sheet], 512, items, card, YEAR, order, mode)
        return plan_geojson(rows, YEAR, card.metric)["features"][0]["properties"]

    best = first(())
    assert (best["choice"], best["expected_score"]) == ("s1", 0.85)
    assert "best expected weighted F1" in best["reason"]
    s1, s2 = best["sensors"]
    assert (s1["sensor"], s1["items"], s1["expected_steps"]) == ("s1", 12, 12.0)
    assert s2["expected_observations"] == [0.3] * 12
    assert s2["score"] == 0.635
    assert first(("s2", "s1"))["choice"] == "s2"
    fused = first((), "all")
    assert (fused["choice"], fused["expected_score"]) == ("s1+s2", None)
    assert fused["reason"].startswith("all sensors fused: s1 12.0 of 12 steps expected")


# ---------------------------------------------------------------- decided again


def row_of(mode: str, *scores: tuple[str, float, float]) -> PlanRow:
    """A tile with one cell of these sensors: key, expected steps, expected score."""
    (sheet,) = sheets(AREA, 10)
    tile = next(iter(sheet.tiles(32)))
    choices = tuple(Choice(key, 1, steps, score) for key, steps, score in scores)
    return PlanRow(sheet, tile, (Cell(slice(None), slice(None), choices),), "test", mode)


CARD = toy_card(CROPLAND, {"s1": sensor_card(CROPLAND, "s1", (0.5, 0.8)),
                           "s2": sensor_card(CROPLAND, "s2", (0.5, 0.95)),
                           "l8": sensor_card(CROPLAND, "l8", (0.5, 0.9))})


class Pixels:
    """Steps with data per sensor; remembers who was asked."""

    def __init__(self, row: PlanRow, **steps: list[int]) -> None:
        shape = row.tile.geobox.shape
        self.inside = np.zeros(shape, bool)
        n = len(next(iter(steps.values())))
        self.inside[0, :n] = True
        self.asked: dict[str, np.ndarray] = {}
        self.steps = {key: np.zeros(shape, int) for key in steps}
        for key, values in steps.items():
            self.steps[key][0, :n] = values

    def __call__(self, sensor: str) -> np.ndarray:
        self.asked[sensor] = self.steps[sensor]
        return self.steps[sensor]

    def taken(self, made: dict[str, np.ndarray]) -> list[str]:
        return ["".join(k for k, mask in made.items() if mask[at])
                for at in map(tuple, np.argwhere(self.inside))]


def test_a_pixel_worse_than_the_next_promise_looks_on_and_takes_the_best() -> None:
    # worth of s2: 0.5 + 0.45 n / 12; promises: s2 at 8 steps 0.8, s1 at 11 steps 0.775
    row = row_of("best", ("s2", 8, 0.8), ("s1", 11, 0.775))
    pixels = Pixels(row, s2=[8, 7, 6, 2, 6, 2], s1=[12, 12, 12, 12, 8, 2])
    made = decide(row, pixels.inside, CARD, 3, pixels)
    # 8: 0.8 holds; 7: 0.7625 < 0.775, s1 is worth 0.8; 6 and 2 likewise; s1 at 8 steps is worth
    # 0.7, s2 at 6 is 0.725 and stays; two steps are too few of either
    assert pixels.taken(made) == ["s2", "s1", "s1", "s1", "s2", ""]
    said = changes(row, pixels.inside, made, pixels.asked)
    assert said == "planned s2, took s1 for 3 pixels: 5.0 of 8.0 expected steps clear"


def test_a_promise_that_is_kept_asks_no_other_sensor() -> None:
    row = row_of("best", ("s2", 8, 0.8), ("l8", 8, 0.76), ("s1", 11, 0.775))
    pixels = Pixels(row, s2=[8, 12], s1=[12, 12], l8=[12, 12])
    assert pixels.taken(decide(row, pixels.inside, CARD, 3, pixels)) == ["s2", "s2"]
    assert list(pixels.asked) == ["s2"]


def test_an_order_that_was_asked_for_is_kept_while_there_is_a_value() -> None:
    row = row_of("order", ("s2", 8, 0.8), ("s1", 11, 0.775))
    pixels = Pixels(row, s2=[3, 2], s1=[12, 12])
    made = decide(row, pixels.inside, CARD, 3, pixels)
    assert pixels.taken(made) == ["s2", "s1"]
    assert "took s1 for 1 pixels: 2.0 of 8.0" in changes(row, pixels.inside, made, pixels.asked)


# ---------------------------------------------------------------- plan, pixels and manifest agree


def test_plan_sensor_and_manifest_agree(region, region_aoi, untrained, tmp_path, capsys) -> None:
    def run(*options: str) -> dict:
        assert cli.run(command, [
            "--aoi", region_aoi, "--catalog", str(region / "catalog.json"), "--sensor", "auto",
            "--period", "2023-10", "--checkpoint", str(untrained["cropland"]), "--out",
            str(tmp_path / "out"), "--quiet", "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)

    promised = run("--dry-run")
    features = json.loads(Path(promised["plan"]).read_text())["features"]
    assert {f["properties"]["choice"] for f in features} <= SENSORS.keys()
    manifest = run()
    moved = 0
    for sheet in {t["sheet"] for t in manifest["tiles"]}:
        with rasterio.open(tmp_path / "out" / sheet / "sensor.tif") as src:
            codes = src.read(1)
        tiles = [t for t in manifest["tiles"] if t["sheet"] == sheet]
        for key, sensor in SENSORS.items():
            assert (codes == sensor.code).sum() == sum(t["mapped_px"].get(key, 0) for t in tiles)
        assert (codes != 255).sum() == sum(sum(t["planned_px"].values()) for t in tiles)
        for tile in tiles:
            choices = {f["properties"]["choice"] for f in features
                       if (f["properties"]["sheet"], f["properties"]["tile"]) == (
                           sheet, tile["tile"])}
            assert set(tile["planned_px"]) == choices
            lost = sum(max(n - tile["mapped_px"].get(key, 0), 0)
                       for key, n in tile["planned_px"].items())
            assert bool(lost) <= ("planned " in tile["reason"])
            moved += lost
    assert moved > 0  # part of the region has no clear pixel of the sensor that leads there
