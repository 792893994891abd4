"""Schedules: strict parsing, the schema in step, and which period is mapped when."""

from __future__ import annotations

import json
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest

from pipeline.refresh.job import jobs_of, read_schedule, root_of
from pipeline.refresh.period import due, tier_of, window_at
from pipeline.spec.errors import BadRequest
from pipeline.spec.schedule import (
    Bounds,
    RegionPlan,
    Retention,
    Schedule,
    TaskPlan,
    json_schema,
    parse_schedule,
)
from pipeline.spec.tasks import CROPLAND, LFMC
from pipeline.spec.timeline import Timeline, parse_month, parse_period

AOI = Path(__file__).resolve().parents[1] / "aoi"
GOOD = """root = "maps"
catalog = "earth-search"
[regions.north]
aoi = "4.3,50.6,4.5,50.7"
tasks = ["cropland", "lfmc"]
[regions.south]
aoi = "areas/south.gpkg"
tasks = ["lfmc"]
catalog = "items.parquet"
[tasks.cropland]
period = "season"
sensor = "s2,s1"
[tasks.lfmc]
tile_px = 64
[bounds]
class_drift = 0.2
"""


def test_a_schedule_is_regions_times_tasks() -> None:
    made = parse_schedule(GOOD, "s.toml")
    jobs = jobs_of(made, Path("/etc/wallmap"))
    assert [j.name for j in jobs] == ["north/cropland", "north/lfmc", "south/lfmc"]
    assert (made.bounds.class_drift, made.bounds.coverage_drop) == (0.2, 0.05)
    south = jobs[2].request(Timeline(24000, 4), Path("out"))
    assert south.aoi == "/etc/wallmap/areas/south.gpkg"
    assert south.catalog == "/etc/wallmap/items.parquet"
    assert (south.checkpoint, south.tile_px) == ("lfmc", 64)
    north = jobs[0].request(Timeline(24000, 12), Path("out"))
    assert (north.aoi, north.catalog) == ("4.3,50.6,4.5,50.7", "earth-search")
    assert jobs[2].shelf.path == Path("/etc/wallmap/maps/south/lfmc")
    assert [j.name for j in jobs_of(made, Path("."), task="lfmc")] == ["north/lfmc", "south/lfmc"]
    with pytest.raises(BadRequest, match="east") as caught:
        jobs_of(made, Path("."), region="east")
    assert "north (cropland, lfmc)" in str(caught.value)


@pytest.mark.parametrize(("old", "new", "says"), [
    ("tile_px = 64", "tile_pix = 64", r"\[tasks.lfmc\] has no key; got 'tile_pix'; allowed: sens"),
    ("tile_px = 64", "tile_px = 8", r"\[tasks.lfmc\] tile_px; got 8; allowed: a whole number from"),
    ("tile_px = 64", 'tile_px = "64"', r"tile_px; got '64'"),
    ("tile_px = 64", "tile_px = true", r"tile_px; got True"),
    ("tile_px = 64", "every_days = nan", r"every_days; got nan"),
    ('sensor = "s2,s1"', 'sensor = "s9"', r"\[tasks.cropland\] sensor: unknown sensor; got 's9'"),
    ('period = "season"', 'period = "2023-13"', r"period: not a month; got '2023-13'"),
    ("class_drift = 0.2", "class_drift = 2", r"\[bounds\] class_drift; got 2"),
    ("[bounds]", "[bound]", r"the top of the file has no key; got 'bound'"),
    ('root = "maps"', "", "the top of the file lacks root"),
    ('tasks = ["lfmc"]', 'tasks = ["lfmc", "wheat"]', r"\[regions.south\] tasks"),
    ('tasks = ["lfmc"]', "tasks = []", r"\[regions.south\] tasks"),
    ('tasks = ["lfmc"]', 'tasks = "lfmc"', "a list of texts"),
    ("[regions.south]", "[regions.'So uth']", "does not fit a folder"),
    ("[tasks.lfmc]", "[tasks.wheat]", r"\[tasks.wheat\] is no task"),
    ("[tasks.lfmc]", "[[tasks.lfmc]]", "tasks.lfmc is not a table"),
    ('root = "maps"', "root = maps", "is not TOML"),
    ('root = "maps"', 'root = "maps"\nscheduler = "h:1"', "unknown scheduler; got 'h:1'"),
    ('root = "maps"', 'root = "maps"\nscheduler = 8786', "scheduler; got 8786"),
    ('root = "maps"', 'root = "maps"\nworkers = 0', "workers; got 0; allowed: a whole"),
])
def test_every_error_names_file_table_key_and_value(old: str, new: str, says: str) -> None:
    assert old in GOOD
    with pytest.raises(BadRequest, match=says) as caught:
        parse_schedule(GOOD.replace(old, new), "dir/s.toml")
    assert "dir/s.toml" in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_schema_is_in_step_and_says_what_the_parser_says() -> None:
    kept = json.loads((AOI / "schedule.schema.json").read_text())
    assert kept == json_schema(), "write aoi/schedule.schema.json again from json_schema()"
    check = jsonschema.Draft202012Validator(kept)
    check.check_schema(kept)
    for text in (GOOD, (AOI / "schedule.toml").read_text()):
        assert not list(check.iter_errors(tomllib.loads(text)))
    for old, new in (("tile_px = 64", "tile_pix = 64"), ("tile_px = 64", "tile_px = 8"),
                     ("class_drift = 0.2", "class_drift = 2"), ("[tasks.lfmc]", "[tasks.wheat]"),
                     ('tasks = ["lfmc"]', "tasks = []"), ('root = "maps"', ""),
                     ('root = "maps"', 'root = "maps"\nscheduler = "h:1"'),
                     ('root = "maps"', 'root = "maps"\nworkers = 0')):
        assert list(check.iter_errors(tomllib.loads(GOOD.replace(old, new)))), new


