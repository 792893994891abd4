"""The main job, end to end on the tiny region: what comes out, and what is refused how."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
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
from pipeline.mapping import STATE
from pipeline.spec.errors import DataTrouble
from pipeline.spec.manifest import RunManifest, TileRecord

PERIOD = "2023-10"
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(region: Path, region_aoi: str, untrained: dict[str, Path], tmp_path: Path):
    """Run the command line on the tiny region; options given win."""

    def go(out: str = "out", task: str = "cropland", **options: str) -> int:
        known = {
            "aoi": region_aoi, "sensor": "s1", "task": task, "period": PERIOD,
            "catalog": str(region / "catalog.json"),
            "checkpoint": str(untrained.get(task, "cropland")),
            "out": str(tmp_path / out), **options,
        }
        argv = ["--quiet", "--json"]
        for key, value in known.items():
            argv += [f"--{key.replace('_', '-')}"] + ([value] if value else [])
        return cli.run(command, argv)

    return go


def tifs(out: Path) -> list[Path]:
    return sorted(out.rglob("*.tif"))


def pixels(out: Path) -> dict[str, np.ndarray]:
    """Every raster of a run by its name relative to it."""
    found = {}
    for path in tifs(out):
        with rasterio.open(path) as src:
            found[str(path.relative_to(out))] = src.read(1)
    return found


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


BAD = {
    "unknown sensor": ({"sensor": "s9"}, 2, "s1, s2, l8"),
    "unknown task": ({"task": "forest"}, 2, "cropland, lfmc"),
    "three bounds": ({"aoi": "0,0,1"}, 2, "0,0,1"),
    "future": ({"period": "2190-01"}, 2, "future"),
    "upside down": ({"period": "2023-10:2022-11"}, 2, "upside down"),
    "wrong length": ({"period": "2023-01:2023-10"}, 2, "12 monthly steps"),
    "no such aoi": ({"aoi": "nowhere.geojson"}, 2, "nowhere.geojson"),
    "no such checkpoint": ({"checkpoint": "nothing"}, 2, "no such checkpoint"),
    "tile size": ({"tile_size": "3"}, 2, "16 to 4096"),
    "tile size text": ({"tile_size": "big"}, 2, "--tile-size"),
    "unknown option": ({"sensr": "s1"}, 2, "--sensr"),
    "no such catalogue": ({"catalog": "no/catalog.json"}, 2, "catalog.json"),
    "catalogue down": ({"catalog": "http://127.0.0.1:9/stac"}, 3, "127.0.0.1"),
    "ocean": ({"aoi": "-30,20,-29.9,20.1"}, 3, "s1"),
    "empty period": ({"period": "2001-01"}, 3, "2000-02:2001-01"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_one_line_and_leaves_nothing(run, tmp_path, capfd, case: str) -> None:
    options, code, says = BAD[case]
    assert run(**options) == code
    captured = capfd.readouterr()
    line = captured.err.strip().splitlines()
    assert len(line) == 1
    assert line[0].startswith("error: ")
    assert says in line[0]
    assert json.loads(captured.out)["exit_code"] == code
    assert not tifs(tmp_path / "out")


def test_a_checkpoint_that_does_not_fit_is_refused(run, untrained, tmp_path, capfd) -> None:
    def changed(name: str, **changes: object) -> str:
        folder = tmp_path / name
        shutil.copytree(untrained["cropland"], folder)
        card = json.loads((folder / "card.json").read_text()) | changes
        (folder / "card.json").write_text(json.dumps(card))
        return str(folder)

    card = json.loads((untrained["cropland"] / "card.json").read_text())
    only_s2 = {"s2": card["sensors"]["s2"]}
    sigma = {"s1": card["sensors"]["s1"] | {"accepts": ["sigma0"], "radiometry": "sigma0"}}
    cut = changed("cut")
    weights = Path(cut) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for checkpoint, says in (
        (changed("lacking", sensors=only_s2), "no such sensor"),
        (changed("path", feature_path="0"), "feature path"),
        (changed("sigma", sensors=sigma), "radiometry"),
        (cut, "checkpoint"),
        (str(untrained["lfmc"]), "another task"),
    ):
        assert run(checkpoint=checkpoint) == 2
        assert says in capfd.readouterr().err
    assert not tifs(tmp_path / "out")


def test_an_output_that_cannot_be_written_is_refused_first(run, tmp_path, capfd) -> None:
    (tmp_path / "out").write_text("a file, not a folder")
    assert run() == 2
    assert "--out" in capfd.readouterr().err
    assert (tmp_path / "out").read_text() == "a file, not a folder"


def test_an_unreadable_asset_fails_its_tiles_only(run, region, tmp_path, capsys) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(region, broken)
    victim = sorted(broken.rglob("*_20230[1-9]*_rtc/*vv*.tiff"))[0]
    victim.write_bytes(victim.read_bytes()[:200])
    catalog = str(broken / "catalog.json")
    assert run(catalog=catalog, tile_size="16") == 4
    report = json.loads(capsys.readouterr().out)
    assert report["exit_code"] == 4
    failed = [t for t in report["tiles"] if t["status"] == "failed"]
    assert failed
    assert victim.name in failed[0]["reason"] or victim.parent.name in failed[0]["reason"]
    # tiles that do not touch the broken file are there
    assert any(t["status"] == "mapped" for t in report["tiles"])
    shutil.copyfile(region / victim.relative_to(broken), victim)
    assert run(catalog=catalog, tile_size="16", resume="") == 0
    assert run(out="whole") == 0
    assert pixels(tmp_path / "out").keys() == pixels(tmp_path / "whole").keys()
    for name, values in pixels(tmp_path / "whole").items():
        np.testing.assert_array_equal(pixels(tmp_path / "out")[name], values)


def test_missing_assets_are_left_out_with_a_reason(run, region, tmp_path, capsys) -> None:
    poor = tmp_path / "poor"
    shutil.copytree(region, poor)
    path = sorted(poor.rglob("*_20230[1-9]*_rtc.json"))[0]
    item = json.loads(path.read_text())
    del item["assets"]["vh"]
    path.write_text(json.dumps(item))
    assert run(catalog=str(poor / "catalog.json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert any(item["id"] == name and "vh" in why
               for name, why in report["items"]["s1"]["skipped"])


# The command, which stays at its second tile: it must not be done before it is interrupted.
STAYING = """
import sys, time
from pipeline import cli
from pipeline.infer.store import RunStore
from pipeline.map import command

