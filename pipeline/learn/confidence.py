"""What an evaluation says of a sensor's confidence, for its entry on the card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.learn.calibrate import (
    Logits,
    Residuals,
    fit_intervals,
    measure_coverage,
    scale_temperature,
)
from pipeline.learn.domain import threshold
from pipeline.learn.outcomes import Evaluation, Outcome
from pipeline.spec.card import SensorCard


def with_confidence(
    card: SensorCard, result: Evaluation, name: str, aside: str, sensor: str, groups: np.ndarray
) -> tuple[SensorCard, tuple[str, ...]]:
    """An entry with temperature or intervals, and the threshold of its training domain.

    Args:
        card: the entry, with its coverage steps.
        result: held-out predictions.
        name: of the scored predictions among them.
        aside: of those, in the same folds, that a fold's temperature may be fitted on; where it is
            ``name`` itself, the other folds' scored rows are taken for each.
        sensor: key.
        groups: (N,) place of each row of the table.

    Returns:
        The entry, and what the card should say of it in words.
    """
    index = result.index.get(sensor, [])
    limit = threshold(np.concatenate(index)) if index else None
    card = replace(card, domain_threshold=None if limit is None else round(limit, 5))
    if result.task.kind == "classification":
        return _probabilities(card, result, name, aside, sensor)
    return _intervals(card, result, name, sensor, groups)


def _probabilities(
    card: SensorCard, result: Evaluation, name: str, aside: str, sensor: str
) -> tuple[SensorCard, tuple[str, ...]]:
    outcomes = result.of(name, sensor)
    scored = _logits(result, outcomes)
    if aside == name and len(outcomes) == 1:  # nothing is left to measure it on
        found = scale_temperature(scored, ())
    elif aside == name:
        others = [_others(outcomes, o) for o in outcomes]
        found = scale_temperature(_logits(result, others), scored, final=scored)
    else:
        inner = {o.split: o for o in result.of(aside, sensor)}
        found = scale_temperature(_logits(result, [inner[o.split] for o in outcomes]), scored)
    card = replace(card, temperature=round(found.value, 4))
    if found.ece is None or found.adaptive is None:
        return card, ()
    card = replace(card, ece=(round(found.ece[0], 4), round(found.ece[1], 4)))
    return card, (
        f"Held-out calibration error of {sensor}: {found.ece[0]:.3f}, {found.ece[1]:.3f} after "
        f"temperature scaling (in bins of equal count {found.adaptive[0]:.3f} and "
        f"{found.adaptive[1]:.3f}).",
    )


def _intervals(
    card: SensorCard, result: Evaluation, name: str, sensor: str, groups: np.ndarray
) -> tuple[SensorCard, tuple[str, ...]]:
    parts = {k: _residuals(result, result.of(name, sensor, k), groups)
             for k in card.coverage_steps}
    found, coverage = fit_intervals(parts), measure_coverage(parts)
    card = replace(
        card, coverage_half_width=tuple(round(w, 3) for w in found.half_width.values()),
        interval_spread=(round(found.line[0], 6), round(found.line[1], 8)),
    )
    if not coverage:
        return card, ()
    card = replace(card, interval_coverage=round(coverage[max(coverage)], 4))
    shares = ", ".join(f"{k}: {v:.1%}" for k, v in coverage.items())
    return card, (f"Held-out coverage of the 90 % intervals of {sensor} by valid steps, mean over "
                  f"the places: {shares}.",)


def _logits(result: Evaluation, outcomes: Sequence[Outcome]) -> list[Logits]:
    return [Logits(o.raw, result.target[o.rows]) for o in outcomes]


def _others(outcomes: Sequence[Outcome], one: Outcome) -> Outcome:
    """Predictions of the other folds for rows that are not in this one."""
    rest = [(o.rows[fresh], o.raw[fresh]) for o in outcomes if o is not one
            for fresh in [~np.isin(o.rows, one.rows)]]
    rows, raw = (np.concatenate(column) for column in zip(*rest, strict=True))
    return replace(one, rows=rows, raw=raw)


def _residuals(
    result: Evaluation, outcomes: Sequence[Outcome], groups: np.ndarray
) -> Residuals:
    rows = np.concatenate([o.rows for o in outcomes])
    return Residuals(
        target=result.target[rows], value=np.concatenate([o.value for o in outcomes]),
        group=groups[rows], fold=np.repeat([o.split for o in outcomes],
                                           [len(o.rows) for o in outcomes]),
    )
