"""The fault campaign in small, and that it would notice a wrong map."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.campaigns.fault_kinds import KINDS, World, unstated
from tests.campaigns.faults import campaign, deflated, table
from tests.campaigns.scene import Scene, make_scene
from tests.support.fault_server import FaultServer

EXPECTED = {
    "429": "identical", "token that ends": "identical", "search loses pages": "identical",
    "item lacks an asset": "identical", "truncated file for good": "loud, resumed",
    "search loses items": "loud, resumed",
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return deflated(make_scene(tmp_path_factory.mktemp("scene")))


@pytest.fixture
def server(scene: Scene) -> Iterator[FaultServer]:
    with FaultServer(scene.region) as running:
        yield running


def test_a_map_behind_a_failing_server_is_the_same_or_fails_loudly(
    scene: Scene, server: FaultServer, tmp_path: Path
) -> None:
    made = campaign(tmp_path, server, scene, list(EXPECTED), ["s1"], times=1, seed=1)
    assert {kind: outcome for kind, _, outcome, _ in made} == EXPECTED, f"{table(made)}\n{made}"


def test_the_campaign_notices_files_that_are_not_what_they_were(
    scene: Scene, server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the radar images, each with the pixels of another date: nothing could tell them."""

    def swapped(world: World, sensor: str, draw: random.Random) -> str:
        items = [i for i in world.server.items if "rtc" in i["collection"]]
        for item, other in zip(items[::2], items[1::2], strict=False):
            for key, asset in item["assets"].items():
                asset["href"] = other["assets"][key]["href"]
        world.server.struck.append(("swapped", ""))
        return ""

    monkeypatch.setitem(KINDS, "swapped", unstated(swapped))
    ((_, _, outcome, wrong),) = campaign(tmp_path, server, scene, ["swapped"], ["s1"], 1, 1)
    assert (outcome, wrong.split(",")[0]) == ("WRONG", "other pixels")
