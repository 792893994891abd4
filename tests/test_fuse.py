"""--sensor all: what the sensors say together, by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from pipeline import cli
from pipeline.infer.fuse import fuse
from pipeline.infer.part import Part
from pipeline.map import command
from pipeline.spec.layers import UNLIKE, sensor_code, sensor_layer
from pipeline.spec.quality import QualityRules
from pipeline.spec.tasks import CROPLAND, LFMC
from tests.support.toy import sensor_card, toy_card

NAN = float("nan")


def part(sensor: str, *score: list[float], steps: int = 12, index: float = NAN, count: int = 20):
    """One sensor's prediction: a row of scores a class."""
    n = len(score[0])
    return Part(sensor, np.array(score, np.float32), np.full(n, steps),
                np.full(n, index, np.float32), np.full(n, count, np.uint16))


def card_of(task, **changes):
    """A toy card with entries changed by sensor."""
    card = toy_card(task)
    sensors = {key: dataclasses.replace(card.sensors[key], **changes.get(key, {}))
               for key in card.sensors}
    return dataclasses.replace(card, sensors=sensors)


def fused(parts, task=CROPLAND, **changes):
    card = card_of(task, **changes)
    return fuse(parts, task, card, QualityRules.of(task, card))


SCORES = {"s1": {"coverage_score": (0.5, 0.8)}, "s2": {"coverage_score": (0.5, 0.9)}}


def test_probabilities_are_pooled_by_hand_worked_weights() -> None:
    parts = [part("s1", [0.3, 0.8], [0.7, 0.2]), part("s2", [0.8, 0.2], [0.2, 0.8])]
    result = fused(parts, **SCORES)
    # votes: log(0.8 / 0.2) = 1.3863 and log(0.9 / 0.1) = 2.1972, hence 0.3869 and 0.6131
    w = np.log([4.0, 9.0]) / np.log(36.0)
    for column, (s1, s2) in enumerate((((0.3, 0.7), (0.8, 0.2)), ((0.8, 0.2), (0.2, 0.8)))):
        p = np.power(s1, w[0]) * np.power(s2, w[1])
        p /= p.sum()
        assert result.value[column] == p.argmax()
        assert result.confidence[column] == pytest.approx(100 * p.max(), abs=0.51)
    assert result.value.tolist() == [0, 1]  # equally sure: the better sensor wins
    assert result.sensor.tolist() == [19, 19]
    assert result.observations.tolist() == [40, 40]


def test_two_that_agree_are_no_surer_than_they_are() -> None:
    # their errors are related: 0.8 and 0.8 stay 0.8, a product would claim 0.94
    result = fused([part("s1", [0.2], [0.8]), part("s2", [0.2], [0.8])], **SCORES)
    assert result.confidence.tolist() == [80]


def test_fewer_steps_weigh_less() -> None:
    many = fused([part("s1", [0.7], [0.3]), part("s2", [0.2], [0.8])], **SCORES)
    few = fused([part("s1", [0.7], [0.3]), part("s2", [0.2], [0.8], steps=3)], **SCORES)
    assert (many.value[0], few.value[0]) == (1, 0)


def test_a_pixel_of_one_sensor_is_as_from_it_alone() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(500).astype(np.float32)
    s1 = part("s1", p, 1 - p, count=7)
    gap = part("s2", np.full(500, NAN), np.full(500, NAN), steps=1, count=2)
    result = fused([s1, gap])
    np.testing.assert_array_equal(result.value, (1 - p > p).astype(np.uint8))
    np.testing.assert_array_equal(result.confidence, np.rint(100 * np.maximum(p, 1 - p)))
    assert set(result.sensor) == {1}
    assert set(result.observations) == {7}


def test_values_are_weighted_by_their_half_widths() -> None:
    halves = {"s1": {"coverage_half_width": (20.0, 20.0)},
              "l8": {"coverage_half_width": (40.0, 40.0)}}
    result = fused([part("s1", [100.0, 100.0], steps=4), part("l8", [140.0, NAN], steps=4)], LFMC,
                   **halves)
    # weights 1/400 and 1/1600: 0.8 and 0.2; 108 %, half-width 0.8 * 20 + 0.2 * 40 = 24
    assert result.value.tolist() == [1080, 1000]
    assert result.confidence.tolist() == [240, 200]
    assert result.sensor.tolist() == [21, 1]


