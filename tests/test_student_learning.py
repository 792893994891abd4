"""Students: what they cost, what they learn from, and how near they come."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import models
from models.flops import flops
from pipeline.learn.augment import Augmentation
from pipeline.learn.fit import predict_from
from pipeline.learn.members import Trained, train_row
from pipeline.learn.recipe import parse_row
from pipeline.learn.student import Lesson, distil, imitation_loss, student_row, views
from pipeline.learn.table import Table
from pipeline.spec.card import SensorCard
from tests.support.evaluation import toy_table
from tests.support.samples import SHORT, simulate, table_of

torch.set_num_threads(1)
PLACED = SensorCard(
    features=("vv", "vh"), mean=(-11.0, -18.0), std=(2.0, 2.0), radiometry="sigma0",
    accepts=("sigma0",), coverage_steps=(4,), coverage_score=(0.0,), static=("elevation",),
    static_mean=(500.0,), static_std=(100.0,),
)  # channels: vv, vh, valid, month_sin, month_cos, elevation, known


# ---- what it costs


def test_operations_are_those_counted_by_hand() -> None:
    options = {"sensors": {"s1": 6, "s2": 14}, "steps": 12, "outputs": 2, "features": 64,
               "width": 64, "dense": 64}
    module = models.build("mdico", "tempcnn", options)
    one = 6 * 5 * 64 * 12 + 64 * 5 * 64 * 12 + 64 * 12 * 64  # two convolutions, the dense layer
    shared, unique = one + 64 * 64, one + 64 * 128
    assert flops(module, "s1", torch.zeros(3, 12, 6)) == 2 * (shared + unique + 128 * 2)
    small = models.build("individual", "mlp", {**{k: options[k] for k in ("sensors", "steps",
                         "outputs")}, "features": 32, "width": 128})
    assert flops(small, "s2", torch.zeros(1, 12, 14)) == 2 * (
        12 * 14 * 128 + 128 * 128 + 128 * 32 + 32 * 2)
    assert small.training  # as it was


def test_a_forest_compares_once_a_tree_and_level() -> None:
    options = {"sensors": {"s1": 6}, "steps": 4, "outputs": 1, "width": 8, "dense": 8,
               "features": 8}
    x = torch.zeros(2, 4, 6)
    alone = flops(models.build("individual", "tempcnn", options), "s1", x)
    both = models.build("individual", "tempcnn", {**options, "forests": {"s1": [10, 31, 5]}})
    assert flops(both, "s1", x) == alone + 10 * 5


# ---- what it is asked to imitate


def test_imitation_is_the_divergence_of_probabilities() -> None:
    own, said = torch.tensor([[0.0, 0.0]]), torch.tensor([[np.log(3.0), 0.0]])
    # of (3/4, 1/4) from (1/2, 1/2)
    by_hand = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert float(imitation_loss(own, said)) == pytest.approx(by_hand, rel=1e-5)
    assert float(imitation_loss(said + 5, said)) == pytest.approx(0, abs=1e-6)
    assert float(imitation_loss(torch.tensor([[1.0], [4.0]]), torch.tensor([[2.0], [2.0]]))) == 2.5


def placed(n: int = 40) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Rows of two seasons: features of the first are 1, of the second 3; some gaps and places."""
    second = np.arange(n) % 2
    x = torch.zeros(n, 4, PLACED.channels)
    seen = torch.ones(n, 4, dtype=torch.bool)
    seen[::5, 1] = False
    x[:, :, :2] = torch.from_numpy(1.0 + 2 * second + 0.01 * np.arange(n))[:, None, None]
    x[:, :, :2] *= seen[:, :, None]
    x[:, :, 2] = seen
    x[:, :, 3] = torch.from_numpy(1.0 * second)[:, None]
    x[: n // 2, :, 5:] = 1.0  # the place of the other half is unknown
    return x, seen, 3 * second[:, None] + np.arange(4)


def still(card: SensorCard = PLACED) -> Augmentation:
    return Augmentation.of("s1", card, drop=0.0, jitter=False)


def test_views_mix_rows_of_one_season_and_leave_gaps_and_unknown_places() -> None:
    x, seen, season = placed()
    many = views(x, seen, season, still(), Lesson(views=25),
                 torch.Generator().manual_seed(0))
    assert many.shape == (40 * 25, 4, PLACED.channels)
    there = many[:, :, 2] == 1
    assert (many[:, :, :2][~there] == 0).all()
    assert 0 < float((~there).float().mean()) < 0.1  # as many gaps as the rows have
    first = many[:, 0, 3] == 0
    assert 1.0 <= float(many[first, 0, :2].min()) <= float(many[first, 0, :2].max()) < 1.5
    assert float(many[~first, 0, :2].min()) >= 3.0
    assert set(many[:, :, 3].unique().tolist()) == {0.0, 1.0}  # the season is never mixed
    assert set(many[:, :, 6].unique().tolist()) == {0.0, 1.0}
    assert (many[:, :, 5] == many[:, :, 6]).all()
    exact = (many[:, None, 0, 0] == x[None, :, 0, 0]).any(1).float().mean()
    assert float(exact) < 0.2  # nearly every view is of two rows


def test_views_are_as_many_as_asked_for_each_row_as_often() -> None:
    x, seen, season = placed()
    alone = np.arange(40)[:, None] + np.zeros(4, int)  # no row has a partner but itself
    plain = views(x, seen, alone, still(), Lesson(views=3), torch.Generator().manual_seed(0))
    got = sorted(float(v) for v in plain[:, 0, 0])
    assert got == pytest.approx(sorted(3 * [float(v) for v in x[:, 0, 0]]))
    few = views(x, seen, season, still(), Lesson(views=3, most=50),
                torch.Generator().manual_seed(0))
    assert len(few) == 50


# ---- learning


def taught(table: Table, train: np.ndarray) -> Trained:
    row = parse_row("mdico+gaps+season")
    network = {"width": 8, "dense": 8, "features": 8}
    settings = replace(row.recipe.settings, epochs=12, batch=32, lr=0.01)
    row = replace(row, recipe=replace(row.recipe, network=network, settings=settings))
    return train_row(table, row, train, "site", 0)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Table, np.ndarray, Trained]:
    """A table, its training rows, and a teacher that learned from them."""
    folder = tmp_path_factory.mktemp("student") / "set"
    table = table_of(simulate(folder))
    train = table.groups % 4 > 0
    return table, train, taught(table, train)


