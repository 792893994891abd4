"""What one refresh did: the record that the report, the catalogue, the metrics and people read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.spec.errors import BadRequest
from pipeline.spec.typed import misfit

Tier = Literal["provisional", "final"]
Outcome = Literal["published", "unchanged", "refused", "failed"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at before a version was promoted.

    Attributes:
        name: of the check.
        ok: it passed.
        got: what was found, in words and figures.
        allowed: what would have passed.
    """

    name: str
    ok: bool
    got: str
    allowed: str


@dataclass(frozen=True)
class TileCounts:
    """Tiles of one refresh.

    Attributes:
        total: tiles of the region.
        recomputed, carried: of these, tiles made anew and tiles taken over bit-identical.
        failed: of the recomputed ones, tiles whose data could not be read.
        why: reason -> number of tiles recomputed for it (a tile may have several reasons).
    """

    total: int = 0
    recomputed: int = 0
    carried: int = 0
    failed: int = 0
    why: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ByteCounts:
    """Bytes of the assets' windows that the tiles need: an estimate (``fingerprint``).

    Attributes:
        read: of the recomputed tiles.
        saved: of the carried ones, not read.
    """

    read: int = 0
    saved: int = 0

    @property
    def saved_share(self) -> float:
        """Share of a full recompute that was saved; 0 where nothing was needed at all."""
        return self.saved / max(self.read + self.saved, 1)


@dataclass(frozen=True)
class RefreshResult:
    """One refresh of one region and task.

    Attributes:
        region, task: names.
        sensor: sensor policy, as in a map's request.
        version: id of the version that was made; for ``unchanged`` the one that stays, empty when
            nothing was made.
        previous: id of the version that was current before, or empty.
        tier: ``provisional`` while scenes of the period may still come, else ``final``.
        status: ``published``, ``unchanged``, ``refused`` (made, and not fit to be promoted) or
            ``failed``.
        reason: why so, in one line.
        period: the months, ``YYYY-MM:YYYY-MM``.
        window_closed: the period's last month is over.
        now: ISO 8601 UTC time that the refresh was made for.
        tiles, bytes: counts.
        seconds: wall time.
        checks: of the verification.
        coverage: share of the area's pixels with a value.
        class_shares: class -> share of the mapped pixels; empty for a continuous task.
        mean: of the mapped pixels, in the task's unit; None for a classification.
        steps_observed: mean share of the period's steps with a clear observation expected, over
            the tiles.
        items: sensor -> number of items.
        card: name and sha256 of the checkpoint.
        exit_code: 0, or that of the trouble.
    """

    region: str
    task: str
    sensor: str
    status: Outcome
    now: str
    version: str = ""
    previous: str = ""
    tier: Tier = "provisional"
    reason: str = ""
    period: str = ""
    window_closed: bool = False
    tiles: TileCounts = TileCounts()
    bytes: ByteCounts = ByteCounts()
    seconds: float = 0.0
    checks: tuple[Check, ...] = ()
    coverage: float = 0.0
    class_shares: Mapping[str, float] = field(default_factory=dict)
    mean: float | None = None
    steps_observed: float = 0.0
    items: Mapping[str, int] = field(default_factory=dict)
    card: Mapping[str, str] = field(default_factory=dict)
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON object."""
        made = dataclasses.asdict(self)
        return {**made, "checks": [dict(check) for check in made["checks"]]}

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> RefreshResult:
        """The result of a JSON object; fields that it lacks keep their defaults.

        Raises:
            BadRequest: it is not a result.
        """
        try:
            made = cls(**{
                **obj,
                "tiles": TileCounts(**obj.get("tiles", {})),
                "bytes": ByteCounts(**obj.get("bytes", {})),
                "checks": tuple(Check(**check) for check in obj.get("checks", ())),
            })
        except TypeError as error:
            raise BadRequest("this is not the result of a refresh", got=str(error)) from None
        if wrong := misfit(made, cls):
            raise BadRequest("this is not the result of a refresh", got=wrong)
        return made
