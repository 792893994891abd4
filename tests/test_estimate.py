"""What a run took, and what the next one will take."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import pytest
import shapely

from pipeline.data.block_store import DECODED
from pipeline.infer.estimate import Estimate, Kind, Run, estimate, recall, remember, work_of
from pipeline.infer.plan import Cell, Choice, PlanRow
from pipeline.infer.profile import Profile, table
from pipeline.map import command
from pipeline.spec.grid import sheets
from pipeline.spec.machine import cores
from pipeline.spec.manifest import RunManifest, TileRecord
from pipeline.spec.timeline import Timeline

YEAR = Timeline(2023 * 12, 12)


def record(k: int, **seconds: float) -> TileRecord:
    return TileRecord("utm31n", f"{k}_0", "mapped", "s2", "why", 100, {"s2": 90}, {"s2": 80},
                      {"s2": 1.5}, {"good": 80}, {}, seconds)


def test_the_manifest_as_text_is_the_manifest() -> None:
    for tiles in ((), (record(1),), (record(1), record(2, read=1.0))):
        manifest = RunManifest({"aoi": "é"}, {}, {}, {}, tiles, notes={"a": "b"})
        text = manifest.to_text()
        assert json.loads(text) == json.loads(json.dumps(manifest.to_json()))
        assert len([line for line in text.splitlines() if '"utm31n"' in line]) == len(tiles)
    with pytest.raises(ValueError, match="not JSON compliant"):
        RunManifest({}, {}, {}, {}, (record(1, read=float("nan")),)).to_text()


def test_a_profile_adds_up() -> None:
    profile = Profile()
    threads = [threading.Thread(target=profile.add_tile, args=(record(k, read=2.0, predict=4.0),))
               for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    profile.add("composite", 1.0)
    DECODED.add(0.5, 4_000_000)
    profile.tiles_done()
    report = json.loads(json.dumps(profile.to_json(10)))
    read, predict = report["stages"]["read"], report["stages"]["predict"]
    assert list(report["stages"]) == ["read", "decode", "composite", "predict"]
    decode = report["stages"]["decode"]
    assert (decode["seconds"], decode["bytes"], decode["mb_per_s"]) == (0.5, 4_000_000, 8.0)
    assert (decode["pixels"], decode["px_per_s"]) == (800, 1600)  # those of the tiles read
    assert report["stages"]["composite"]["km2_per_h"] == 800 * 3600 * 100 / 1e6
    assert report["wall"]["bytes"] == report["stages"]["read"]["bytes"]  # of files, not of pixels
    assert (read["seconds"], read["pixels"], read["px_per_s"]) == (16.0, 800, 50.0)
    assert (predict["seconds"], predict["pixels"]) == (32.0, 640)
    assert read["km2_per_h"] == 50 * 3600 * 100 / 1e6
    assert read["share"] + predict["share"] == pytest.approx(1, abs=1e-3)
    lines = table(report).splitlines()
    assert [line.split()[0] for line in lines[1:6]] == [
        "read", "decode", "composite", "predict", "wall"]
    assert "MiB" in lines[6]
    assert "processor time within read" in lines[7]
    assert "workers" in table(report | {"elsewhere": True})


KIND = Kind("m", "cropland", "s2", "c", "cpu", "default", "n")


def test_the_work_of_a_plan_is_counted_by_hand() -> None:
    (sheet,) = sheets(shapely.box(3.0, 50.8, 3.01, 50.806), 10)
    tile = max(sheet.tiles(64), key=lambda t: t.geobox.shape[0])
    h, w = tile.geobox.shape
    both = (Choice("s2", 30, 9.0, 0.9), Choice("s1", 60, 12.0, 0.8))
    cells = (Cell(slice(0, 10), slice(None), both), Cell(slice(10, None), slice(None), ()))
    row = PlanRow(sheet, tile, cells, "why")
    bands = {"s1": 2, "s2": 11}
    assert work_of([row], bands) == 10 * w * 30 * 11
    assert work_of([row, row], bands, 5) == 2 * 25 * 10 * w * 30 * 11
    fused = PlanRow(sheet, tile, cells, "why", "all")
    assert work_of([fused], bands) == 10 * w * (30 * 11 + 60 * 2)
    assert h > 10


def test_an_estimate_is_the_median_of_like_runs_and_states_their_spread() -> None:
    runs = [Run(KIND, 100.0, 1000, s) for s in (10.0, 20.0, 40.0)]
    other = Run(dataclasses.replace(KIND, sensor="s1"), 1.0, 1, 999.0)
    found = estimate(1000.0, KIND, [*runs, other], price=3.6)
    assert (found.seconds, found.size, found.runs) == (200.0, 10000.0, 3)
    assert found.error == 2.0  # the other two say 30 of the run that took 10
    assert found.cost == pytest.approx(0.2)
    assert "+-200%, the spread of 3 runs" in str(found)
    one = estimate(1000.0, KIND, runs[:1])
    assert (one.seconds, one.error, one.cost) == (100.0, None, None)
    assert "single run" in str(one)
    loose = estimate(5.0, dataclasses.replace(KIND, sensor="all", catalog="d", speed="exact"),
                     [*runs, other])
    assert loose.loose
    assert "other sensors" in str(loose)
    for field, value in (("machine", "n"), ("network", "toy"), ("scheduler", "local"),
                         ("workers", 2), ("device", "cuda")):
        nothing = estimate(5.0, dataclasses.replace(KIND, **{field: value}), runs)
        assert nothing == Estimate(5.0)
    assert "no rates measured yet on this machine" in str(nothing)
    uncounted = estimate(5.0, KIND, [dataclasses.replace(run, size=0) for run in runs])
    assert uncounted.size is None
    assert "bytes not counted" in str(uncounted)
    json.dumps([e.to_json() for e in (found, one, loose, nothing, uncounted)])


def test_small_runs_do_not_make_a_large_one_slow() -> None:
    """5 s whatever the area, and 2 s a million pixels."""
    runs = [Run(KIND, w, int(1e6 + 3 * w), 5 + 2e-6 * w) for w in (1e5, 3e5, 1e6)]
    found = estimate(1e9, KIND, runs)
    assert found.seconds == pytest.approx(2005)
    assert found.size == pytest.approx(3.001e9)
    assert found.error == pytest.approx(0, abs=1e-3)
    assert "the largest of them 1000 times smaller" in str(found)
    assert estimate(2e6, KIND, runs).larger == 2
    assert "times smaller" not in str(estimate(2e6, KIND, runs))
    # a larger run that took less does not make time run backwards
    odd = [Run(KIND, 1e5, 1, 10.0), Run(KIND, 1e6, 1, 8.0)]
    assert 8 < estimate(1e8, KIND, odd).seconds < 10
    # nor does one that took more than its share start before it begins
    steep = [Run(KIND, 1e5, 1, 1.0), Run(KIND, 1e6, 1, 20.0)]
    assert estimate(1e3, KIND, steep).seconds > 0


def test_rates_are_kept_and_a_damaged_file_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "rates.json"
    assert recall(path) == []
    run = Run(KIND, 2.0, 3, 4.0)
    remember(path, run)
    remember(path, run)
    assert recall(path) == [run, run]
    kept = json.loads(path.read_text())
    del kept[0]["kind"]["network"]  # as an earlier version wrote it
    path.write_text(json.dumps([*kept, 3, {"kind": {}}]))
    assert recall(path) == [run]
    path.write_text("3")
    assert recall(path) == []
    path.write_text("[{]")
    assert recall(path) == []
    remember(path, run)
    assert recall(path) == [run]
    for k in range(210):
        remember(path, Run(KIND, float(k + 1), 3, 4.0))
    assert len(recall(path)) == 200
    assert recall(path)[-1].work == 210
    (tmp_path / "file").write_text("")
    remember(tmp_path / "file" / "rates.json", run)  # cannot be written: nothing happens


def test_a_profiled_run_tells_where_its_time_went(
    region: Path, region_aoi: str, untrained: dict[str, Path], tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "map"
    argv = ["--aoi", region_aoi, "--sensor", "s2", "--period", "2023-10", "--catalog",
            str(region / "catalog.json"), "--checkpoint", str(untrained["cropland"]), "--out",
            str(out), "--quiet", "--workers", "2"]
    assert command([*argv, "--profile", "--tile-size", "40"]) == 0
    said = capsys.readouterr().out.splitlines()
    first = next(k for k, line in enumerate(said) if line.startswith("stage"))
    names = [line.split()[0] for line in said[first + 1 : first + 10]]
    assert names == ["search", "plan", "read", "decode", "composite", "predict", "write", "publish",
                     "wall"]
    manifest = json.loads((out / "manifest.json").read_text())
    stages, area = manifest["profile"]["stages"], manifest["totals"]["area_px"]
    assert stages["read"]["pixels"] == stages["write"]["pixels"] == area
    assert stages["predict"]["pixels"] == manifest["totals"]["mapped_px"]
    assert stages["read"]["bytes"] > 0
    assert 0 < stages["composite"]["seconds"] < manifest["profile"]["wall"]["seconds"] * cores()
    assert 0 < stages["decode"]["seconds"] < manifest["profile"]["wall"]["seconds"] * cores()
    for tile in manifest["tiles"]:
        assert {"read", "predict", "write"} == set(tile["seconds"])
    # the next map of its kind is estimated from this one
    assert command([*argv, "--dry-run"]) == 0
    (line,) = [k for k in capsys.readouterr().out.splitlines() if k.startswith("estimate")]
    assert "error unknown, from a single run" in line
