"""Periods and monthly steps. A month is the integer ``year * 12 + month - 1``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.spec.errors import BadRequest

_MONTH = re.compile(r"^(\d{4})-(\d{2})$")
_EARLIEST = 1982 * 12  # Landsat 4: nothing that we map with is older


def month_of(when: datetime) -> int:
    """Month index of a time (UTC)."""
    return when.year * 12 + when.month - 1


def month_text(month: int) -> str:
    """``YYYY-MM`` of a month index."""
    return f"{month // 12:04d}-{month % 12 + 1:02d}"


def parse_month(text: str) -> int:
    """Month index of ``YYYY-MM``.

    Raises:
        BadRequest: not of that form, or no such month.
    """
    match = _MONTH.match(text.strip())
    month = int(match[1]) * 12 + int(match[2]) - 1 if match else -1
    if match is None or not 1 <= int(match[2]) <= 12 or month < _EARLIEST:
        raise BadRequest(
            "not a month", got=text, allowed="YYYY-MM from 1982-01 on", then="try --period 2023-10"
        )
    return month


@dataclass(frozen=True)
class Timeline:
    """Consecutive calendar months, the time axis of a cube.

    Attributes:
        first: month index of the first step.
        steps: number of monthly steps.
    """

    first: int
    steps: int

    @property
    def last(self) -> int:
        return self.first + self.steps - 1

    @property
    def months(self) -> tuple[int, ...]:
        """Month index of each step, in order."""
        return tuple(range(self.first, self.first + self.steps))

    @property
    def start(self) -> datetime:
        """First instant of the period (UTC)."""
        return datetime(self.first // 12, self.first % 12 + 1, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """First instant after the period (UTC)."""
        after = self.last + 1
        return datetime(after // 12, after % 12 + 1, 1, tzinfo=UTC)

    def step_of(self, when: datetime) -> int | None:
        """Step that a time falls into, or None outside the period."""
        k = month_of(when) - self.first
        return k if 0 <= k < self.steps else None

    def __str__(self) -> str:
        return f"{month_text(self.first)}:{month_text(self.last)}"


def parse_period(text: str, steps: int | None, now: datetime | None = None) -> Timeline:
    """Timeline of ``YYYY-MM`` (the LAST month) or ``YYYY-MM:YYYY-MM``.

    Args:
        text: the period.
        steps: steps that the task takes; None accepts any range (a single month is one step).
        now: present time, to refuse a period that lies in the future.

    Raises:
        BadRequest: malformed, upside down, in the future, or of another length than the task's.
    """
    now = now or datetime.now(UTC)
    head, _, tail = text.partition(":")
    last = parse_month(tail or head)
    first = parse_month(head) if tail else last - (steps or 1) + 1
    if first > last:
        raise BadRequest(
            "the period is upside down", got=text, allowed="FIRST:LAST with FIRST <= LAST",
            then=f"try --period {month_text(last)}:{month_text(first)}",
        )
    if last > month_of(now):
        raise BadRequest(
            "the period ends in the future", got=text, allowed=f"up to {month_text(month_of(now))}",
            then=f"try --period {month_text(month_of(now) - 1)}",
        )
    if steps is not None and last - first + 1 != steps:
        raise BadRequest(
            f"the task takes {steps} monthly steps, the period has {last - first + 1}", got=text,
            allowed=f"{steps} months", then=f"try --period {month_text(last)}",
        )
    return Timeline(first, last - first + 1)
