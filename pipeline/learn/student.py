"""A small network that learns to say what a trained row says: knowledge distillation.

Hinton, Vinyals & Dean 2015, arXiv:1503.02531, with the unlimited inputs of Bucila, Caruana &
Niculescu-Mizil 2006, doi:10.1145/1150402.1150464, and the recipe of Beyer et al. 2022,
arXiv:2106.05237: teacher and student see the same view of an input, views are mixed from two
samples, and the schedule is long. No label is looked at: what a student knows of them it has from
its teacher, so that it is as honest as its teacher, as long as it sees only the rows that the
teacher may see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import models
from models.engine import branch_of
from models.ensemble import BESIDE
from models.methods.individual import Individual
from pipeline.learn.augment import Augmentation, Layout, augmentations
from pipeline.learn.fit import Fitted, pick_rows, rates
from pipeline.learn.members import Trained, ensemble_options, network_options, train_row
from pipeline.learn.recipe import Row
from pipeline.learn.table import Table

_PART = 16_384  # views that are made at once
_ASKED = 1024  # views that a teacher is asked about at once: they stay in the cache


@dataclass(frozen=True)
class Lesson:
    """How a student learns: chosen on inner splits of the shipped rows, never on scored folds.

    Attributes:
        views: altered copies of each training row.
        most: views a sensor at most.
        epochs: passes over the views.
        batch: views a step.
        lr: highest learning rate of the one-cycle schedule.
        encoder, network: of the student; ``network`` has the options that are not defaults.
        trees: that a student keeps of each forest of its teacher, beside all boosted trees, of
            which none stands for the others; they are averaged with its network, which learns to
            make up for the rest.
    """

    views: int = 50
    most: int = 400_000
    epochs: int = 5
    batch: int = 1024
    lr: float = 1e-2
    encoder: str = "tempcnn"
    network: Mapping[str, int | float] = field(default_factory=lambda: {
        "width": 32, "dense": 56, "kernel": 3, "features": 32, "dropout": 0.0,
        "projection_dropout": 0.0})
    trees: int = 20


def student_row(teacher: Row, lesson: Lesson) -> Row:
    """The row of a student: its teacher's inputs, and a small network for each sensor alone."""
    return replace(teacher, text=f"student of {teacher.text}", method="individual",
                   encoder=lesson.encoder,
                   recipe=replace(teacher.recipe, network=dict(lesson.network)))


def distil(teacher: Trained, row: Row, train: np.ndarray, lesson: Lesson, seed: int) -> Trained:
    """Train a student.

    Args:
        teacher: trained, on ``train`` or a part of it.
        row: of ``student_row``.
        train: (N,) bool, rows whose inputs may be seen, with or without a label.
        lesson: how.
        seed: of initial weights, views and order.

    Returns:
        The student in the teacher's place: of the same table and normalisation. The rows that
        stopped the teacher are set aside for it as well: it never saw their labels, and has only
        seen what a teacher says of them that has not learned from them.
    """
    table, data = teacher.table, teacher.data
    options = network_options(table, data, row)
    torch.manual_seed(seed)
    network = models.build(row.method, row.encoder, options)
    assert isinstance(network, Individual)
    student: nn.Module = network
    trees = {kind: kept for kind in BESIDE
             if (kept := _kept(teacher.module, kind, lesson.trees if kind == "forests" else None))}
    if trees:
        student = models.Ensemble([network], trees, int(options["outputs"]))
        options |= ensemble_options(1, trees)
    student.to(data.present.device)
    settings = row.recipe.settings
    augment = augmentations(data.cards, drop=settings.drop, jitter=settings.jitter,
                            hide=settings.hide, blur=settings.blur, haze=settings.haze)
    generator = torch.Generator().manual_seed(seed)
    history = {}
    for sensor in data.inputs:
        rows = pick_rows(data, train, sensor)
        x, seen = data.inputs[sensor][rows], data.seen[sensor][rows]
        season = table.months_of(sensor)[rows.cpu().numpy()] % 12
        many = views(x, seen, season, augment[sensor], lesson, generator)
        said = _said(teacher.module, sensor, many)
        own = [*network.encoder[sensor].parameters(), *network.head_of(sensor).parameters()]
        history[sensor] = _learn(student, own, sensor, many, said, lesson, generator)
    fitted = Fitted(student.eval(), lesson.epochs, float("nan"), history)
    return Trained(table, data, (fitted,), teacher.held[:1], student, options)


def _kept(teacher: nn.Module, kind: str, count: int | None) -> dict[str, models.Forest]:
    """The first trees (None = all) of one kind of a teacher's, by sensor, if it has any."""
    found = {}
    if isinstance(teacher, models.Ensemble):
        for sensor, forest in getattr(teacher, kind).items():
            few = {k: v[:count].clone() for k, v in forest.state_dict().items()}
            trees, nodes = few["feature"].shape
            found[sensor] = models.Forest(trees, nodes, forest.depth, teacher.outputs)
            found[sensor].load_state_dict(few)
    return found


