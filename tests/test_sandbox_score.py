"""Scoring maps against the demo's truth, and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from pipeline import cli
from pipeline.sandbox import SandboxParams
from pipeline.sandbox.__main__ import command
from pipeline.sandbox.score import average_on, score
from pipeline.sandbox.truth import write_truth
from pipeline.spec.errors import BadRequest, DataTrouble
from pipeline.spec.grid import window

TINY = SandboxParams.tiny()


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("region")
    write_truth(TINY, out)
    return out


def write_map(path: Path, data: np.ndarray, transform: rasterio.Affine, epsg: int, task: str,
              nodata: int, scale: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", driver="GTiff", height=data.shape[0], width=data.shape[1],
                       count=1, dtype=data.dtype, crs=f"EPSG:{epsg}", transform=transform,
                       nodata=nodata) as file:
        file.write(data, 1)
        file.scales = (scale,)
        file.update_tags(TASK=task, PERIOD="2022-11:2023-10")


def truth_of(region: Path, name: str) -> tuple[np.ndarray, rasterio.Affine]:
    with rasterio.open(region / "truth" / f"{name}.tif") as file:
        return file.read(1), file.transform


def test_a_map_equal_to_the_truth_scores_one_and_flipped_pixels_count(
    region: Path, tmp_path: Path
) -> None:
    for zone in (31, 32):
        data, t = truth_of(region, f"cropland_utm{zone}n")
        part = data[4:44, 6:56].copy()
        part[0] = 255
        if zone == 32:
            part[1:11] = 1 - part[1:11]  # 500 of 2 x 1950 pixels wrong
        corner = rasterio.Affine(10, 0, t.c + 60, 0, -10, t.f - 40)
        write_map(tmp_path / f"utm{zone}n" / "map.tif", part, corner, 32600 + zone, "cropland", 255)
    write_map(tmp_path / ".unfinished" / "map.tif", part, corner, 32632, "cropland", 255)
    (found,) = score(tmp_path, region)
    assert (found.task, found.month, found.maps) == ("cropland", "2023-10", 2)
    assert found.pixels == 2 * 39 * 50
    assert found.share == 1
    assert found.metrics["accuracy"] == pytest.approx(1 - 500 / 3900)
    assert found.right == found.metrics["accuracy"]  # nothing tells a gap from the outside
    assert 0.7 < found.metrics["f1"] < 1
    assert found.unseen != found.metrics
    assert (found.confidence, found.bins, found.quality) == ({}, [], {})  # only map.tif is there
    assert "accuracy 0.872" in str(found)


def test_fuel_moisture_is_averaged_onto_the_maps_grid(region: Path, tmp_path: Path) -> None:
    data, t = truth_of(region, "lfmc_2023-10_utm31n")
    h, w = data.shape
    grid = window((t.c, t.f - 10 * h, t.c + 10 * w, t.f), 32631, 250)
    want = np.zeros(grid.shape)
    for r in range(grid.shape[0]):  # the slow way, pixel by pixel
        for c in range(grid.shape[1]):
            x, y = grid.affine.c + 250 * c, grid.affine.f - 250 * r
            rows = [k for k in range(h) if y - 250 < t.f - 10 * k - 5 < y]
            cols = [k for k in range(w) if x < t.c + 10 * k + 5 < x + 250]
            want[r, c] = data[np.ix_(rows, cols)].mean() * 0.1
    got = average_on(region / "truth" / "lfmc_2023-10_utm31n.tif", grid.affine, grid.shape)
    np.testing.assert_allclose(got, want, rtol=1e-9)

    codes = np.rint((want + 5) / 0.1).astype(np.uint16)
    write_map(tmp_path / "map.tif", codes, grid.affine, 32631, "lfmc", 65535, 0.1)
    (found,) = score(tmp_path, region)
    assert found.metrics["bias"] == pytest.approx(5, abs=0.06)
    assert found.metrics["rmse"] == pytest.approx(5, abs=0.06)
    spread = ((want - want.mean()) ** 2).mean()
    assert found.metrics["r2"] == pytest.approx(1 - 25 / spread, rel=0.05)


def test_the_stated_confidence_is_held_against_the_truth(region: Path, tmp_path: Path) -> None:
    data, t = truth_of(region, "cropland_utm31n")
    part = data[4:44, 6:56].copy()
    part[:10] = 1 - part[:10]  # 500 of 2000 pixels wrong, where the map is said to be unsure of it
    part[39] = 255
    sure = np.full(part.shape, 99, np.uint8)
    sure[:20] = 52
    quality = np.ones(part.shape, np.uint8)
    quality[:20], quality[39] = 2, 0
    corner = rasterio.Affine(10, 0, t.c + 60, 0, -10, t.f - 40)
    for name, layer in (("map", part), ("confidence", sure), ("quality", quality)):
        write_map(tmp_path / f"{name}.tif", layer, corner, 32631, "cropland", 255)
    (found,) = score(tmp_path, region)
    # half of the unsure thousand is right where 52 % was said, all of the sure 950 where 99 %
    assert found.confidence["ece"] == pytest.approx((1000 * 0.02 + 950 * 0.01) / 1950)
    assert found.confidence["stated"] == pytest.approx((1000 * 0.52 + 950 * 0.99) / 1950)
    assert [(round(c, 4), a, n) for c, a, n in found.bins] == [(0.52, 0.5, 1000), (0.99, 1, 950)]
    assert found.right == 1450 / 2000  # the last row is a gap of the area
    assert "right: 72.5% of the area" in str(found)
    assert list(found.quality) == ["good", "low confidence"]
    assert found.quality["good"]["accuracy"] == 1
    assert found.quality["low confidence"]["accuracy"] == 0.5
    assert found.quality["low confidence"]["share"] == pytest.approx(1000 / 1950)
    assert "confidence: ece 0.015" in str(found)
    assert "low confidence: share 0.513, accuracy 0.500" in str(found)


def test_intervals_are_held_against_the_truth(region: Path, tmp_path: Path) -> None:
    data, t = truth_of(region, "lfmc_2023-10_utm31n")
    h, w = data.shape
    grid = window((t.c, t.f - 10 * h, t.c + 10 * w, t.f), 32631, 250)
    truth = average_on(region / "truth" / "lfmc_2023-10_utm31n.tif", grid.affine, grid.shape)
    codes = np.rint((truth + 5) / 0.1).astype(np.uint16)  # 5 % too moist everywhere
    width = np.full(codes.shape, 60, np.uint16)  # 6 %
    width[0] = 40  # 4 %: the first row's are too narrow
    quality = np.where(width == 40, 4, 1).astype(np.uint8)
    for name, layer, scale in (("map", codes, 0.1), ("confidence", width, 0.1),
                               ("quality", quality, 1.0)):
        write_map(tmp_path / f"{name}.tif", layer, grid.affine, 32631, "lfmc",
                  255 if name == "quality" else 65535, scale)
    (found,) = score(tmp_path, region)
    assert found.bins == []
    assert found.confidence["coverage"] == pytest.approx(1 - 1 / codes.shape[0])
    assert found.quality["good"]["coverage"] == 1
    assert found.quality["outside the training domain"]["coverage"] == 0
    assert found.quality["outside the training domain"]["width"] == pytest.approx(4)


def test_points_agree_with_the_truth_and_carry_groups(region: Path) -> None:
    points = json.loads((region / "truth" / "points_cropland.geojson").read_text())["features"]
    assert len(points) == TINY.cropland_points
    assert sum(p["properties"]["cropland"] for p in points) == TINY.cropland_points // 2
    assert len({p["properties"]["group"] for p in points}) >= 5
    lfmc = json.loads((region / "truth" / "points_lfmc.geojson").read_text())["features"]
    sites = {p["properties"]["site"] for p in lfmc}
    assert len(lfmc) == len(sites) * TINY.lfmc_months
    assert abs(len(sites) - TINY.lfmc_sites) <= 1
    mean = truth_of(region, "lfmc_2023-08_utm31n")[0].mean() * 0.1
    for p in lfmc:
        lon = p["geometry"]["coordinates"][0]
        if p["properties"]["period"] == "2023-08" and lon < 6:
            assert abs(p["properties"]["lfmc_percent"] - mean) < 60


def test_what_cannot_be_scored_is_said(region: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"no map\.tif"):
        score(tmp_path, region)
    with pytest.raises(BadRequest, match="no truth"):
        score(tmp_path, tmp_path)
    data, t = truth_of(region, "cropland_utm31n")
    write_map(tmp_path / "map.tif", data, t, 32633, "cropland", 255)
    with pytest.raises(DataTrouble, match="no truth for this map"):
        score(tmp_path, region)
    write_map(tmp_path / "map.tif", data, t, 32631, "soil", 255)
    with pytest.raises(DataTrouble, match="lacks the tags"):
        score(tmp_path, region)


def test_command_line(region: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r"
    small = ["--preset", "tiny", "--first", "2023-08", "--last", "2023-08", "--size-km", "0.6,0.4",
             "--seed", "3", "--quiet"]
    assert cli.run(command, ["--out", str(out), "--json", *small]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["catalog"] == str(out / "catalog.json")
    assert told["params"]["seed"] == 3
    data, t = truth_of(out, "cropland_utm31n")
    write_map(tmp_path / "maps" / "map.tif", data, t, 32631, "cropland", 255)
    assert cli.run(command, ["--score", str(tmp_path / "maps"), "--truth", str(out), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["metrics"]["accuracy"] == 1
    assert cli.run(command, ["--score", str(tmp_path / "maps"), "--truth", str(out)]) == 0
    assert "cropland 2023-10: accuracy 1.000" in capsys.readouterr().out
    assert cli.run(command, []) == 2
    assert cli.run(command, ["--score", str(tmp_path)]) == 2
    assert cli.run(command, ["--out", str(out), "--size-km", "wide"]) == 2
    assert "takes two numbers" in capsys.readouterr().err
