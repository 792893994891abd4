"""What the pixels of each tile depend on: equal fingerprints mean equal pixels, bit for bit.

A tile is made of the scenes of the sensors that its pixels were decided to look at. Which these are
follows from the plan of its cells and from the scenes themselves; so a new scene of a sensor that
a tile never looked at leaves its fingerprint as it was, unless it changes the ranking.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pystac

from pipeline.data.duplicates import acquisition
from pipeline.data.hrefs import shown
from pipeline.data.items import ItemSet, as_floats
from pipeline.data.sources import MASK_DTYPE, STORED_DTYPE, assets_needed
from pipeline.infer.decide import score_by_steps
from pipeline.infer.levels import sample_cells
from pipeline.infer.plan import PlanRow
from pipeline.mapping import MapPlan, identity, software
from pipeline.prep.features import bands_needed
from pipeline.spec.errors import DataTrouble
from pipeline.spec.sensors import SENSORS
from pipeline.spec.source import Source

SCHEMA = 1


@dataclass(frozen=True)
class Scene:
    """One item.

    Attributes:
        sensor: key.
        id: of the item.
        digest: of everything that the catalogue says of it: properties (baseline, ``updated``,
            ...), outline, and its assets' names, checksums, sizes and scaling.
        take: names the acquisition: versions of one acquisition share it.
    """

    sensor: str
    id: str
    digest: str
    take: str


@dataclass(frozen=True)
class Mark:
    """One tile.

    Attributes:
        plan: digests of how its cells rank the sensors, as far as a pixel can depend on it: of
            the first rank, of the first two, ... A pixel that needed no third is no matter of it.
        ranks: per sensor, the last rank that it has in any cell.
        sensors: digest of the scenes (and their passes) that its window reads, per sensor.
        scenes: indices of these scenes in ``Fingerprints.scenes``, per sensor.
        bytes: estimated bytes of these scenes in its window, per sensor.
    """

    plan: tuple[str, ...]
    ranks: Mapping[str, int]
    sensors: Mapping[str, str]
    scenes: Mapping[str, tuple[int, ...]]
    bytes: Mapping[str, int]


@dataclass(frozen=True)
class Fingerprints:
    """All tiles of a map.

    Attributes:
        common: what all tiles depend on, by name: period, checkpoint, software, ...
        scenes: every item of the plan.
        tiles: by key (``sheet/tile``).
    """

    common: Mapping[str, str]
    scenes: tuple[Scene, ...]
    tiles: Mapping[str, Mark]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON object."""
        return {
            "schema": SCHEMA, "common": dict(self.common),
            "scenes": [[s.sensor, s.id, s.digest, s.take] for s in self.scenes],
            "tiles": {key: [list(m.plan), dict(m.ranks), dict(m.sensors),
                            {k: list(v) for k, v in m.scenes.items()}, dict(m.bytes)]
                      for key, m in self.tiles.items()},
        }

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Fingerprints:
        """Of ``to_json``.

        Raises:
            DataTrouble: damaged, or of another version.
        """
        try:
            if obj["schema"] != SCHEMA:
                raise ValueError(f"schema {obj['schema']}")
            return cls(
                dict(obj["common"]), tuple(Scene(*row) for row in obj["scenes"]),
                {key: Mark(tuple(plan), ranks, sensors,
                           {k: tuple(v) for k, v in scenes.items()}, size)
                 for key, (plan, ranks, sensors, scenes, size) in obj["tiles"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataTrouble("the fingerprints of a version cannot be read",
                              got=f"{type(error).__name__}: {error}") from None


def fingerprints(made: MapPlan) -> Fingerprints:
    """Fingerprints of a plan; no pixel is read."""
    scenes: list[Scene] = []
    first: dict[str, int] = {}
    for key, items in made.items.items():
        first[key] = len(scenes)
        scenes += [Scene(key, item.id, item_digest(item), digest(acquisition(item)))
                   for item in items.items]
    tiles = {row.key: _mark(row, made, scenes, first) for row in made.rows}
    return Fingerprints(_common(made), tuple(scenes), tiles)


def item_digest(item: pystac.Item) -> str:
    """Digest of what a catalogue says of an item, not of where its files lie."""
    assets = {key: [shown(asset.href).rsplit("/", 1)[-1], asset.extra_fields]
              for key, asset in item.assets.items()}
    return digest([item.collection_id, item.id, item.properties, item.geometry, assets])


def digest(value: Any) -> str:
    """sha256 of JSON, shortened."""
    text = json.dumps(as_floats(value), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _common(made: MapPlan) -> dict[str, str]:
    """What all tiles depend on. Scenes are the tiles' own matter; where the catalogue and the
    outline lie does not matter, what they hold does."""
    own = {k: v for k, v in identity(made).items() if k not in ("items", "catalog", "aoi")}
    return {
        **{k: str(v) for k, v in own.items()},
        "software": digest(software()),
        "place": digest([[k, sorted(item_digest(i) for i in v.items)]
                         for k, v in sorted(made.layers.items())]),
        "smoothing": digest({k: made.request.task.smooth_px(k) for k in SENSORS}),
        **{f"levels of {key}": _sampled(made, key) for key in made.foreign},
    }


def _sampled(made: MapPlan, sensor: str) -> str:
    """What the shift of a sensor's levels is estimated from, for the whole map."""
    items = made.items[sensor]
    seen = {k for _, window in sample_cells(made.sheets) for k in items.touching(window)}
    return digest([item_digest(items.items[k]) for k in sorted(seen)])


def _mark(
    row: PlanRow, made: MapPlan, scenes: Sequence[Scene], first: Mapping[str, int]
) -> Mark:
    found: dict[str, tuple[int, ...]] = {}
    ranks: dict[str, int] = {}
    for cell in row.cells:
        for rank, choice in enumerate(cell.choices):
            ranks[choice.sensor] = max(rank, ranks.get(choice.sensor, 0))
    digests, size = {}, {}
    for sensor in sorted(ranks):
        items = made.items[sensor]
        window = row.tile.geobox.pad(made.request.task.smooth_px(sensor) // 2)
        index = items.touching(window)
        found[sensor] = tuple(first[sensor] + k for k in index)
        # passes are counted over all items: only which of these share one, and their order, matter
        passes = np.unique([items.passes[k] for k in index], return_inverse=True)[1].tolist()
        digests[sensor] = digest([[scenes[n].digest for n in found[sensor]], passes])
        height, width = (n * made.request.task.pixel_m for n in window.shape)
        bands = bands_needed(made.card.sensors[sensor].features, SENSORS[sensor].band_names)
        size[sensor] = sum(_bytes(items, k, bands, height, width) for k in index)
    plan = [digest(list(_ranking(row, made, n))) for n in range(1, max(len(ranks), 1) + 1)]
    return Mark(tuple(plan), ranks, digests, found, size)


def _ranking(row: PlanRow, made: MapPlan, depth: int) -> Iterator[Any]:
    """What of a tile's plan can change a pixel that needs the first ``depth`` ranks.

    A promise is compared with what a number of clear steps is worth: it matters which of these it
    exceeds, not by how much (``infer.decide``). The gate asks whether enough steps are expected.
    """
    worth = [score_by_steps(made.card, key) for key in sorted(made.items)]
    enough = {c.sensor: c.expected_steps >= made.request.task.min_steps for c in row.choices}
    yield row.mode
    for cell in row.cells:
        names = [c.sensor for c in cell.choices]
        names = sorted(names) if row.mode == "all" else names[:depth]
        promises = [[(w < c.score).tolist() for w in worth]
                    for c in cell.choices[1 : depth + 1] if row.mode == "best"]
        yield [[name, enough[name]] for name in names]
        further = len(cell.choices) > depth  # a pixel left over would look there
        yield [cell.rows.start, cell.rows.stop, cell.cols.start, cell.cols.stop, further, promises]


def _bytes(items: ItemSet, index: int, bands: tuple[str, ...], height: float, width: float) -> int:
    """Estimated bytes of an item's window: pixels of each asset at the band's own resolution, as
    stored numbers before compression; the quality band at that of the coarsest band read.

    Blocks that reach beyond the window are not counted, compression is not either: of two tiles
    of a map the estimate tells the share, not what a network meter would show.
    """
    source: Source = items.sources[index]
    needed = assets_needed(source, bands) or ()
    metres = {b.name: b.resolution_m for b in SENSORS[items.sensor].bands if b.name in bands}
    per_band = np.dtype(STORED_DTYPE[source.unit]).itemsize
    total = sum(_pixels(height, width, m) * per_band for m in metres.values())
    if source.mask is not None and source.mask_asset in needed:
        total += _pixels(height, width, max(metres.values())) * np.dtype(
            MASK_DTYPE[source.mask]).itemsize
    return total


def _pixels(height: float, width: float, metres: int) -> int:
    return -(-int(height) // metres) * -(-int(width) // metres)
