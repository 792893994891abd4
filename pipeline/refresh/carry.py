"""Tiles that need not be made again: which, why the others must, and taking them over."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.files import atomic_write_text
from pipeline.infer.store import STAMP, RunStore, finished_tiles
from pipeline.mapping import ADAPTED, MapPlan
from pipeline.refresh.fingerprint import Fingerprints, Scene
from pipeline.spec.errors import DataTrouble
from pipeline.spec.grid import Tile
from pipeline.spec.manifest import TileRecord

MARKS = "fingerprints.json"  # in a run's state
FIRST, AGAIN, RANKED = "first", "could not be read before", "sensors ranked anew"
UNFIT = "could not be carried over"  # damaged, or computed in another precision
NEW, GONE, REDONE = "new scene", "withdrawn scene", "reprocessed scene"
# words for what all tiles depend on; anything else is "other <name>"
_COMMON = {"period": "the period moved on", "card": "new checkpoint", "area": "another area",
           "sensor": "another sensor policy", "software": "new software",
           "place": "other elevation or land cover", "tile_px": "another tile size"}


@dataclass(frozen=True)
class Before:
    """A run that tiles may be taken from, finished or not.

    Attributes:
        state: folder of its state.
        marks: what its tiles were made of.
        records: of its finished tiles, by key.
    """

    state: Path
    marks: Fingerprints
    records: Mapping[str, TileRecord]


def before(state: Path) -> Before | None:
    """The run whose state lies in a folder; None where nothing can be taken from it."""
    try:
        marks = Fingerprints.from_json(json.loads((state / MARKS).read_text()))
    except (OSError, ValueError, DataTrouble):  # made without fingerprints, or damaged
        return None
    return Before(state, marks, finished_tiles(state))


def reasons(now: Fingerprints, old: Before | None, key: str) -> tuple[str, ...]:
    """Why a tile must be made again; empty when it need not.

    Args:
        now: fingerprints of the plan.
        old: what is published.
        key: of the tile.
    """
    if old is None or key not in old.marks.tiles:
        return (FIRST,)
    if key not in old.records:
        return (AGAIN,)
    common = {name for name in {*now.common, *old.marks.common}
              if now.common.get(name) != old.marks.common.get(name)}
    if common:
        return tuple(sorted(_COMMON.get(name, f"other {name}") for name in common))
    mine, theirs = now.tiles[key], old.marks.tiles[key]
    # only the sensors that were looked at: with the same ranking, the same would be again
    used = old.records[key].observations
    moved = [s for s in used if mine.sensors.get(s) != theirs.sensors.get(s)]
    # and only the ranks that they stand on: what a pixel would look at next does not matter to it
    depth = max((theirs.ranks.get(s, 0) for s in used), default=len(theirs.plan))
    if not moved:
        return () if mine.plan[: depth + 1] == theirs.plan[: depth + 1] else (RANKED,)
    here = [now.scenes[n] for s in moved for n in mine.scenes.get(s, ())]
    there = [old.marks.scenes[n] for s in moved for n in theirs.scenes.get(s, ())]
    return _difference(here, there) or (RANKED,)


def _difference(here: Sequence[Scene], there: Sequence[Scene]) -> tuple[str, ...]:
    """What happened to the scenes of a tile, in words."""
    came = {s.digest: s for s in here if s.digest not in {t.digest for t in there}}
    went = {s.digest: s for s in there if s.digest not in {t.digest for t in here}}
    new = {(s.sensor, s.take) for s in came.values()}
    old = {(s.sensor, s.take) for s in went.values()}
    found = {REDONE: new & old, NEW: new - old, GONE: old - new}
    return tuple(word for word, takes in found.items() if takes)


def explaining(changed: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The reasons that concern the whole map, not single scenes."""
    single = {FIRST, AGAIN, RANKED, UNFIT, NEW, GONE, REDONE}
    return tuple(sorted({why for found in changed.values() for why in found} - single))


def count_reasons(changed: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Reason -> number of tiles that are made again for it, most first."""
    return dict(Counter(why for found in changed.values() for why in found).most_common())


class Carry:
    """Takes unchanged tiles over before a run begins (``mapping.make_map(carry=...)``).

    Args:
        now: fingerprints of the run's plan.
        published: what is published.
        others: what killed refreshes had finished.
        begun: told of the store when all is taken over, and of the tiles by key that are not
            carried over from what is published.

    Attributes:
        carried: keys of the tiles that were taken from what is published.
        done: all is taken over: nobody needs the others any more.
    """

    def __init__(
        self, now: Fingerprints, published: Before | None, others: Sequence[Before] = (),
        begun: Callable[[RunStore, Mapping[str, Tile]], None] = lambda store, tiles: None,
    ) -> None:
        self._now, self._published, self._others = now, published, others
        self._begun = begun
        self.carried: frozenset[str] = frozenset()
        self.done = False

    def __call__(self, made: MapPlan, store: RunStore) -> None:
        """Write the run's fingerprints, then adopt all tiles that have the same ones."""
        atomic_write_text(store.root / MARKS, json.dumps(self._now.to_json()) + "\n")
        if self._published:
            self.carried = self._adopt(made, store, self._published)
        for other in self._others:
            self._adopt(made, store, other)
        self.done = True
        self._begun(store, {row.key: row.tile for row in made.rows if row.key not in self.carried})

    def _adopt(self, made: MapPlan, store: RunStore, old: Before) -> frozenset[str]:
        if not _same_run(store.root, old.state):
            return frozenset()
        done = store.done()
        tiles = [(row.tile, old.records[row.key]) for row in made.rows
                 if row.key not in done and not reasons(self._now, old, row.key)]
        return frozenset(record.key for record in store.adopt(old.state, tiles))


def _same_run(mine: Path, theirs: Path) -> bool:
    """Whether two runs differ in nothing but their items and where these lie: also in what is
    only known once a run has begun (precision, level shifts)."""
    try:
        a, b = (json.loads((state / STAMP).read_text()) for state in (mine, theirs))
        shifts = [json.loads((state / ADAPTED).read_text()) for state in (mine, theirs)]
    except (OSError, ValueError):
        return False
    return shifts[0] == shifts[1] and all(
        a.get(k) == b.get(k) for k in {*a, *b} - {"items", "catalog", "aoi"})