def test_the_example_names_every_key(tmp_path: Path) -> None:
    text = (AOI / "schedule.toml").read_text()
    kinds = (Schedule, RegionPlan, TaskPlan, Bounds, Retention)
    names = {name for kind in kinds for name in kind.__dataclass_fields__}
    for name in names - {"regions", "bounds", "retention"}:  # tables
        assert f"{name} = " in text, f"aoi/schedule.toml does not tell of {name}"
    made = read_schedule(AOI / "schedule.toml")
    assert (AOI / jobs_of(made, AOI)[0].area.aoi).is_file()
    with pytest.raises(BadRequest, match="cannot be read"):
        read_schedule(tmp_path / "none.toml")


@pytest.mark.parametrize("text", [
    "none", "local", "tcp://dask:8786", "tls://10.0.0.1:8786", "tcp://[::1]:8786"])
def test_what_makes_the_tiles(text: str) -> None:
    top = f'scheduler = "{text}"\nworkers = 3\n' + GOOD
    made = parse_schedule(top, "s.toml")
    assert (made.scheduler, made.workers) == (text, 3)
    check = jsonschema.Draft202012Validator(json_schema())
    assert not list(check.iter_errors(tomllib.loads(top)))
    made = parse_schedule(GOOD, "s.toml")
    assert (made.scheduler, made.workers) == ("none", None)


def test_a_remote_root_needs_a_folder_to_work_in() -> None:
    made = parse_schedule(GOOD.replace('"maps"', '"s3://bucket/maps"'), "s.toml")
    with pytest.raises(BadRequest, match="work"):
        root_of(made, Path("."))
    made = parse_schedule('work = "here"\n' + GOOD.replace('"maps"', '"s3://b/maps"'), "s.toml")
    assert root_of(made, Path("/x")) == Path("/x/here")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(("period", "task", "latitude", "now", "wanted"), [
    ("rolling", CROPLAND, 50, "2023-10-15", "2022-11:2023-10"),
    ("rolling", CROPLAND, 50, "2023-11-10", "2022-11:2023-10"),  # late scenes are waited for
    ("rolling", CROPLAND, 50, "2023-11-11", "2022-12:2023-11"),
    ("rolling", LFMC, 50, "2024-01-11", "2023-10:2024-01"),
    ("rolling", LFMC, 50, "2024-01-10", "2023-09:2023-12"),
    ("season", CROPLAND, 50, "2023-10-31", "2022-11:2023-10"),
    ("season", CROPLAND, 50, "2024-03-29", "2022-11:2023-10"),  # 150 days after the end of 2023's
    ("season", CROPLAND, 50, "2024-03-30", "2023-11:2024-10"),
    ("season", CROPLAND, -30, "2024-03-30", "2023-05:2024-04"),  # ends in April in the south
    ("2021-10", CROPLAND, 50, "2024-03-30", "2020-11:2021-10"),
])
def test_which_period_is_mapped(
    period: str, task, latitude: float, now: str, wanted: str
) -> None:
    assert str(window_at(TaskPlan(period=period), task, latitude, at(now))) == wanted


def test_a_period_is_made_final_before_the_next_is_begun() -> None:
    plan, now = TaskPlan(), at("2023-11-11")
    old, new = parse_period("2022-11:2023-10", 12), parse_period("2022-12:2023-11", 12, at(
        "2024-01-01"))
    assert tier_of(old, 10, now - timedelta(seconds=1)) == "provisional"
    assert tier_of(old, 10, now) == "final"
    assert due(plan, CROPLAND, 50, now, old, "provisional") == [old, new]
    assert due(plan, CROPLAND, 50, now, old, "final") == [new]
    assert due(plan, CROPLAND, 50, now, new, "provisional") == [new]
    assert due(plan, CROPLAND, 50, now, None, None) == [new]


def test_periods_never_go_back() -> None:
    for period in ("rolling", "season"):
        seen = [window_at(TaskPlan(period=period), CROPLAND, 50,
                          at("2022-01-01") + timedelta(days=k)).last for k in range(0, 800)]
        assert seen == sorted(seen)
        assert seen[0] <= parse_month("2022-01") < seen[-1]
