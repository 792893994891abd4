"""The coverage gate: a tile without an observation, where the plan expected clear ones."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.data.block_store import SHARED
from pipeline.data.hrefs import shown
from pipeline.data.items import ItemSet
from pipeline.data.presence import hollow
from pipeline.infer.plan import PlanRow
from pipeline.spec.cube import Cube
from pipeline.spec.errors import DataTrouble


def through_gate(
    read: Callable[[], Cube], row: PlanRow, items: ItemSet, min_steps: int
) -> Cube:
    """A tile's cube, read a second time if the first is empty without need.

    Clouds may cover every image of a year. Files that hold nothing at all where their outlines
    say that they do are another matter: that is what a failure looks like that nobody reported.

    Args:
        read: reads the tile and its halo.
        row: of the plan.
        items: of the cube's sensor.
        min_steps: fewest steps with data that a map needs.

    Raises:
        DataTrouble: it is empty both times, and no image that covers the tile has a pixel there.
    """
    expected = next((c.expected_steps for c in row.choices if c.sensor == items.sensor), 0.0)
    for again in (False, True):
        if again:
            SHARED.clear()  # else what is held would be looked at again, and not the files
        cube = read()
        if cube.count.any() or expected < min_steps:
            return cube
    if empty := hollow(items, row.tile.geobox):
        raise DataTrouble(
            f"suspicious: the tile is empty in all {len(empty)} {items.sensor} images whose "
            f"outlines cover it ({expected:.1f} clear steps expected), when read again, too",
            got=shown(empty[0]),
            then="look at these files; if the images really end there, cut the area",
        )
    return cube
