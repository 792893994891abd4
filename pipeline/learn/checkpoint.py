"""A trained row and what its evaluation found, as a checkpoint with its card."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.checkpoints import save_checkpoint
from pipeline.data.sample_set import SampleSet
from pipeline.learn.augment import COVERED, OPTICAL_GAIN, S1_SHIFT_DB
from pipeline.learn.confidence import with_confidence
from pipeline.learn.domain import domain_arrays, domain_of
from pipeline.learn.evaluate import INNER, coverage_steps, split_groups
from pipeline.learn.fit import arrays, pick_rows
from pipeline.learn.members import Trained
from pipeline.learn.metrics import metric_name
from pipeline.learn.outcomes import Evaluation
from pipeline.learn.recipe import Row
from pipeline.learn.request import TrainRequest
from pipeline.learn.table import Table, Tensors
from pipeline.spec.card import FEATURE_PATH, CheckpointCard, SensorCard

_OPEN = ("MIT", "Apache", "CC0", "CC BY 4", "CC-BY-4", "CC BY-SA", "BSD")

_TITLES = {"individual": "Individual", "extra-trees": "extra-trees",
           "no-satellite": "extra-trees, no satellite"}


def write_checkpoint(
    request: TrainRequest, sets: Sequence[SampleSet], trained: Trained, result: Evaluation, *,
    name: str, protocol: str, baselines: Mapping[str, Mapping[str, float]],
    notes: Sequence[str] = (), teacher: Mapping[str, Any] | None = None,
) -> CheckpointCard:
    """Write a trained row and its card; returns the card as written.

    Args:
        request: what was asked for; ``out`` is the folder, ``row`` what was trained.
        sets: that it learned from.
        trained: what is shipped.
        result: held-out predictions of the row's method.
        name, protocol, baselines, teacher: see ``CheckpointCard``.
        notes: put before the others.
    """
    table, data, row = trained.table, trained.data, request.row
    groups = split_groups(table, request.protocol.kind)
    cards: dict[str, SensorCard] = {}
    said: list[str] = []
    for k in table.sensors:
        cards[k], words = _scored(data.cards[k], result, k, request, groups)
        cards[k] = replace(cards[k], place_needed=_always_placed(data, k, row))
        said += words
    domains = {k: domain_of(trained.module, data, k, pick_rows(data, table.primary, k),
                            row.recipe.settings, request.protocol.seed)
               for k in table.sensors if cards[k].domain_threshold is not None}
    card = CheckpointCard(
        name=name, task=request.task.key, method=row.method,
        encoder=row.encoder, options=trained.options, feature_path=FEATURE_PATH,
        steps=request.task.steps, sensors=cards,
        metric=metric_name(request.task), protocol=protocol, baselines=baselines,
        data=tuple(_describe(s) for s in sets), sha256="", target_mean=data.mean,
        target_std=data.std, commit=_commit(), created=datetime.now(UTC).isoformat("T", "seconds"),
        notes=(*notes, *_notes(request, sets, table, result), *said), teacher=teacher or {},
    )
    return save_checkpoint(request.out, card, {**arrays(trained.module), **domain_arrays(domains)})


def baselines_of(result: Evaluation, row: Row) -> dict[str, dict[str, float]]:
    """Scores of what a row was compared with, by name and sensor."""
    sensors = dict.fromkeys(o.sensor for o in result.outcomes)
    return {_TITLES[m]: {k: round(result.mean(m, k)[0], 4) for k in sensors if result.of(m, k)}
            for m in result.methods if m in _TITLES and m != row.method}


def _scored(
    card: SensorCard, result: Evaluation, key: str, request: TrainRequest, groups: np.ndarray
) -> tuple[SensorCard, tuple[str, ...]]:
    """The normaliser's card with what the evaluation found, and the same in words."""
    name = request.row.method
    steps = coverage_steps(request.task.steps)
    # mapping ranks the sensors by these curves, so they must be about the same samples
    easier = result.advantage(name, key)
    means = [result.mean(name, key, kept)[0] - easier for kept in steps]
    mean, std = result.mean(name, key)
    accepts = list(card.accepts)
    if request.row.recipe.settings.jitter:
        accepts += [c for r in card.accepts for c in COVERED.get(r, ())]
    card = replace(
        card, accepts=tuple(dict.fromkeys(accepts)), coverage_steps=steps,
        coverage_score=tuple(round(m, 4) for m in means), score=round(mean, 4),
        score_std=round(std, 4),
    )
    # rows set aside tell how sure a single network is; an average of several is less sure
    recipe = request.row.recipe
    averaged = recipe.trees or (recipe.members > 1 and not recipe.distil)
    aside = name if averaged or not request.evaluate else name + INNER
    return with_confidence(card, result, name, aside, key, groups)