def log(self, record, plain=RunStore.log):
    plain(self, record)
    if len(self.done()) == 2:
        time.sleep(600)

RunStore.log = log
sys.exit(cli.run(command, sys.argv[1:]))
"""


def test_ctrl_c_keeps_what_is_finished(region, region_aoi, untrained, run, tmp_path) -> None:
    argv = [sys.executable, "-c", STAYING, "--aoi", region_aoi, "--sensor", "s1",
            "--period", PERIOD, "--catalog", str(region / "catalog.json"), "--checkpoint",
            str(untrained["cropland"]), "--out", str(tmp_path / "out"), "--tile-size", "16"]
    process = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    log = tmp_path / "out" / STATE / "tiles.jsonl"
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") >= 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == cli.INTERRUPTED
    assert b"Traceback" not in err
    assert b"--resume" in err
    assert not tifs(tmp_path / "out")
    finished = log.read_text().count("\n")
    assert run(tile_size="16", resume="") == 0
    assert log.read_text().count("\n") > finished
    assert run(out="whole", tile_size="16") == 0
    for name, values in pixels(tmp_path / "whole").items():
        np.testing.assert_array_equal(pixels(tmp_path / "out")[name], values)


def test_a_failing_publish_leaves_the_old_map(run, tmp_path, monkeypatch, capfd) -> None:
    assert run() == 0
    before = {p: p.read_bytes() for p in tifs(tmp_path / "out")}

    def full(*_: object, **__: object) -> None:
        raise DataTrouble("could not write", got="No space left on device")

    monkeypatch.setattr("pipeline.publish.sheets.write_cog", full)
    assert run(sensor="s2") == 3
    assert {p: p.read_bytes() for p in tifs(tmp_path / "out")} == before
    assert "No space left" in capfd.readouterr().err


def test_another_area_into_the_same_folder_leaves_no_stale_sheet(run, region_aoi, tmp_path) -> None:
    assert run() == 0
    west, south, _, north = region_aoi.split(",")
    assert run(aoi=f"{west},{south},5.9985,{north}") == 0
    out = tmp_path / "out"
    assert {p.parent for p in tifs(out)} == {out}
    assert [p.relative_to(out) for p in out.rglob("item.json") if ".run" not in p.parts] == [
        Path("item.json")
    ]


def test_a_store_that_lost_its_pixels_is_not_published(run, tmp_path, capfd) -> None:
    assert run() == 0
    before = {p: p.read_bytes() for p in tifs(tmp_path / "out")}
    for chunk in (tmp_path / "out" / STATE / "store.zarr").rglob("sensor/c/*/*"):
        chunk.unlink()
    assert run(resume="") == 3
    assert "damaged" in capfd.readouterr().err
    assert {p: p.read_bytes() for p in tifs(tmp_path / "out")} == before


def test_a_vrt_that_poses_as_a_tiff_is_not_read(run, region, tmp_path, capfd) -> None:
    evil = tmp_path / "evil"
    shutil.copytree(region, evil)
    secret = sorted(region.rglob("*_20230[1-9]*_rtc/*vv*.tiff"))[0]
    for victim in evil.rglob("*_rtc/*vv*.tiff"):
        victim.write_text(
            '<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Float32" '
            f'band="1"><SimpleSource><SourceFilename>{secret}</SourceFilename></SimpleSource>'
            "</VRTRasterBand></VRTDataset>"
        )
    assert run(catalog=str(evil / "catalog.json")) == 3
    assert "cannot be read" in capfd.readouterr().err


def test_loading_is_what_the_map_uses() -> None:
    # training samples and map tiles come from this one function
    from pipeline.data import extract
    from pipeline.infer import run as infer_run

    assert extract.load_cube is infer_run.load_cube is load.load_cube
