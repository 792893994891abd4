"""A card is foreign input: what it must say before a checkpoint is used. Types are checked before
(``spec.typed``); here it is sense."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.spec.context import CONTEXT, PLACE
from pipeline.spec.errors import BadRequest

if TYPE_CHECKING:
    from pipeline.spec.card import CheckpointCard, SensorCard

# Of the options: no network is so wide or so deep, no forest so large, no options so nested.
MAX_OPTION, MAX_SIZE, MAX_DEPTH = 1 << 14, 1 << 24, 8
MAX_NAME = 200  # characters
LARGEST, SMALLEST = 1e9, 1e-7  # of levels and spreads: float32 holds what is computed from them
TEMPERATURES = (1e-2, 1e2)
BEST_SCORE = 1.0  # of weighted F1 and of R2


def bad_card(what: str, **words: str) -> BadRequest:
    """The user's error for a card."""
    return BadRequest(what, **{"then": "train it again with python -m pipeline.train"} | words)


def oversized(options: Any, limit: int = MAX_OPTION, depth: int = 0) -> str:
    """Why options cannot be a network's; empty when they can."""
    if isinstance(options, Mapping | list | tuple):
        if depth > MAX_DEPTH or len(options) > MAX_OPTION:
            return "options that are too deep or too long"
        named = isinstance(options, Mapping)
        inner = options.values() if isinstance(options, Mapping) else options
        limit = MAX_OPTION if named else MAX_SIZE
        return next((why for v in inner if (why := oversized(v, limit, depth + 1))), "")
    plain = options is None or isinstance(options, str | bool)
    small = isinstance(options, int | float) and abs(options) <= limit
    return "" if plain or small else f"the option {options!r:.60}"


def check_card(card: CheckpointCard) -> None:
    """Refuse a card that makes no sense.

    Raises:
        BadRequest: names that are no line of text (they go into tags, paths and messages), no
            sensor, or numbers that no training gives.
    """
    for field in ("name", "task", "method", "encoder", "metric"):
        _check_names(field, (getattr(card, field),))
    if not card.sensors:
        raise bad_card("card.json: the checkpoint knows no sensor")
    if not SMALLEST <= card.target_std <= LARGEST or abs(card.target_mean) > LARGEST:
        raise bad_card("card.json: the scaling of the target makes no sense",
                       got=f"mean {card.target_mean:g}, std {card.target_std:g}")
    for key, s in card.sensors.items():
        _check_names("sensors", (key,))
        _check_names(f"radiometry and accepts of {key}", (s.radiometry, *s.accepts))
        if s.accepts[:1] != (s.radiometry,):
            raise bad_card(f"card.json: {key} does not accept what it was trained on first",
                           got=", ".join(s.accepts) or "nothing", allowed=s.radiometry)
        _check_inputs(key, s)
        _check_curve(key, s)


def _check_names(field: str, names: Sequence[str]) -> None:
    for name in names:
        if not (0 < len(name) <= MAX_NAME and name.isprintable()):
            raise bad_card(f"card.json: {field} is not a line of 1 to {MAX_NAME} characters",
                           got=ascii(name[:40]))


def _check_inputs(key: str, s: SensorCard) -> None:
    """Features and place features, each once and with its normaliser."""
    n = len(s.features)
    if n == 0 or len(s.mean) != n or len(s.std) != n or len(s.median) not in (0, n):
        raise bad_card(f"card.json: mean and std of {key} do not fit its {n} features",
                       got=f"{len(s.mean)} and {len(s.std)} (median {len(s.median)})")
    sizes = {len(s.static), len(s.static_mean), len(s.static_std)}
    if len(sizes) > 1:
        raise bad_card(f"card.json: static_mean and static_std of {key} do not fit its "
                       f"{len(s.static)} place features")
    levels, spreads = (*s.mean, *s.median, *s.static_mean), (*s.std, *s.static_std)
    if not all(abs(v) <= LARGEST for v in levels) or not all(
            SMALLEST <= v <= LARGEST for v in spreads):
        raise bad_card(f"card.json: the normaliser of {key} is not finite and positive")
    if unknown := [c for c in s.context if c not in CONTEXT] + [p for p in s.static
                                                                if p not in PLACE]:
        raise bad_card(f"card.json: {key} has inputs that this version does not know",
                       got=", ".join(unknown), allowed=", ".join([*CONTEXT, *PLACE]))
    for names in (s.features, s.context, s.static):
        if len(set(names)) < len(names):
            raise bad_card(f"card.json: {key} has an input twice", got=", ".join(names))


def _check_curve(key: str, s: SensorCard) -> None:
    """Scores and intervals by number of steps, temperature and training domain."""
    k = len(s.coverage_steps)
    if k == 0 or len(s.coverage_score) != k or len(s.coverage_half_width) not in (0, k):
        raise bad_card(f"card.json: the coverage curve of {key} is incomplete", got=f"{k} steps")
    rising = all(a < b for a, b in zip(s.coverage_steps, s.coverage_steps[1:], strict=False))
    if not rising or s.coverage_steps[0] < 0 or max(s.coverage_score) > BEST_SCORE:
        raise bad_card(f"card.json: the coverage curve of {key} makes no sense",
                       got=f"scores {s.coverage_score} at {s.coverage_steps} steps",
                       allowed=f"scores up to {BEST_SCORE:g} at ascending numbers of steps")
    if not TEMPERATURES[0] <= s.temperature <= TEMPERATURES[1]:
        raise bad_card(f"card.json: the temperature of {key} makes no sense",
                       got=f"{s.temperature:g}",
                       allowed=f"{TEMPERATURES[0]:g} to {TEMPERATURES[1]:g}")
    threshold, widths = s.domain_threshold, s.coverage_half_width
    if len(s.interval_spread) != 2 or not all(map(math.isfinite, s.interval_spread)) or (
            threshold is not None and not 0 < threshold < math.inf) or min(widths, default=0) < 0:
        raise bad_card(f"card.json: the interval or the domain of {key} makes no sense",
                       got=f"{s.interval_spread}, {threshold}, {widths}")
