"""The Prefect flow, run for real with its local server: states, retries, logs, results."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli
from pipeline.refresh import serve
from pipeline.refresh.versions import Shelf
from pipeline.sandbox import SandboxParams

needs_prefect = pytest.mark.skipif(importlib.util.find_spec("prefect") is None,
                                   reason="the extra schedule (Prefect 3) is not installed")


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    """Prefect's own server on this machine, with an empty data base."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture
def config(region: Path, untrained: dict[str, Path], tmp_path: Path) -> Path:
    """A schedule of two maps of the tiny sandbox."""
    shutil.copytree(region, tmp_path / "archive")
    west, south, east, north = SandboxParams.tiny().bounds
    aoi = (f"{west + 0.001:.5f},{south + 0.0005:.5f},"
           f"{(west + east) / 2 - 0.0005:.5f},{(south + north) / 2:.5f}")
    path = tmp_path / "schedule.toml"
    path.write_text(f"""root = "root"
catalog = "archive/catalog.json"
[regions.west]
aoi = "{aoi}"
tasks = ["cropland"]
[regions.again]
aoi = "{aoi}"
tasks = ["cropland"]
[tasks.cropland]
sensor = "s2"
period = "2023-10"
checkpoint = "{untrained['cropland']}"
tile_px = 64
""")
    return path


def runs(flow_run_id: Any) -> tuple[Any, dict[str, Any], list[str]]:
    """What the server knows: the flow run, its task runs by name, its log."""
    from prefect import get_client
    from prefect.client.schemas import filters

    async def ask() -> tuple[Any, dict[str, Any], list[str]]:
        async with get_client() as client:
            run = await client.read_flow_run(flow_run_id)
            of_it = filters.FlowRunFilter(id=filters.FlowRunFilterId(any_=[flow_run_id]))
            tasks = await client.read_task_runs(flow_run_filter=of_it)
            for _ in range(100):  # task runs and logs are written in the background
                logs = await client.read_logs(filters.LogFilter(
                    flow_run_id=filters.LogFilterFlowRunId(any_=[flow_run_id])))
                if len(tasks) >= 2 and any("tiles made" in x.message or "failed" in x.message
                                           for x in logs):
                    break
                await asyncio.sleep(0.1)
                tasks = await client.read_task_runs(flow_run_filter=of_it)
            return run, {t.name: t for t in tasks}, [x.message for x in logs]

    return asyncio.run(ask())


@needs_prefect
def test_a_round_is_a_flow_run_with_a_task_a_map(server: None, config: Path) -> None:
    from pipeline.refresh.flow import refresh_schedule

    state = refresh_schedule(str(config), now="2023-11-02T03:00:00Z", return_state=True)
    assert state.is_completed()
    results = state.result()
    assert [(r["region"], r["status"]) for r in results] == [
        ("west", "published"), ("again", "published")]
    run, tasks, log = runs(state.state_details.flow_run_id)
    assert run.state_name == "Completed"
    assert {name: t.state_name for name, t in tasks.items()} == {
        "west/cropland": "Completed", "again/cropland": "Completed"}
    assert any("tiles made" in message for message in log)
    root = config.parent / "root"
    for region in ("west", "again"):
        assert Shelf(root / region / "cropland").current()
    assert (root / "catalog.json").is_file()


@needs_prefect
def test_what_is_served_gets_runs_by_the_clock(server: None, config: Path) -> None:
    """The server plans the runs itself: a package that it cannot do so with keeps maps old."""
    from prefect import get_client
    from prefect.client.schemas import filters

    from pipeline.refresh.flow import refresh_schedule

    made = refresh_schedule.to_deployment("clock", cron="0 3 * * *",
                                          parameters={"config": str(config)}).apply()

    async def planned() -> list[Any]:
        async with get_client() as client:
            await client.request("POST", "/deployments/{id}/schedule", path_params={"id": made},
                                 json={"min_runs": 2})
            return await client.read_flow_runs(deployment_filter=filters.DeploymentFilter(
                id=filters.DeploymentFilterId(any_=[made])))

    runs_ = asyncio.run(planned())
    assert len(runs_) >= 2
    assert all(run.auto_scheduled and run.expected_start_time.hour == 3 for run in runs_)


@needs_prefect
def test_trouble_with_data_is_tried_again_and_the_rest_goes_on(server: None, config: Path) -> None:
    from pipeline.refresh.flow import NotRefreshed, refresh_schedule

    (config.parent / "archive" / "gone.json").write_text("{")  # a catalogue that is cut short
    text = config.read_text().replace("[regions.again]",
                                      '[regions.again]\ncatalog = "archive/gone.json"')
    config.write_text(text)
    state = refresh_schedule(str(config), now="2023-11-02T03:00:00Z", retries=1, wait_s=0.0,
                             return_state=True)
    assert state.is_failed()
    trouble = state.result(raise_on_failure=False)
    assert isinstance(trouble, NotRefreshed)
    assert trouble.exit_code == 3
    _, tasks, _ = runs(state.state_details.flow_run_id)
    assert tasks["west/cropland"].state_name == "Completed"
    assert tasks["again/cropland"].state_name == "Failed"
    assert tasks["again/cropland"].run_count == 2
    assert Shelf(config.parent / "root" / "west" / "cropland").current()


def test_without_prefect_the_command_says_what_to_type(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    assert cli.run(serve.command, ["--config", str(config)]) == 2
    assert "pip install 'wallmap[schedule]'" in capsys.readouterr().err


@needs_prefect
def test_a_wrong_schedule_is_refused_before_it_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.toml").write_text("root = 1")
    assert cli.run(serve.command, ["--config", str(tmp_path / "s.toml")]) == 2
    assert "s.toml" in capsys.readouterr().err
