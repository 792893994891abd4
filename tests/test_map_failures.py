"""The main job on the tiny region: what is refused how, and what failures leave behind."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import cli
from pipeline.mapping import STATE
from pipeline.spec.errors import DataTrouble
from tests.support.maps import PERIOD, pixels, runner, tifs

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(region: Path, region_aoi: str, untrained: dict[str, Path], tmp_path: Path):
    return runner(region, region_aoi, untrained, tmp_path)


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
        print("stays", flush=True)
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
    assert process.stdout is not None
    assert process.stdout.readline() == b"stays\n"  # not on its way there
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
