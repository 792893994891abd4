"""What may go wrong with a server, each as a function that sets it up."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.campaigns.scene import Scene
from tests.support.fault_server import LASTING, PASSING, Fault, FaultServer

FOR_GOOD = 10**9  # times that a fault strikes


@dataclass
class World:
    """The server, and what a faultless run of it gives.

    Attributes:
        server: with its faults.
        scene: what is mapped.
        clean: the server's items as they are.
        whole: sensor -> pixels by file name.
        files: sensor -> addresses of the files that are read, one an ask.
    """

    server: FaultServer
    scene: Scene
    clean: str
    whole: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)

    def calm(self) -> None:
        """No faults any more."""
        s = self.server
        s.wrong, s.struck, s.faults, s.token, s.next_lifetime = [], [], [], "", 10**9
        s.drop = s.lose = 0
        s.count, s.repeat, s.page = True, False, 100
        s.requests.clear()
        s.items[:] = json.loads(self.clean)


Arm = Callable[[World, str, random.Random], str]  # sets faults; what an error must name


def passing(kind: str) -> Arm:
    """One to three times, at any request for a file."""

    def arm(world: World, sensor: str, draw: random.Random) -> str:
        asks = len(world.files[sensor])
        world.server.wrong = [Fault(kind, after=draw.randrange(asks))
                              for _ in range(draw.randint(1, 3))]
        return ""

    return arm


def lasting(kind: str, where: str = "any") -> Arm:
    """One file, from its first request or a later one on, for good."""

    def arm(world: World, sensor: str, draw: random.Random) -> str:
        name = Path(draw.choice(world.files[sensor])).name
        after = 0 if where == "pixels" else draw.choice([0, 0, 1])
        world.server.wrong = [Fault(kind, re.escape(name), after, FOR_GOOD, where)]
        return name

    return arm


def search(**state: Any) -> Arm:
    """A state of the server's search."""

    def arm(world: World, sensor: str, draw: random.Random) -> str:
        for key, value in state.items():
            setattr(world.server, key, value(draw) if callable(value) else value)
        return world.server.url

    return arm


def tokens(world: World, sensor: str, draw: random.Random) -> str:
    """Tokens that end after any number of requests, again and again."""
    world.server.token = "t"
    world.server.lifetime = draw.randrange(len(world.files[sensor]) // 2) + 1
    world.server.next_lifetime = draw.randint(20, 100)
    return ""


def other_size(world: World, sensor: str, draw: random.Random) -> str:
    """Items that state another size than their files have."""
    for item in draw.sample(world.server.items, len(world.server.items) // 2):
        for fields in (item["properties"], *item["assets"].values()):
            fields |= {"file:size": draw.randrange(10**6), "proj:shape": [3, draw.randint(1, 99)]}
    return ""


def missing_asset(world: World, sensor: str, draw: random.Random) -> str:
    """An item lacks a file that is needed; its id."""
    path = draw.choice(world.files[sensor])
    for item in world.server.items:
        for key, asset in item["assets"].items():
            if asset["href"].endswith(path):
                del item["assets"][key]
                return str(item["id"])
    raise ValueError(path)


def unstated(arm: Arm) -> Arm:
    """No item states a checksum, and files are read in small pieces."""

    def armed(world: World, sensor: str, draw: random.Random) -> str:
        for item in world.server.items:
            for asset in item["assets"].values():
                asset.pop("file:checksum", None)
        return arm(world, sensor, draw)

    return armed


KINDS: dict[str, Arm] = {
    **{f"{kind}": passing(kind) for kind in PASSING},
    **{f"{kind} for good": lasting(kind) for kind in LASTING},
    **{f"{kind}, no checksum": unstated(passing(kind)) for kind in PASSING if kind != "corrupt"},
    **{f"{kind} for good, no checksum": unstated(lasting(kind)) for kind in LASTING
       if kind != "corrupt"},
    # a bit of a header, or of a ZSTD block, may be as good as its opposite: only the blocks of
    # DEFLATE have a checksum of their own
    "corrupt block, no checksum": unstated(lasting("corrupt", "pixels")),
    "token that ends": tokens,
    "token that ends, no checksum": unstated(tokens),
    "item states another size": other_size,
    "item lacks an asset": missing_asset,
    "search 429, 500, 503, 504": search(faults=lambda d: d.choices([429, 500, 503, 504], k=3)),
    "search 503 for good": search(faults=lambda d: [503] * 50),
    "search loses pages": search(page=3, drop=lambda d: d.randint(1, 4)),
    "search loses pages, no count": search(page=3, count=False, drop=lambda d: d.randint(1, 4)),
    "search repeats items": search(page=3, repeat=True),
    "search loses items": search(lose=1),
}
