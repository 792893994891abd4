"""One training run: samples -> held-out scores -> final network -> checkpoint with its card."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.checkpoints import save_checkpoint
from pipeline.data.points import read_samples
from pipeline.data.sample_set import SampleSet
from pipeline.learn.augment import COVERED, OPTICAL_GAIN, S1_SHIFT_DB
from pipeline.learn.confidence import with_confidence
from pipeline.learn.domain import domain_arrays, domain_of
from pipeline.learn.evaluate import (
    FIRST_OF,
    INNER,
    Log,
    Protocol,
    coverage_steps,
    evaluate,
    evaluate_inner,
    split_groups,
)
from pipeline.learn.fit import arrays, pick_rows
from pipeline.learn.members import inner_parts, train_row
from pipeline.learn.metrics import metric_name
from pipeline.learn.outcomes import FEWEST, Evaluation
from pipeline.learn.recipe import Row, parse_row
from pipeline.learn.table import Table, stack
from pipeline.spec.card import FEATURE_PATH, CheckpointCard, SensorCard
from pipeline.spec.errors import BadRequest
from pipeline.spec.tasks import Task

_OPEN = ("MIT", "Apache", "CC0", "CC BY 4", "CC-BY-4", "CC BY-SA", "BSD")


@dataclass(frozen=True)
class TrainRequest:
    """What to train, validated.

    Attributes:
        task: what is predicted.
        samples: folders of sample sets.
        sensors: keys, in order; empty = all that the sets have.
        out: folder of the checkpoint.
        row: method, encoder, inputs and settings.
        protocol: of the evaluation.
        rivals: also score Individual and trees in the same folds.
        evaluate: False = scores come from the split that stops the training, which is optimistic.
        per_set: most samples of each set (0 = all), drawn at random.
        derive_l8: train l8 on band-pass adjusted s2 where there is no l8.
        notes: put on the card first.
    """

    task: Task
    samples: tuple[Path, ...]
    sensors: tuple[str, ...]
    out: Path
    row: Row
    protocol: Protocol
    rivals: bool = True
    evaluate: bool = True
    per_set: int = 0
    derive_l8: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainReport:
    """The card as written, and the evaluation behind it."""

    card: CheckpointCard
    evaluation: Evaluation


def train(request: TrainRequest, log: Log) -> TrainReport:
    """Evaluate, train on all samples, write the checkpoint.

    Args:
        request: what to train.
        log: told about progress, one line at a time.

    Raises:
        BadRequest: the samples, sensors or folds asked for do not go together.
        DataTrouble: a sample set is damaged.
    """
    if request.derive_l8 and request.sensors and not {"s2", "l8"} <= set(request.sensors):
        raise BadRequest("--derive-l8 computes l8 from s2, and trains on both",
                         got=",".join(request.sensors),
                         then="name s2 and l8 in --sensors, or leave --derive-l8 out")
    sets = [
        _fewer(read_samples(folder, request.task, request.sensors or None, every_window=True),
               request.per_set, request.protocol.seed)
        for folder in request.samples
    ]
    _check_names(sets, request.samples)
    sensors = request.sensors or tuple(dict.fromkeys(k for s in sets for k in s.sensors))
    if request.derive_l8 and not any("l8" in s.series for s in sets):
        raise BadRequest("--derive-l8 needs a set with real l8 to be scored on",
                         then="add one, or leave --derive-l8 out")
    table = stack(sets, request.task, sensors, derive_l8=request.derive_l8)
    _check(table, request.protocol, request.evaluate)
    log(f"{sum(s.rows for s in sets)} samples of {len(sets)} sets, {', '.join(sensors)}")
    everything = np.ones(len(table.sample), bool)
    kind, seed, row = request.protocol.kind, request.protocol.seed, request.row
    trained = None
    if request.evaluate:
        result = evaluate(table, request.protocol, _contenders(request), log)
    else:
        trained = train_row(table, row, everything, kind, seed)
        result = evaluate_inner(trained, row)
    epochs = int(np.median(result.epochs[row.method]))
    if row.recipe.members == 1:  # nothing needs to be kept from it any more
        log(f"final network: {epochs} epochs on all samples")
        trained = train_row(table, row, everything, kind, seed, whole=epochs)
    elif trained is None:
        log(f"final networks: {row.recipe.members}, each stopped by another part of the samples")
        trained = train_row(table, row, everything, kind, seed)
    data = trained.data
    groups = split_groups(table, kind)
    cards: dict[str, SensorCard] = {}
    said: list[str] = []
    for k in sensors:
        cards[k], words = _scored(data.cards[k], result, k, request, groups)
        said += words
    domains = {k: domain_of(trained.module, data, k, pick_rows(data, table.primary, k),
                            row.recipe.settings, seed)
               for k in sensors if cards[k].domain_threshold is not None}
    card = CheckpointCard(
        name=request.out.name, task=request.task.key, method=row.method,
        encoder=row.encoder, options=trained.options, feature_path=FEATURE_PATH,
        steps=request.task.steps, sensors=cards,
        metric=metric_name(request.task), protocol=_protocol(request, epochs),
        baselines={_TITLES[m]: {k: round(result.mean(m, k)[0], 4) for k in sensors
                                if result.of(m, k)}
                   for m in result.methods if m in _TITLES and m != row.method},
        data=tuple(_describe(s) for s in sets), sha256="", target_mean=data.mean,
        target_std=data.std, commit=_commit(), created=datetime.now(UTC).isoformat("T", "seconds"),
        notes=(*_notes(request, sets, table, result), *said),
    )
    weights = {**arrays(trained.module), **domain_arrays(domains)}
    return TrainReport(save_checkpoint(request.out, card, weights), result)


_TITLES = {"individual": "Individual", "extra-trees": "extra-trees",
           "no-satellite": "extra-trees, no satellite"}


def _contenders(request: TrainRequest) -> tuple[Row, ...]:
    """What is trained, and what it is compared with: the same inputs and budget."""
    row = request.row
    if not request.rivals:
        return (row,)
    rivals = () if row.method == "individual" else (
        replace(row, method="individual"),)
    return (row, *rivals, *(_trees(row, kind) for kind in ("extra-trees", "no-satellite")))


def _trees(row: Row, kind: str) -> Row:
    """Trees on the inputs of a row."""
    made = parse_row(kind)
    inputs = {k: getattr(row.recipe, k) for k in ("context", "place", "location")}
    return replace(made, recipe=replace(made.recipe, **inputs))


def _fewer(samples: SampleSet, most: int, seed: int) -> SampleSet:
    """At most so many samples of a set, with all their windows."""
    unique = np.unique(samples.ids)
    if not 0 < most < len(unique):
        return samples
    kept = np.random.default_rng(seed).choice(unique, most, replace=False)
    return samples.take(np.isin(samples.ids, kept))


def _check_names(sets: Sequence[SampleSet], folders: Sequence[Path]) -> None:
    """Refuse sets of one name: the card and --hold-out could not tell them apart."""
    first: dict[str, Path] = {}
    for s, folder in zip(sets, folders, strict=True):
        if s.name in first:
            raise BadRequest(f"two sample sets are both called {s.name}",
                             got=f"{first[s.name]}, {folder}",
                             then="name each once, or change the name in one's dataset.json")
        first[s.name] = folder


def _check(table: Table, protocol: Protocol, evaluated: bool) -> None:
    """Refuse splits that cannot be made or scored before anything is trained."""
    if unknown := sorted(set(protocol.hold_out) - set(table.names)):
        raise BadRequest("no such sample set to hold out", got=", ".join(unknown),
                         allowed=", ".join(np.unique(table.names)))
    if set(protocol.hold_out) >= set(table.names):
        raise BadRequest("every sample set is held out", then="add a set to train on")
    groups = len(np.unique(split_groups(table, protocol.kind)))
    need = protocol.count if protocol.count > 1 else FIRST_OF
    need = need if evaluated else 1
    if groups < need + 1:
        raise BadRequest(f"{groups} groups of samples cannot make {need} folds",
                         then="use --folds 2, --protocol random, or more places")
    everything = np.ones(len(table.sample), bool)
    tests = ([test for _, test in protocol.splits(table)] if evaluated else
             inner_parts(table, everything, protocol.kind, protocol.seed, 1)[:1])
    for key in table.sensors:
        if (fewest := min(int((test & table.scored(key)).sum()) for test in tests)) < FEWEST:
            part = "a test fold" if evaluated else "the inner split"
            raise BadRequest(f"{part} has too few samples with {key} to be scored",
                             got=fewest, allowed=f"from {FEWEST}",
                             then="add samples, use fewer --folds, or leave it out of --sensors")
    if table.task.kind == "classification" and len(np.unique(table.target)) < 2:
        raise BadRequest("all samples are of one class", then="add samples of the other classes")


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
    averaged = recipe.forest or recipe.boost or (recipe.members > 1 and not recipe.distil)
    aside = name if averaged or not request.evaluate else name + INNER
    return with_confidence(card, result, name, aside, key, groups)


def _protocol(request: TrainRequest, epochs: int) -> str:
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
