"""One training run: samples -> held-out scores -> final network -> checkpoint with its card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from models.flops import flops
from pipeline.data.checkpoints import STUDENT
from pipeline.data.points import read_samples
from pipeline.data.sample_set import SampleSet
from pipeline.learn.checkpoint import baselines_of, protocol_of, write_checkpoint
from pipeline.learn.evaluate import (
    FIRST_OF,
    Log,
    Protocol,
    Train,
    evaluate,
    evaluate_inner,
    split_groups,
)
from pipeline.learn.members import Trained, inner_parts, known_without_satellite, train_row
from pipeline.learn.outcomes import FEWEST, Evaluation
from pipeline.learn.recipe import Row, parse_row
from pipeline.learn.request import TrainReport, TrainRequest
from pipeline.learn.student import Lesson, School, distil, student_row
from pipeline.learn.table import Table, stack
from pipeline.spec.errors import BadRequest


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
    if request.row.recipe.prior and not known_without_satellite(table, request.row):
        raise BadRequest("prior needs season or place, and the row knows neither",
                         got=request.row.text, then=f"try --row {request.row.text}+season")
    _check(table, request.protocol, request.evaluate)
    log(f"{sum(s.rows for s in sets)} samples of {len(sets)} sets, {', '.join(sensors)}")
    everything = np.ones(len(table.sample), bool)
    kind, seed, row = request.protocol.kind, request.protocol.seed, request.row
    school, trained = School(row, Lesson(), request.device), None
    fit: Train = school.teacher if request.student else partial(train_row, device=request.device)
    if request.evaluate:
        result = evaluate(table, request.protocol, _contenders(request), log, fit)
    else:
        trained = fit(table, row, everything, kind, seed)
        result = evaluate_inner(trained, row)
    epochs = int(np.median(result.epochs[row.method]))
    if row.recipe.members == 1:  # nothing needs to be kept from it any more
        log(f"final network: {epochs} epochs on all samples")
        trained = train_row(table, row, everything, kind, seed, device=request.device,
                            whole=epochs)
    elif trained is None:
        log(f"final networks: {row.recipe.members}, each stopped by another part of the samples")
        trained = train_row(table, row, everything, kind, seed, device=request.device)
    card = write_checkpoint(request, sets, trained, result, name=request.out.name,
                            protocol=protocol_of(request, epochs),
                            baselines=baselines_of(result, row))
    report = TrainReport(card, result)
    if not request.student:
        return report
    return replace(report, student=_student(request, sets, trained, report, school, log))


def _student(request: TrainRequest, sets: Sequence[SampleSet], teacher: Trained,
             report: TrainReport, school: School, log: Log) -> TrainReport:
    """Score students in the folds of their teachers, and ship one of the shipped teacher."""
    table, protocol, card = teacher.table, request.protocol, report.card
    own = replace(request, row=student_row(request.row, school.lesson), out=request.out / STUDENT)
    everything = np.ones(len(table.sample), bool)
    if request.evaluate:
        result = evaluate(table, protocol, (own.row,), lambda line: log(f"student, {line}"),
                          school.student)
    else:
        first = school.student(table, own.row, everything, protocol.kind, protocol.seed)
        result = evaluate_inner(first, own.row)
    log("final student: of the final network")
    trained = distil(teacher, own.row, everything, school.lesson, protocol.seed)
    costs = {s: [flops(m, s, x) for m in (teacher.module, trained.module)]
             for s, x in teacher.data.inputs.items()}
    written = write_checkpoint(
        own, sets, trained, result, name=f"{card.name}-{STUDENT}",
        protocol=f"student of {card.name}: in each fold of one that learned from the same rows, "
                 f"and shipped of the shipped one; {card.protocol}",
        baselines={"its teacher": {k: round(report.evaluation.mean(request.row.method, k)[0], 4)
                                   for k in table.sensors}, **card.baselines},
        notes=[_compared(report.evaluation, result, request.row.method, own.row.method, s, cost)
               for s, cost in costs.items()],
        teacher={"name": card.name, "sha256": card.sha256, "flops": costs},
    )
    return TrainReport(written, result)


def _compared(teachers: Evaluation, students: Evaluation, teacher: str, student: str, sensor: str,
              cost: Sequence[int]) -> str:
    """A student beside its teacher in the same folds, in words."""
    gain = students.per_split(student, sensor) - teachers.per_split(teacher, sensor)
    spread = gain.std(ddof=1) if gain.size > 1 else 0.0
    return (f"{sensor}: {cost[1] / 1e6:.3f} million operations a pixel, its teacher "
            f"{cost[0] / 1e6:.3f} ({cost[0] / cost[1]:.1f} times as many); held-out "
            f"{students.metric} {gain.mean():+.4f} +- {spread:.4f} against its teacher in the same "
            "folds.")


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
