"""The shipped checkpoints on the real scenes: complete, consistent, in range."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from pipeline import cli
from pipeline.map import command


@pytest.fixture
def mapped(shared: Path, tmp_path: Path):
    """Map a scene with a shipped checkpoint; returns its layers by name, in the layer's unit."""

    def go(place: str, sensor: str, period: str, task: str = "cropland") -> dict[str, np.ndarray]:
        scene, out = shared / "scenes" / place, tmp_path / f"{place}-{sensor}-{task}"
        assert cli.run(command, [
            "--aoi", str(scene / "aoi.geojson"), "--catalog", str(scene / "catalog.json"),
            "--sensor", sensor, "--period", period, "--task", task, "--out", str(out), "--quiet",
        ]) == 0
        layers = {}
        for path in out.glob("*.tif"):
            with rasterio.open(path) as src:
                layers[path.stem] = src.read(1, masked=True) * src.scales[0]
        return layers

    return go


def test_hesbaye_from_either_sensor_is_one_map(mapped) -> None:
    s1, s2, auto = (mapped("hesbaye_2021", s, "2021-10") for s in ("s1", "s2", "auto"))
    for layers, observations in ((s1, 12), (s2, 10), (auto, 10)):
        assert layers["map"].shape == (100, 100)
        assert layers["map"].count() == 10_000  # every pixel has a value
        assert (layers["observations"] == observations).all()  # two months of s2 are empty
    assert (s1["map"] == s2["map"]).mean() > 0.9
    assert (auto["sensor"] == 2).all()  # the better one on the card


def test_flanders_from_landsat_looks_like_flanders_from_sentinel_2(mapped) -> None:
    s2, l8 = (mapped("flanders_2018", s, "2018-10") for s in ("s2", "l8"))
    assert s2["map"].count() == l8["map"].count() == 64 * 64
    assert (s2["map"] == l8["map"]).mean() > 0.88
    assert 0.1 < s2["map"].mean() < 0.6


@pytest.mark.parametrize("sensor", ["s1", "l8"])
def test_fuel_moisture_has_unit_and_range(mapped, sensor: str) -> None:
    layers = mapped("flanders_2018", sensor, "2018-08", "lfmc")
    assert layers["map"].shape == (3, 3)
    assert layers["map"].count() == 9
    assert 30 < layers["map"].min() <= layers["map"].max() < 250
    assert 20 < layers["confidence"].min() <= layers["confidence"].max() < 100
