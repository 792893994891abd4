"""Fingerprints: what the pixels of a tile depend on, all of it and nothing else."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import shapely
from pyproj import Transformer

from pipeline.mapping import MapPlan, plan_map
from pipeline.refresh.carry import (
    AGAIN,
    FIRST,
    GONE,
    NEW,
    RANKED,
    REDONE,
    Before,
    count_reasons,
    explaining,
    reasons,
)
from pipeline.refresh.fingerprint import Fingerprints, fingerprints
from pipeline.sandbox import SandboxParams
from pipeline.spec.errors import DataTrouble
from pipeline.spec.manifest import TileRecord
from pipeline.spec.request import MapRequest
from pipeline.spec.tasks import CROPLAND
from pipeline.spec.timeline import parse_period
from tests.support.archive import Archive

LATER = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def archive(region: Path, tmp_path: Path) -> Archive:
    """A copy of the tiny region that a test may change."""
    shutil.copytree(region, tmp_path / "archive")
    return Archive(tmp_path / "archive")


@pytest.fixture
def plan(archive: Archive, untrained: dict[str, Path]) -> Callable[..., MapPlan]:
    """Plans the west of the region from what the archive lists."""
    west, south, east, north = SandboxParams.tiny().bounds
    aoi = f"{west + 0.001:.5f},{south + 0.0005:.5f},{(west + east) / 2 - 0.0005:.5f},{north:.5f}"

    def planned(sensor: str = "s2", period: str = "2022-11:2023-10", **changes) -> MapPlan:
        return plan_map(MapRequest(
            aoi, sensor, CROPLAND, parse_period(period, 12), str(archive.view(LATER)),
            str(untrained["cropland"]), Path("unused"), tile_px=16, **changes))

    return planned


def took(made: MapPlan, *sensors: str) -> Before:
    """The plan as if it had been carried out and every tile had looked at these sensors."""
    records = {row.key: TileRecord(row.sheet.name, row.tile.name, "mapped", sensors[0], "", 256,
                                   observations=dict.fromkeys(sensors, 1.0)) for row in made.rows}
    return Before(Path("unused"), fingerprints(made), records)


def changed(made: MapPlan, old: Before | None) -> dict[str, tuple[str, ...]]:
    now = fingerprints(made)
    return {row.key: why for row in made.rows if (why := reasons(now, old, row.key))}


def scenes(archive: Archive, collection: str = "sentinel-2-l2a", zone: str = "T31") -> list[str]:
    return sorted(e.id for e in archive.there(LATER) if e.collection == collection
                  and (zone in e.id or collection != "sentinel-2-l2a")
                  and e.seen > datetime(2022, 11, 1, tzinfo=UTC))


def test_nothing_new_means_equal_fingerprints(plan) -> None:
    made = plan("auto")
    assert len(made.rows) >= 6
    old = took(made, "s1", "s2", "l8")
    assert changed(plan("auto"), old) == {}
    assert changed(made, None) == {row.key: (FIRST,) for row in made.rows}
    back = Fingerprints.from_json(json.loads(json.dumps(old.marks.to_json())))
    assert back == old.marks
    for wrong in ({}, old.marks.to_json() | {"schema": 0}, old.marks.to_json() | {"tiles": 3}):
        with pytest.raises(DataTrouble):
            Fingerprints.from_json(wrong)


def test_a_scene_over_three_tiles_changes_three(archive: Archive, plan) -> None:
    name = scenes(archive)[3]
    archive.comes(name, datetime.max.replace(tzinfo=UTC))  # not there yet
    old = took(plan(), "s2")
    archive.comes(name, datetime.min.replace(tzinfo=UTC))
    archive.crop(name, (0, 0.3), (0.0, 0.3))  # its north-west corner
    made = plan()
    found = changed(made, old)
    # by hand: outlines in metres; the search takes 0.001 degrees more than an image states
    item = next(i for i in made.items["s2"].items if i.id == name)
    outline = shapely.geometry.shape(item.geometry).buffer(0.001)
    to_lonlat = Transformer.from_crs(made.sheets[0].epsg, 4326, always_xy=True).transform
    touched = {row.key for row in made.rows if outline.intersects(shapely.transform(
        shapely.box(*row.tile.geobox.boundingbox.bbox), to_lonlat, interleaved=False))}
    assert 0 < len(touched) < len(made.rows)
    assert found == dict.fromkeys(touched, (NEW,))
    assert count_reasons(found) == {NEW: len(touched)}
    assert explaining(found) == ()


def test_withdrawn_and_reprocessed_scenes_are_told_apart(archive: Archive, plan) -> None:
    old = took(plan(), "s2")
    first, second = scenes(archive)[2], scenes(archive)[4]
    archive.goes(first, datetime(2023, 12, 1, tzinfo=UTC))
    found = changed(plan(), old)
    assert set(found.values()) == {(GONE,)}
    archive.goes(first, datetime.max.replace(tzinfo=UTC))
    assert changed(plan(), old) == {}
    again = next(e for e in archive.entries.values()  # a later baseline of a scene that is there
                 if e.again and "T31" in e.id and e.seen > datetime(2022, 11, 1, tzinfo=UTC))
    archive.comes(again.id, datetime.min.replace(tzinfo=UTC))
    assert set(changed(plan(), old).values()) == {(REDONE,)}
    archive.goes(again.id, datetime.min.replace(tzinfo=UTC))
    archive.edit(second, updated="2023-12-24T00:00:00Z")  # same id, written anew
    assert set(changed(plan(), old).values()) == {(REDONE,)}


def test_a_checksum_is_seen_and_where_files_lie_is_not(archive: Archive, plan) -> None:
    old = took(plan(), "s2")
    moved = archive.folder.rename(archive.folder.with_name("elsewhere"))
    archive.folder = moved
    made = plan()
    assert changed(made, old) == {}
    name = scenes(archive)[1]
    path = moved / archive.entries[name].path
    item = json.loads(path.read_text())
    item["assets"]["B04"]["file:checksum"] = "1220" + "ab" * 32
    path.write_text(json.dumps(item))
    assert set(changed(plan(), old).values()) == {(REDONE,)}
    item["assets"]["B04"].pop("file:checksum")
    path.write_text(json.dumps(item))
    assert changed(plan(), old) == {}


def test_what_all_tiles_depend_on(plan, archive: Archive, tmp_path: Path, untrained) -> None:
    made = plan()
    old = took(made, "s2")
    moved = changed(plan(period="2022-10:2023-09"), old)
    assert set(moved.values()) == {("the period moved on",)}
    assert explaining(moved) == ("the period moved on",)
    card = dataclasses.replace(made.card, sha256="f" * 64)
    assert set(changed(dataclasses.replace(made, card=card), old).values()) == {
        ("new checkpoint",)}
    assert len(changed(plan(speed="exact"), old)) == len(made.rows)
    assert set(changed(plan("s2,s1"), old).values()) == {("another sensor policy",)}
    newer = dataclasses.replace(old, marks=dataclasses.replace(
        old.marks, common={**old.marks.common, "software": "of old"}))
    assert set(changed(made, newer).values()) == {("new software",)}


def test_only_sensors_that_were_looked_at_count(archive: Archive, plan) -> None:
    name = scenes(archive, "landsat-c2-l2", "")[0]
    made = plan("auto")
    radar, both = took(made, "s1"), took(made, "s1", "l8")
    archive.edit(name, updated="2023-12-24T00:00:00Z")  # no ranking depends on that
    assert changed(plan("auto"), radar) == {}
    assert set(changed(plan("auto"), both).values()) == {(REDONE,)}


def test_a_new_ranking_counts_whatever_was_looked_at(archive: Archive, plan) -> None:
    old = took(plan("auto"), "s1")
    for name in scenes(archive, "landsat-c2-l2", ""):
        archive.goes(name, datetime.min.replace(tzinfo=UTC))
    found = changed(plan("auto"), old)
    assert set(found.values()) == {(RANKED,)}


def test_ranks_that_nobody_needed_do_not_count(archive: Archive, plan) -> None:
    made = plan("s2,s1,l8")
    first, second = took(made, "s2"), took(made, "s2", "s1")
    gone = scenes(archive, "landsat-c2-l2", "")
    for name in gone:
        archive.goes(name, datetime.min.replace(tzinfo=UTC))
    without = plan("s2,s1,l8")
    assert "l8" not in without.items
    assert changed(without, first) == {}  # s1 stood between
    assert set(changed(without, second).values()) == {(RANKED,)}  # it was the next to be asked
    alone = took(without, "s2", "s1")  # every rank was looked at: what is left over is a gap
    for name in gone:
        archive.goes(name, datetime.max.replace(tzinfo=UTC))
    assert set(changed(plan("s2,s1,l8"), alone).values()) == {(RANKED,)}


def test_a_promise_counts_by_what_it_is_compared_with(archive: Archive, plan) -> None:
    # with an order of preference no score is looked at: clouds change nothing but the plan's words
    name = scenes(archive)[0]
    before = took(plan("s1,s2"), "s1")
    archive.edit(name, **{"eo:cloud_cover": 1.0})
    assert changed(plan("s1,s2"), before) == {}


def test_a_tile_that_failed_is_made_again(plan) -> None:
    made = plan()
    old = took(made, "s2")
    lost = made.rows[1].key
    kept = {k: r for k, r in old.records.items() if k != lost}
    assert changed(made, dataclasses.replace(old, records=kept)) == {lost: (AGAIN,)}


def test_bytes_are_windows_of_assets(plan) -> None:
    made = plan()
    mark = fingerprints(made).tiles[made.rows[0].key]
    height, width = made.rows[0].tile.geobox.shape
    ten = height * width * 2  # a band of 10 m pixels, 2 bytes each
    twenty = -(-height * 10 // 20) * -(-width * 10 // 20)
    # 4 bands of 10 m, 5 of 20 m, and the scene classes of 20 m and one byte
    one = 4 * ten + 5 * twenty * 2 + twenty
    assert mark.bytes == {"s2": one * len(mark.scenes["s2"])}