def test_the_half_width_holds_however_related_the_errors_are() -> None:
    halves = {"s1": {"coverage_half_width": (20.0, 20.0)},
              "l8": {"coverage_half_width": (40.0, 40.0)}}
    result = fused([part("s1", [100.0], steps=4), part("l8", [140.0], steps=4)], LFMC, **halves)
    rng = np.random.default_rng(1)
    z = rng.normal(size=20_000)
    for other in (z, rng.normal(size=20_000)):  # the same errors, and unrelated ones
        errors = 0.8 * 20 / 1.645 * z + 0.2 * 40 / 1.645 * other
        assert (np.abs(errors) <= result.confidence[0] * LFMC.scale).mean() >= 0.89


def test_a_sensor_outside_its_domain_is_left_out_where_another_is_inside() -> None:
    limits = {"s1": {"domain_threshold": 1.0}, "s2": {"domain_threshold": 1.0}}
    odd = part("s1", [0.01], [0.99], index=3.0)
    result = fused([odd, part("s2", [0.6], [0.4], index=0.5)], **limits)
    assert (result.value[0], result.sensor[0], result.observations[0]) == (0, 2, 20)
    assert result.quality[0] != UNLIKE
    both = fused([odd, part("s2", [0.6], [0.4], index=2.0)], **limits)
    assert (both.sensor[0], both.quality[0]) == (19, UNLIKE)


def test_every_set_of_sensors_has_a_code_in_the_legend() -> None:
    legend = {c.name: c.code for c in sensor_layer().classes}
    assert sensor_code(["s2"]) == 2
    assert sensor_code(["s1", "s2"]) == legend["s1+s2"] == 16 + 0b011
    assert sensor_code(["l8", "s1"]) == legend["s1+l8"] == 16 + 0b101
    assert sensor_code(["s1", "s2", "l8"]) == legend["s1+s2+l8"] == 16 + 0b111
    assert len(set(legend.values())) == len(legend) == 8


def test_a_card_no_better_than_chance_still_gives_a_map() -> None:
    assert sensor_card(CROPLAND, "s1", (0.3, 0.3)).score_at(12) == 0.3
    chance = {key: {"coverage_score": (0.3, 0.3)} for key in ("s1", "s2")}
    result = fused([part("s1", [0.1], [0.9]), part("s2", [0.4], [0.6])], **chance)
    assert result.value.tolist() == [1]


@pytest.fixture
def mapped(region: Path, region_aoi: str, untrained, tmp_path: Path):
    """Map the tiny region from all sensors; returns layers by path, and the manifest."""

    def go(task: str, period: str, tile: int):
        out = tmp_path / f"{task}-{tile}"
        assert cli.run(command, [
            "--aoi", region_aoi, "--catalog", str(region / "catalog.json"), "--sensor", "all",
            "--task", task, "--period", period, "--checkpoint", str(untrained[task]), "--out",
            str(out), "--tile-size", str(tile), "--quiet"]) == 0
        layers = {}
        for path in sorted(out.rglob("*.tif")):
            with rasterio.open(path) as src:
                layers[str(path.relative_to(out))] = src.read(1)
        return layers, json.loads((out / "manifest.json").read_text())

    return go


@pytest.mark.parametrize(("task", "period"), [("cropland", "2023-10"), ("lfmc", "2023-08")])
def test_the_tile_size_changes_no_fused_pixel(mapped, task, period, capsys) -> None:
    (one, manifest), (two, _) = mapped(task, period, 512), mapped(task, period, 90)
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name], err_msg=name)
    names = {c.code: c.name for c in sensor_layer().classes}
    counted: dict[str, int] = {}
    for name, values in one.items():
        if name.endswith("sensor.tif"):
            for code, n in zip(*np.unique(values, return_counts=True), strict=True):
                if code not in (0, 255):
                    counted[names[code]] = counted.get(names[code], 0) + int(n)
    stated: dict[str, int] = {}
    for tile in manifest["tiles"]:
        assert tile["reason"].startswith("all sensors fused: ")
        for key, n in tile["mapped_px"].items():
            stated[key] = stated.get(key, 0) + n
    assert counted == stated
    if task == "cropland":  # one part of the region has no Sentinel-1, one no Sentinel-2
        assert {"s1+s2+l8", "s1+l8", "s2+l8"} <= stated.keys()