def _always_placed(data: Tensors, sensor: str, row: Row) -> bool:
    """Whether place is an input that no training sample was without."""
    if not data.cards[sensor].static or row.recipe.settings.hide:
        return False
    here = data.present[:, list(data.inputs).index(sensor)]
    return bool((data.inputs[sensor][here][:, 0, -1] == 1).all())


def protocol_of(request: TrainRequest, epochs: int) -> str:
    """Split, folds, stopping and what was shipped, in words; ``epochs`` of the shipped network."""
    p = request.protocol
    unit = "whole groups (places)" if p.kind == "site" else "single samples (places recur)"
    settings = request.row.recipe.settings
    stop = (f"each network stopped by an inner split of the same kind (patience "
            f"{settings.patience}, at most {settings.epochs} epochs)" if settings.patience else
            f"each network trained for {settings.epochs} epochs")
    if not request.evaluate:
        how = "not evaluated: scores are of the inner split that stopped the training"
    elif p.hold_out:
        how = f"tested on the held-out sets {', '.join(p.hold_out)}"
    elif p.count == 1:
        how = f"one test fold of a fifth of the samples, split by {unit}"
    else:
        how = f"{p.count} folds by {unit}, {p.seeds} repetitions"
    final = (f"the shipped network then took {epochs} epochs, their median, on all samples"
             if request.row.recipe.members == 1 else
             f"the {request.row.recipe.members} shipped networks then were trained on all samples, "
             "each stopped by another part of them")
    return (f"{request.row.text}: {how}; {stop}; {final}; observations withheld at random for the "
            "coverage curve")


def _describe(s: SampleSet) -> dict[str, Any]:
    return {"name": s.name, "rows": s.rows, "licence": s.licence,
            "radiometry": dict(s.radiometry)}


def _notes(request: TrainRequest, sets: Sequence[SampleSet], table: Table,
           result: Evaluation) -> list[str]:
    """What a user must know, one sentence each."""
    notes = list(request.notes)
    closed = [f"{s.name} ({s.licence})" for s in sets if not _is_open(s.licence)]
    if closed:
        notes.append("The weights were trained on sets whose licence is restricted or not stated: "
                     f"{', '.join(closed)}; the sets themselves are not part of this project.")
    if request.row.recipe.settings.jitter:
        notes.append(
            f"Training shifted radar levels by up to {S1_SHIFT_DB} dB and optical levels by up to "
            f"{OPTICAL_GAIN:.0%}, common to a sample; radiometries beyond the trained one that "
            "differ by no more are accepted, unscored."
        )
    if request.derive_l8:
        n = int((table.derived["l8"] & table.primary).sum())
        notes.append(f"l8 was also trained on {n} series computed from s2 (HLS band-pass "
                     "adjustment, doi:10.1016/j.rse.2018.09.002); it is scored on real l8 only.")
    for sensor in table.sensors:
        if easier := round(result.advantage(request.row.method, sensor), 4):
            notes.append(
                f"{sensor} is scored on fewer samples than the others; its coverage curve is moved "
                f"by {-easier:+.3f}, by what the other sensors score better on those samples, "
                "so that the curves compare.")
        rows = [f"{name} {v[result.metric]:.3f} (n={v['n']:.0f})"
                for name, v in result.by_set(request.row.method, sensor).items()]
        notes.append(f"Held-out {result.metric} of {sensor} by set: {', '.join(rows)}.")
    return notes


def _is_open(licence: str) -> bool:
    return licence.startswith(_OPEN) and " NC" not in licence and "-NC" not in licence


def _commit() -> str:
    """Commit of the code; empty outside a repository."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, text=True,
                              capture_output=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
