"""What a map says of itself, and what it refuses to go on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.map import command
from tests.support.toy import save_untrained


@pytest.fixture
def run(region: Path, untrained: dict[str, Path], tmp_path: Path):
    """Map a corner of the tiny region: exit code and report."""

    def go(capsys, *flags: str, **options: object) -> tuple[int, dict]:
        known = {
            "aoi": "5.9965,43.8995,5.9985,43.9006", "sensor": "s1", "period": "2023-10",
            "catalog": region / "catalog.json", "checkpoint": untrained["cropland"],
            "out": tmp_path / "out", "tile-size": 64, **options,
        }
        argv = ["--quiet", "--json", *flags]
        for key, value in known.items():
            argv += [f"--{key}", str(value)]
        capsys.readouterr()
        code = cli.run(command, argv)
        return code, json.loads(capsys.readouterr().out)

    return go


def test_a_map_records_the_orbits_and_platforms_of_its_radar(run, tmp_path: Path, capsys) -> None:
    assert run(capsys)[0] == 0
    frozen = json.loads((tmp_path / "out/.run/items/s1.json").read_text())
    stated = [feature["properties"] for feature in frozen["features"]]
    names = {f"{p['sat:orbit_state']} {p['sat:relative_orbit']}" for p in stated}
    assert len(names) == 2  # the region is seen from two orbits
    written = json.loads((tmp_path / "out/manifest.json").read_text())
    for tile in written["tiles"]:
        assert set(tile["orbits"]) == names
        assert sum(tile["orbits"].values()) >= max(tile["observations"]["s1"], 10)
    platforms = written["items"]["s1"]["platforms"]
    assert sum(platforms.values()) == written["items"]["s1"]["count"] == len(stated)
    assert {p["platform"] for p in stated} == set(platforms)


def test_a_run_is_not_resumed_as_another_one(
    run, region: Path, tmp_path: Path, capsys
) -> None:
    """Tiles that exist are not enough: request, checkpoint and images must be those of before."""
    assert run(capsys)[0] == 0
    other = save_untrained(tmp_path / "other", "cropland")
    card = json.loads((other / "card.json").read_text())
    assert card["sha256"] == json.loads(
        (tmp_path / "out/manifest.json").read_text())["card"]["sha256"]
    assert run(capsys, "--resume", checkpoint=other)[0] == 0  # the same weights elsewhere
    for change in ({"period": "2023-09"}, {"aoi": "5.9965,43.8995,5.9985,43.9005"},
                   {"tile-size": 16}, {"sensor": "s1,s2"}):
        code, report = run(capsys, "--resume", **change)
        assert code == 2, change
        assert "run of another request" in report["error"]
    frozen = tmp_path / "out/.run/items/s1.json"
    items = json.loads(frozen.read_text())
    items["features"] = items["features"][1:]
    frozen.write_text(json.dumps(items))
    code, report = run(capsys, "--resume")
    assert code == 2
    assert "other items" in report["error"]


def test_images_that_come_later_do_not_enter_a_run_that_goes_on(
    run, region: Path, tmp_path: Path, capsys
) -> None:
    live = tmp_path / "live"
    shutil.copytree(region, live)
    page = live / "sentinel-1-rtc/collection.json"
    whole = page.read_text()
    record = json.loads(whole)
    record["links"] = [k for k in record["links"] if "_202305" not in k["href"]]
    page.write_text(json.dumps(record))
    catalog = {"catalog": live / "catalog.json"}
    assert run(capsys, **catalog)[0] == 0
    before = json.loads((tmp_path / "out/manifest.json").read_text())["items"]
    page.write_text(whole)
    code, report = run(capsys, "--resume", **catalog)
    assert code == 0
    assert report["items"]["s1"]["fingerprint"] == before["s1"]["fingerprint"]
    code, report = run(capsys, **catalog)
    assert code == 0
    assert report["items"]["s1"]["fingerprint"] != before["s1"]["fingerprint"]
