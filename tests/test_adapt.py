"""--adapt: level shifts within bounds, stated everywhere, and a refusal that names the ways out."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely

from pipeline import cli
from pipeline.data.checkpoints import STORE
from pipeline.infer.levels import SAMPLED, sample_cells
from pipeline.map import command
from pipeline.mapping import ADAPTED, STATE
from pipeline.prep.adapt import Shift, estimate
from pipeline.prep.features import model_input
from pipeline.spec.errors import DataTrouble
from pipeline.spec.grid import sheets
from pipeline.spec.sensors import S1, S2
from pipeline.spec.tasks import CROPLAND
from tests.support.toy import sensor_card

RADAR = dataclasses.replace(sensor_card(CROPLAND, "s1"), radiometry="gamma0-rtc",
                            accepts=("gamma0-rtc",))


def test_radar_is_shifted_by_mean_minus_median() -> None:
    # the card's means: vv -11, vh -18; one outlier moves no median
    values = {"vv": np.array([-13.0, -12.0, 30.0]), "vh": np.array([-19.0, -17.5, -17.0])}
    shift = estimate(S1, "sigma0", RADAR, values)
    assert shift.amount == {"vv": 1.0, "vh": -0.5}
    assert (shift.unit, shift.given, shift.wanted, shift.observations) == (
        "dB", "sigma0", "gamma0-rtc", 3)
    assert str(shift) == "sigma0 to gamma0-rtc, vv +1.00, vh -0.50 dB"


def test_optical_is_scaled_by_mean_over_median() -> None:
    card = dataclasses.replace(sensor_card(CROPLAND, "s2"), features=("B02", "B04", "ndvi"),
                               mean=(0.2, 0.2, 0.2), std=(0.2, 0.2, 0.2))
    values = {"B02": np.array([0.25]), "B04": np.array([0.16, 0.2]), "B8A": np.array([9.0])}
    shift = estimate(S2, "l1c", card, values)
    assert shift.amount == pytest.approx({"B02": 0.8, "B04": 1.1111}, abs=1e-4)
    x = np.full((1, 3, 1, 1), 0.1, np.float32)
    assert shift.apply(x, ("B02", "B04", "B8A")).ravel() == pytest.approx([0.08, 0.1111, 0.1],
                                                                          abs=1e-4)


@pytest.mark.parametrize("level", [-14.01, -7.99])
def test_more_than_3_db_is_no_matter_of_radiometry(level: float) -> None:
    values = {"vv": np.array([level]), "vh": np.array([-18.0])}
    with pytest.raises(DataTrouble, match="s1 vv") as error:
        estimate(S1, "sigma0", RADAR, values)
    assert f"{-11 - level:.3g} dB" in str(error.value)
    assert "-3 to 3 dB" in str(error.value)


@pytest.mark.parametrize("median", [0.3, 0.15, 0.0, -0.1])
def test_gains_have_bounds_too(median: float) -> None:
    card = sensor_card(CROPLAND, "s2")
    values = {band: np.array([0.2]) for band in CROPLAND.features["s2"][:9]}
    with pytest.raises(DataTrouble, match="s2 B08"):
        estimate(S2, "l1c", card, values | {"B08": np.array([median])})


def test_no_clear_pixel_is_no_shift() -> None:
    with pytest.raises(DataTrouble, match="no valid s1 pixel"):
        estimate(S1, "sigma0", RADAR, {"vv": np.zeros(0), "vh": np.zeros(0)})


def test_a_shifted_archive_gives_the_model_input_of_its_own() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal([-11, -18], 2, (12, 40, 2)).astype(np.float32).transpose(0, 2, 1)[..., None]
    x[3] = np.nan
    other = x + np.array([1.5, -0.75], np.float32)[:, None, None]

    def inputs(cube: np.ndarray) -> np.ndarray:
        values = {b: cube[:, k][np.isfinite(cube[:, k])] for k, b in enumerate(("vv", "vh"))}
        series = estimate(S1, "sigma0", RADAR, values).apply(cube, ("vv", "vh"))
        series = series[..., 0].transpose(2, 0, 1)  # (T, B, N) -> (N, T, B)
        valid = np.isfinite(series).all(-1)
        return model_input(series, valid, np.arange(12), ("vv", "vh"), RADAR)

    # vh_vv moves with its bands: the shift comes before the features
    np.testing.assert_allclose(inputs(other), inputs(x), atol=2e-4)
    assert not np.allclose(other[4], x[4], atol=0.5)
    assert (inputs(x)[:, 3, :3] == 0).all()  # a gap stays a gap


def test_the_sample_lies_on_the_lattice_inside_the_area() -> None:
    area = shapely.box(5.9, 50.0, 6.1, 50.2)  # two zones
    parts = sheets(area, 10)
    cells = list(sample_cells(parts))
    assert len(cells) == SAMPLED
    assert {sheet.name for sheet, _ in cells} == {"utm31n", "utm32n"}
    for sheet, window in cells:
        assert sheet.area.intersects(shapely.box(*window.boundingbox.bbox))
        assert max(window.shape) <= 128
    assert len(list(sample_cells(sheets(shapely.box(3, 50.8, 3.01, 50.806), 10)))) <= 4


@pytest.fixture
def hesbaye(shared: Path, tmp_path: Path):
    """Map the real Sentinel-1 scene (sigma0) from a checkpoint told that it learned another."""
    folder = tmp_path / "gamma"
    shutil.copytree(STORE / "cropland", folder)
    card = json.loads((folder / "card.json").read_text())
    for key, name in (("s1", "gamma0-rtc"), ("s2", "l1c")):
        card["sensors"][key] |= {"radiometry": name, "accepts": [name]}
    (folder / "card.json").write_text(json.dumps(card))
    scene = shared / "scenes" / "hesbaye_2021"

    def go(out: str, *options: str, sensor: str = "s1", checkpoint: str = str(folder)) -> int:
        return cli.run(command, [
            "--aoi", str(scene / "aoi.geojson"), "--catalog", str(scene / "catalog.json"),
            "--period", "2021-10", "--sensor", sensor, "--checkpoint", checkpoint, "--out",
            str(tmp_path / out), "--quiet", *options])

    return go


def layer(folder: Path, name: str) -> np.ndarray:
    with rasterio.open(folder / f"{name}.tif") as src:
        return src.read(1)


def test_a_real_scene_of_another_radiometry(hesbaye, tmp_path, capfd, monkeypatch) -> None:
    assert hesbaye("refused") == 2
    said = capfd.readouterr().err
    for way in ("--catalog", "pipeline.sample", "--adapt", "sigma0", "gamma0-rtc"):
        assert way in said
    assert hesbaye("out", "--adapt") == 0
    assert "adapted  s1: sigma0 to gamma0-rtc, vv -" in capfd.readouterr().out
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    shift = Shift(**manifest["adapted"]["s1"])
    assert set(shift.amount) == {"vv", "vh"}
    assert all(0.1 < abs(v) < 3 for v in shift.amount.values())
    with rasterio.open(tmp_path / "out" / "map.tif") as src:
        assert src.tags()["ADAPTED"] == f"s1 {shift}"
    # smaller tiles: the same shift, the same pixels
    assert hesbaye("small", "--adapt", "--tile-size", "60") == 0
    other = json.loads((tmp_path / "small" / "manifest.json").read_text())
    assert other["adapted"] == manifest["adapted"]
    for name in ("map", "confidence"):
        np.testing.assert_array_equal(layer(tmp_path / "small", name),
                                      layer(tmp_path / "out", name))
    # a run that goes on keeps the shift that it began with
    log = tmp_path / "small" / STATE / "tiles.jsonl"
    log.write_text(log.read_text().splitlines()[0] + "\n")
    assert json.loads((tmp_path / "small" / STATE / ADAPTED).read_text()) == other["adapted"]

    def again(*_: object) -> None:
        raise AssertionError("estimated twice")

    monkeypatch.setattr("pipeline.making.level_shift", again)
    assert hesbaye("small", "--adapt", "--tile-size", "60", "--resume") == 0
    np.testing.assert_array_equal(layer(tmp_path / "small", "map"), layer(tmp_path / "out", "map"))
    assert hesbaye("small", "--tile-size", "60", "--resume") == 2  # another request


def test_reflectances_that_are_too_far_off_are_refused(hesbaye, tmp_path, capfd) -> None:
    assert hesbaye("far", "--adapt", sensor="s2") == 3
    said = capfd.readouterr().err
    assert "s2 B02" in said
    assert "0.8 to 1.25 times" in said
    assert not (tmp_path / "far" / "map.tif").exists()


def test_without_a_mismatch_adapt_changes_no_pixel(hesbaye, tmp_path) -> None:
    assert hesbaye("plain", checkpoint="cropland") == 0
    assert hesbaye("adapt", "--adapt", checkpoint="cropland") == 0
    assert json.loads((tmp_path / "adapt" / "manifest.json").read_text())["adapted"] == {}
    for name in ("map", "confidence", "sensor", "observations"):
        np.testing.assert_array_equal(layer(tmp_path / "adapt", name),
                                      layer(tmp_path / "plain", name))