def test_a_student_comes_to_say_what_its_teacher_says(case) -> None:
    table, train, teacher = case
    row = student_row(parse_row("mdico+gaps+season"), SHORT)
    student = distil(teacher, row, train, SHORT, 0)
    assert student.module is not teacher.module
    assert student.data is teacher.data  # the same normaliser, features and context
    for sensor in table.sensors:
        losses = student.fitted[0].history[sensor]
        assert len(losses) == SHORT.epochs
        assert losses[-1] < losses[0] / 4
        x = teacher.data.inputs[sensor][np.flatnonzero(~train)]
        own, said = (predict_from(t.module, sensor, x).softmax(1) for t in (student, teacher))
        assert float((own - said).abs().mean()) < 0.08
    again = distil(teacher, row, train, SHORT, 0)
    torch.testing.assert_close(again.module.state_dict(), student.module.state_dict(),
                               rtol=0, atol=0)


def test_a_student_of_values_learns_from_all_that_its_teacher_is() -> None:
    table = toy_table("lfmc")
    row = parse_row("individual+valid+forest")
    row = replace(row, recipe=replace(row.recipe, network={"width": 8, "dense": 8, "features": 8},
                                      settings=replace(row.recipe.settings, epochs=2)))
    train = table.groups > 5
    teacher = train_row(table, row, train, "site", 0)
    assert isinstance(teacher.module, models.Ensemble)  # the forest's share is learnt, too
    student = distil(teacher, student_row(row, SHORT), train, SHORT, 0)
    x = teacher.data.inputs["s1"][np.flatnonzero(train)]
    own, said = (predict_from(t.module, "s1", x) for t in (student, teacher))
    assert float((own - said).square().mean()) < 0.3 * float(said.var())
    assert student.raw("s1", np.arange(3)).mean() > 50  # in the task's unit


def test_a_student_keeps_some_trees_of_its_teachers_forests_and_all_boosted_ones() -> None:
    table = toy_table("lfmc")
    row = parse_row("individual+valid+forest+boost")
    row = replace(row, recipe=replace(row.recipe, network={"width": 8, "dense": 8, "features": 8},
                                      settings=replace(row.recipe.settings, epochs=2)))
    train, lesson = table.groups > 5, replace(SHORT, trees=3)
    teacher = train_row(table, row, train, "site", 0)
    student = distil(teacher, student_row(row, lesson), train, lesson, 0)
    for sensor, whole in teacher.module.forests.items():
        kept = student.module.forests[sensor].state_dict()
        torch.testing.assert_close(kept, {k: v[:3] for k, v in whole.state_dict().items()})
        torch.testing.assert_close(student.module.boosted[sensor].state_dict(),
                                   teacher.module.boosted[sensor].state_dict())
    own = student_row(row, lesson)
    again = models.build(own.method, own.encoder, student.options)  # as a card does
    again.load_state_dict(student.module.state_dict())
    x = teacher.data.inputs["s1"]
    torch.testing.assert_close(predict_from(again, "s1", x), predict_from(student.module, "s1", x))


class Recorder(nn.Module):
    """A teacher that keeps what it was asked about."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.asked = module, []

    def predict_and_embed(self, sensor: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked.append(x)
        return self.module.predict_and_embed(sensor, x)


def test_a_student_never_sees_a_held_out_row_nor_any_label(case) -> None:
    table, train, teacher = case
    row = student_row(parse_row("mdico+gaps+season"), SHORT)
    marked = {k: x.clone() for k, x in teacher.data.inputs.items()}
    for x in marked.values():
        x[~torch.from_numpy(train), :, 0] = 1e6
    recorder, plain = Recorder(teacher.module), replace(teacher, module=Recorder(teacher.module))
    data = replace(teacher.data, inputs=marked, target=torch.full_like(teacher.data.target, -9))
    blind = replace(teacher, data=data, module=recorder,
                    table=replace(table, target=np.full_like(table.target, -9)))
    student = distil(blind, row, train, SHORT, 0)
    asked = {x.shape[2] for x in recorder.asked}
    assert asked == {x.shape[2] for x in data.inputs.values()}  # each sensor's
    assert max(float(x.abs().max()) for x in recorder.asked) < 1e3
    torch.testing.assert_close(student.module.state_dict(),
                               distil(plain, row, train, SHORT, 0).module.state_dict(),
                               rtol=0, atol=0)
