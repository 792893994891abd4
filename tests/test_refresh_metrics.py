"""The metrics file: read back by Prometheus' own parser, merged over regions, escaped."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.refresh import metrics
from pipeline.refresh.result import TileCounts
from pipeline.spec.errors import BadRequest
from tests.support.versions import result

parser = pytest.importorskip("prometheus_client.parser", reason="prometheus_client is not here")

NOON = 1_699_153_200.0  # 2023-11-05T03:00:00Z


def samples(path: Path) -> dict[tuple[str, str, str], float]:
    found = {}
    for family in parser.text_string_to_metric_families(path.read_text()):
        assert family.documentation
        for sample in family.samples:
            found[sample.name, sample.labels["region"], sample.labels["task"]] = sample.value
    return found


def test_a_published_version(tmp_path: Path) -> None:
    path = tmp_path / "metrics" / "wallmap.prom"
    metrics.write(path, [result()])
    assert {name.removeprefix("wallmap_"): value for (name, *_), value in samples(path).items()
            } == {
        "map_timestamp_seconds": NOON, "map_final": 0, "map_coverage_ratio": 0.98,
        "refresh_timestamp_seconds": NOON, "refresh_success_timestamp_seconds": NOON,
        "refresh_exit_code": 0, "refresh_failures_total": 0, "refresh_seconds": 12.5,
        "refresh_tiles_recomputed": 3, "refresh_tiles_carried": 397, "refresh_tiles_failed": 0,
        "refresh_bytes_read": 3_000_000, "refresh_bytes_saved": 397_000_000,
    }
    assert all(key[1:] == ("demo", "cropland") for key in samples(path))
    assert [p.name for p in path.parent.iterdir() if not p.name.startswith(".")] == [path.name]


def test_failures_count_and_the_map_stays_as_old_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "wallmap.prom"
    metrics.write(path, [result()])
    later = {"now": "2023-11-06T03:00:00Z", "version": "", "previous": "20231105T030000Z"}
    for _ in range(2):
        metrics.write(path, [result(**later, status="failed", exit_code=3, tiles=TileCounts())])
    got = {name: value for (name, *_), value in samples(path).items()}
    assert got["wallmap_refresh_failures_total"] == 2
    assert got["wallmap_refresh_exit_code"] == 3
    assert got["wallmap_map_timestamp_seconds"] == NOON
    assert got["wallmap_refresh_success_timestamp_seconds"] == NOON
    assert got["wallmap_refresh_timestamp_seconds"] == NOON + 86_400
    assert got["wallmap_refresh_tiles_carried"] == 397  # of the last one that got to tiles
    refused = result(status="refused", exit_code=4, version="20231107T030000Z",
                     previous="20231105T030000Z")
    metrics.write(path, [refused])
    got = {name: value for (name, *_), value in samples(path).items()}
    assert got["wallmap_map_timestamp_seconds"] == NOON
    assert got["wallmap_refresh_failures_total"] == 3


def test_a_map_that_was_not_due_keeps_its_figures(tmp_path: Path) -> None:
    path = tmp_path / "wallmap.prom"
    metrics.write(path, [result(), result(status="unchanged", tiles=TileCounts(), seconds=0.0)])
    got = {name: value for (name, *_), value in samples(path).items()}
    assert got["wallmap_refresh_seconds"] == 12.5


def test_regions_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "wallmap.prom"
    names = [f"r{k}" for k in range(12)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: metrics.write(path, [result(region=name)]), names))
    assert {region for _, region, _ in samples(path)} == {*names}


def test_labels_are_escaped_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "wallmap.prom"
    hostile = 'a"b\\c\nd,task="x"} 1'
    metrics.write(path, [result(region=hostile)])
    metrics.write(path, [result(region="plain")])
    assert {region for _, region, _ in samples(path)} == {hostile, "plain"}


def test_a_damaged_file_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "wallmap.prom"
    path.write_bytes(b'\xff\x00wallmap_map_final{region="a",task="b"} x\n')
    metrics.write(path, [result()])
    assert {region for _, region, _ in samples(path)} == {"demo"}
    path.write_text('wallmap_map_final{region="a",task="b"} x\nother{region="a",task="b"} 1\n')
    metrics.write(path, [result()])
    assert {region for _, region, _ in samples(path)} == {"demo"}


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRequest, match="cannot write"):
        metrics.write(tmp_path / "file" / "wallmap.prom", [result()])
