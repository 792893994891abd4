"""What a map says of itself, and what it refuses to go on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pystac
import pytest
import shapely

from pipeline import cli
from pipeline.data.items import ItemSet
from pipeline.data.search import to_item
from pipeline.infer.plan import plan
from pipeline.map import command
from pipeline.provenance import with_orbits
from pipeline.spec.grid import sheets
from pipeline.spec.manifest import TileRecord
from pipeline.spec.tasks import CROPLAND
from pipeline.spec.timeline import parse_period
from tests.support.records import record
from tests.support.toy import save_untrained, toy_card


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


def test_each_tile_records_its_own_orbits() -> None:
    """One orbit sees the west only: a tile far in the east was not made from it."""
    west, whole = shapely.box(2.9, 50.7, 3.005, 50.9), shapely.box(2.9, 50.7, 3.1, 50.9)

    def look(day: int, where: shapely.Geometry, orbit: str) -> pystac.Item:
        raw = record(f"{orbit}-{day}", f"2023-05-{day:02d}T06:00:00Z", **{"sat:orbit_state": orbit})
        return to_item(raw | {"geometry": shapely.geometry.mapping(where),
                              "collection": "sentinel-1-rtc"})

    radar = ItemSet("s1", "c", (look(1, whole, "ascending"), look(5, west, "descending"),
                                look(13, whole, "ascending")))
    (sheet,) = sheets(shapely.box(2.99, 50.8, 3.09, 50.803), 10)
    rows = plan([sheet], 64, {"s1": radar}, toy_card(CROPLAND), parse_period("2023-05", 12), ())
    made = SimpleNamespace(rows=rows, items={"s1": radar})
    records = [TileRecord(sheet.name, row.tile.name, "mapped", "s1", "", 1) for row in rows]
    seen = [record.orbits for record in with_orbits(made, records)]
    assert seen[0] == {"ascending": 2, "descending": 1}
    assert seen[-1] == {"ascending": 2}


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
