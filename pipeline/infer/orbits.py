"""Which orbits see a tile. Radar looks sideways: a slope or a row of trees is another one from the
other side.

All orbits are composited together, in training samples as in maps: what is averaged is the same in
both, and a country that one direction never sees is mapped from the other. What a tile was made
from is recorded, since it differs from tile to tile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pystac
from odc.geo.geobox import GeoBox

from pipeline.data.items import ItemSet


def orbits_of(items: ItemSet, tiles: Sequence[GeoBox]) -> list[dict[str, int]]:
    """Passes of each orbit that may touch each tile.

    Args:
        items: of a radar sensor.
        tiles: windows.

    Returns:
        Per tile, direction and relative orbit (as far as they are stated) -> passes, most first.
    """
    names = [_orbit(item) for item in items.items]
    found = []
    for touching in items.touching_each(tiles):
        passes = {(items.passes[k], names[k]) for k in touching}
        count = Counter(name for _, name in passes)
        found.append(dict(sorted(count.items(), key=lambda pair: (-pair[1], pair[0]))))
    return found


def _orbit(item: pystac.Item) -> str:
    parts = (item.properties.get("sat:orbit_state"), item.properties.get("sat:relative_orbit"))
    return " ".join(str(p) for p in parts if p is not None) or "not stated"