class School:
    """Teachers and students of one row: trains them, and keeps the teacher of each seed.

    Args:
        row: of the teachers; others are trained, too, but have no students.
        lesson: of the students.
        device: where both learn.
    """

    def __init__(self, row: Row, lesson: Lesson, device: str = "cpu") -> None:
        self.row, self.lesson, self.device = row, lesson, device
        self.kept: dict[int, Trained] = {}

    def teacher(self, table: Table, row: Row, train: np.ndarray, kind: str, seed: int) -> Trained:
        """``train_row``, remembered."""
        trained = train_row(table, row, train, kind, seed, device=self.device)
        if row is self.row:
            self.kept[seed] = trained
        return trained

    def student(self, table: Table, row: Row, train: np.ndarray, kind: str, seed: int) -> Trained:
        """The student of the teacher that was trained with the same seed, on the same rows."""
        return distil(self.kept[seed], row, train, self.lesson, seed)


def views(
    x: Tensor, seen: Tensor, season: np.ndarray, augment: Augmentation, lesson: Lesson,
    generator: torch.Generator,
) -> Tensor:
    """Inputs for which a teacher can be asked: every row as often, mixed with others and altered.

    Args:
        x: (N, T, C) model input.
        seen: (N, T) bool, valid steps.
        season: (N, T) calendar month of each step: only rows that agree in it are mixed.
        augment: what training does to the sensor's inputs.
        lesson: how many.
        generator: of all random choices.

    Returns:
        (V, T, C).
    """
    n = len(x)
    count = min(lesson.views * n, lesson.most)
    own = torch.cat([torch.randperm(n, generator=generator) for _ in range(-(-count // n))])[:count]
    parts = []
    for i in own.split(_PART):
        j = _partners(season, i, generator)
        mixed = _mix(x[i], x[j], seen[i] & seen[j], augment.layout, generator)
        parts.append(augment(mixed, seen[i], generator))
    return torch.cat(parts)


def _said(teacher: nn.Module, sensor: str, x: Tensor) -> Tensor:
    """(V, K) what a teacher says of views (V, T, C)."""
    branch = branch_of(teacher, sensor)
    with torch.inference_mode():
        said = torch.cat([branch(part)[0] for part in x.split(_ASKED)])
    return said.clone()  # outside inference mode, as targets must be


def _partners(season: np.ndarray, rows: Tensor, generator: torch.Generator) -> Tensor:
    """(n,) for each of the rows (n,) a random one of the same season, perhaps itself."""
    kind = torch.from_numpy(np.unique(season, axis=0, return_inverse=True)[1].reshape(-1))
    order, count = kind.argsort(stable=True), kind.bincount()
    first = count.cumsum(0) - count
    kind = kind[rows.cpu()]
    step = torch.floor(torch.rand(len(kind), generator=generator) * count[kind]).long()
    return order[first[kind] + step]


def _mix(
    a: Tensor, b: Tensor, both: Tensor, layout: Layout, generator: torch.Generator
) -> Tensor:
    """(n, T, C) somewhere between a and b (mixup: Zhang et al. 2018, arXiv:1710.09412).

    Features are mixed where both have an observation and place features where both are known;
    elsewhere, and in all else, a row stays ``a``, so that gaps stay gaps.
    """
    part = torch.rand(len(a), 1, 1, generator=generator).to(a.device)  # of b
    weight = torch.zeros_like(a)
    weight[:, :, : layout.features] = part * both[:, :, None]
    if layout.static is not None:
        weight[:, :, layout.static :] = part * a[:, :, -1:] * b[:, :, -1:]
    return torch.lerp(a, b, weight)


def imitation_loss(output: Tensor, said: Tensor) -> Tensor:
    """How far (n, K) outputs are from a teacher's, as a scalar.

    Of one value the squared difference; of classes the Kullback-Leibler divergence from the
    teacher's probabilities. Hinton et al. 2015 soften both by a temperature (section 2): 2 instead
    of 1 changed nothing on the inner splits, the teachers are not that sure of themselves.
    """
    if output.shape[1] == 1:
        return functional.mse_loss(output, said)
    return functional.kl_div(output.log_softmax(1), said.log_softmax(1), reduction="batchmean",
                             log_target=True)


def _learn(
    student: nn.Module, own: Sequence[nn.Parameter], sensor: str, x: Tensor, said: Tensor,
    lesson: Lesson, generator: torch.Generator,
) -> list[float]:
    """Train one sensor's own weights on views (V, T, C) and what the teacher said (V, K) of them.

    Returns:
        The mean loss of each epoch.
    """
    batch = min(lesson.batch, len(x))
    steps = lesson.epochs * (len(x) // batch)
    optimiser = torch.optim.AdamW(own, lr=lesson.lr, weight_decay=0, fused=True)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, rates("cycle", steps))
    student.train()
    history = []
    for _ in range(lesson.epochs):
        losses = []
        for rows in torch.randperm(len(x), generator=generator).split(batch):
            if len(rows) < batch:
                continue  # a small rest would be noise in the batch normalisation
            loss = imitation_loss(
                student.predict(sensor, x[rows]), said[rows])  # type: ignore[operator]
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            rate.step()
            losses.append(loss.detach())
        history.append(float(torch.stack(losses).double().mean()))
    return history
