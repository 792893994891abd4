"""The main job, end to end on the tiny region: what comes out."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

from pipeline import cli
from pipeline.data import load
from pipeline.data.checkpoints import load_checkpoint, save_checkpoint
from pipeline.map import command, summary
from pipeline.spec.manifest import RunManifest, TileRecord
from tests.support.maps import PERIOD, pixels, runner, tifs


@pytest.fixture
def run(region: Path, region_aoi: str, untrained: dict[str, Path], tmp_path: Path):
    return runner(region, region_aoi, untrained, tmp_path)


def test_a_map_of_two_zones_is_complete_and_valid(run, tmp_path: Path, capsys) -> None:
    assert run(sensor="auto") == 0
    out = tmp_path / "out"
    report = json.loads(capsys.readouterr().out)
    assert {p.parent.name for p in tifs(out)} == {"utm31n", "utm32n"}
    assert {p.stem for p in tifs(out)} == {"map", "confidence", "sensor", "observations",
                                           "quality"}
    for path in tifs(out):
        valid, errors, _ = cog_validate(path)
        assert valid, errors
        with rasterio.open(path) as src:
            assert src.tags()["PERIOD"] == "2022-11:2023-10"
            assert src.tags()["CARD_SHA256"] == report["card"]["sha256"]
            assert "sandbox/" in src.tags()["SOURCES"]
            assert "dissimilarity index above s1 0.6, s2 0.6" in src.tags()["QUALITY"]
    for sheet in ("utm31n", "utm32n"):
        layers = {p.stem: p for p in tifs(out / sheet)}
        values, used, seen, sure, quality = (
            rasterio.open(layers[name]).read(1)
            for name in ("map", "sensor", "observations", "confidence", "quality")
        )
        assert ((values == 255) == np.isin(quality, (0, 255))).all()
        assert ((quality == 255) == (used == 255)).all()
        assert (sure[quality == 2] < 70).all()
        assert (sure[quality == 1] >= 70).all()
        assert set(np.unique(values)) <= {0, 1, 255}
        assert ((values == 255) == np.isin(used, (0, 255))).all()
        assert ((values == 255) == (sure == 255)).all()
        assert (seen[values != 255] >= 3).all()
        item = pystac.Item.from_file(str(out / sheet / "item.json"))
        assert item.properties["proj:code"] == f"EPSG:326{sheet[3:5]}"
        assert item.properties["wallmap:quality"] == report["totals"]["quality"]
        assert item.properties["wallmap:mapped_share"] == report["totals"]["mapped_share"]
        assert item.properties["wallmap:sheet_mapped_share"] == pytest.approx(
            (values != 255).sum() / (used != 255).sum())
        assert item.properties["wallmap:quality_rules"] == report["rules"]
    quality = {name: sum(t["quality"].get(name, 0) for t in report["tiles"])
               for name in report["totals"]["quality"]}
    assert sum(quality.values()) == report["totals"]["mapped_px"]
    assert sum(report["totals"]["quality"].values()) == pytest.approx(1)
    assert (out / "preview.png").stat().st_size > 10_000
    assert report["totals"]["mapped_share"] > 0.95
    assert json.loads((out / "manifest.json").read_text())["files"] == report["files"]
    assert all((out / name).is_file() for name in report["files"])


def test_each_sensor_alone_maps_what_it_sees(run, tmp_path: Path) -> None:
    for key, code in (("s1", 1), ("s2", 2), ("l8", 3)):
        assert run(out=key, sensor=key) == 0
        for name, values in pixels(tmp_path / key).items():
            if name.endswith("sensor.tif"):
                assert set(np.unique(values)) <= {0, code, 255}
    gaps = {key: sum((v == 0).sum() for n, v in pixels(tmp_path / key).items()
                     if n.endswith("sensor.tif")) for key in ("s1", "s2", "l8")}
    # the region has a part without Sentinel-1 and one without Sentinel-2
    assert gaps["s1"] > 0
    assert gaps["s2"] > 0
    assert gaps["l8"] == 0


def test_lfmc_has_its_unit_and_range(run, tmp_path: Path) -> None:
    assert run(task="lfmc", sensor="s1", period="2023-08") == 0
    for path in (tmp_path / "out").rglob("map.tif"):
        with rasterio.open(path) as src:
            assert (src.dtypes, src.nodata, src.units, src.scales) == (
                ("uint16",), 65535, ("%",), (0.1,))
            assert src.res == (250, 250)
            values = src.read(1, masked=True) * src.scales[0]
        assert values.count() > 0
        assert 0 <= values.min() <= values.max() <= 400


@pytest.mark.parametrize("tile_size", ["16", "33", "200"])
def test_the_tile_size_changes_no_pixel(run, tmp_path: Path, tile_size: str) -> None:
    assert run(out="a", sensor="s2,s1") == 0
    assert run(out="b", sensor="s2,s1", tile_size=tile_size) == 0
    one, two = pixels(tmp_path / "a"), pixels(tmp_path / "b")
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_dry_run_reads_no_pixel_and_writes_the_plan(run, tmp_path, capsys, monkeypatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a pixel was read")

    monkeypatch.setattr("pipeline.infer.run.load_cube", never)
    assert run(sensor="auto", dry_run="") == 0
    plan = json.loads(capsys.readouterr().out)
    assert {c["sensor"] for t in plan["tiles"] for c in t["choices"]} == {"s1", "s2", "l8"}
    assert all(t["reason"] for t in plan["tiles"])
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["plan.geojson"]
    assert plan["plan"] == str(tmp_path / "out" / "plan.geojson")


def test_an_aoi_file_carries_its_own_defaults(region, region_aoi, untrained, tmp_path,
                                              monkeypatch, capsys) -> None:
    west, south, east, north = (float(v) for v in region_aoi.split(","))
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    shutil.copytree(untrained["cropland"], tmp_path / "card")
    (tmp_path / "aoi").mkdir()
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]},
               "properties": {"name": "here", "task": "cropland", "period": PERIOD,
                              "catalog": str(region / "catalog.json"),
                              "checkpoint": "../card"}}
    (tmp_path / "aoi" / "here.geojson").write_text(json.dumps(feature))
    monkeypatch.chdir(tmp_path)
    assert cli.run(command, ["--aoi", "aoi/here.geojson", "--sensor", "s1", "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "maps/here-cropland-s1-2023-10/manifest.json").is_file()
    assert "mapped" in printed
    assert "map.tif" in printed
    assert "quality " in printed
    assert "low confidence" in printed


def test_an_older_checkpoint_maps_and_says_what_it_cannot_tell(run, untrained, tmp_path,
                                                               capsys) -> None:
    card, arrays = load_checkpoint(untrained["cropland"])
    old = tmp_path / "old"
    entries = {k: dataclasses.replace(s, domain_threshold=None) for k, s in card.sensors.items()}
    save_checkpoint(old, dataclasses.replace(card, sensors=entries),
                    {k: v for k, v in arrays.items() if not k.startswith("domain.")})
    raw = json.loads((old / "card.json").read_text())
    for entry in raw["sensors"].values():  # as it was written before there were such fields
        for name in ("domain_threshold", "ece", "interval_coverage", "interval_spread"):
            del entry[name]
    (old / "card.json").write_text(json.dumps(raw))
    assert run(checkpoint=str(old)) == 0
    report = json.loads(capsys.readouterr().out)
    assert "not computed for s1" in report["rules"]["outside the training domain"]
    assert "outside the training domain" not in report["totals"]["quality"]
    assert run(out="new") == 0
    known, plain = pixels(tmp_path / "new"), pixels(tmp_path / "out")
    for name, values in plain.items():
        if name.endswith("quality.tif"):
            assert (known[name] == 4).any()
            assert (values == known[name])[known[name] != 4].all()
            assert not (values == 4).any()
        else:
            np.testing.assert_array_equal(values, known[name], err_msg=name)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    text = summary(RunManifest(**{**{k: manifest[k] for k in ("request", "card", "items",
                                                              "refused", "rules")},
                                  "tiles": tuple(TileRecord(**t) for t in manifest["tiles"])}),
                   tmp_path)
    assert "outside the training domain not computed for s1" in text.splitlines()[-1]


def test_another_area_into_the_same_folder_leaves_no_stale_sheet(run, region_aoi, tmp_path) -> None:
    assert run() == 0
    west, south, _, north = region_aoi.split(",")
    assert run(aoi=f"{west},{south},5.9985,{north}") == 0
    out = tmp_path / "out"
    assert {p.parent for p in tifs(out)} == {out}
    assert [p.relative_to(out) for p in out.rglob("item.json") if ".run" not in p.parts] == [
        Path("item.json")
    ]


def test_loading_is_what_the_map_uses() -> None:
    # training samples and map tiles come from this one function
    from pipeline.data import extract
    from pipeline.infer import run as infer_run

    assert extract.load_cube is infer_run.load_cube is load.load_cube
