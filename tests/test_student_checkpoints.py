"""Students beside their teachers: the command line, their cards, the map they make."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import cli
from pipeline import map as map_command
from pipeline import train as train_command
from pipeline.data.checkpoints import STORE, STUDENT, load_checkpoint, save_checkpoint
from pipeline.infer.predict import Predictor
from pipeline.learn import student as lessons
from pipeline.learn.student import Lesson
from pipeline.spec.errors import BadRequest
from pipeline.spec.tasks import task
from tests.support.samples import SHORT, TINY, simulate
from tests.support.toy import untrained

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, list]:
    """A checkpoint with a student; what was printed; per student the rows that its teacher knew
    and that it was given."""
    folder = tmp_path_factory.mktemp("trained")
    simulate(folder / "set", sensors=("s1", "s2", "l8"))
    told, asked = [], []
    with pytest.MonkeyPatch.context() as patch:
        real_train, real_distil = lessons.train_row, lessons.distil

        def remember(table, row, train, kind, seed, **more):
            made = real_train(table, row, train, kind, seed, **more)
            told.append((made, train))
            return made

        def watch(teacher, row, train, lesson, seed):
            asked.append((next(t for made, t in told if made is teacher), train))
            return real_distil(teacher, row, train, lesson, seed)

        patch.setattr(lessons, "train_row", remember)
        patch.setattr(lessons, "distil", watch)
        patch.setattr("pipeline.learn.train.Lesson", lambda: SHORT)
        patch.setattr(cli, "emit", told.append)
        assert cli.run(train_command.command, [
            "--task", "cropland", "--samples", str(folder / "set"), "--out", str(folder / "out"),
            "--folds", "3", "--no-baselines", "--student", "--json", "--quiet", *TINY]) == 0
    return folder / "out", told[-1], asked


def test_in_each_fold_the_teacher_knew_only_what_the_student_may_see(trained) -> None:
    _, _, asked = trained
    assert len(asked) == 3
    for knew, given in asked:
        np.testing.assert_array_equal(knew, given)
        assert 0.5 < given.mean() < 0.8  # two of three folds
    assert (sum(~given for _, given in asked) == 1).all()  # each row is held out once


def test_the_students_card_is_a_whole_card_and_names_its_teacher(trained) -> None:
    out, printed, _ = trained
    card, _ = load_checkpoint(out)
    small, weights = load_checkpoint(out, student=True)
    assert small == load_checkpoint(out / STUDENT)[0]
    assert (card.teacher, small.name, small.method) == ({}, "out-fast", "individual")
    assert (small.teacher["name"], small.teacher["sha256"]) == (card.name, card.sha256)
    assert small.protocol.startswith("student of out: in each fold")
    assert card.protocol in small.protocol
    for key, s in small.sensors.items():
        teacher = card.sensors[key]
        for same in ("features", "mean", "std", "context", "static", "accepts", "radiometry"):
            assert getattr(s, same) == getattr(teacher, same)
        found = printed["student"]["scores"]["individual"][key]
        assert s.score == pytest.approx(found["mean"], abs=1e-4)
        assert len(found["splits"]) == 3
        assert small.baselines["its teacher"][key] == teacher.score
        assert s.coverage_steps == teacher.coverage_steps
        assert s.coverage_score[0] < s.coverage_score[-1]
        assert 0 < s.temperature < 10
        assert s.ece is not None
        assert 0 < s.domain_threshold < 3
        assert weights[f"domain.{key}.prototypes"].shape[1] == Lesson().network["features"]
        cost = small.teacher["flops"][key]
        assert printed["student"]["flops"][key] == cost
        assert any(note.startswith(f"{key}: {cost[1] / 1e6:.3f} million operations")
                   for note in small.notes)


def test_fast_maps_with_the_student(trained, region: Path, region_aoi: str, tmp_path: Path,
                                    capsys) -> None:
    out, _, _ = trained
    assert cli.run(map_command.command, [
        "--aoi", region_aoi, "--catalog", str(region / "catalog.json"), "--sensor", "s2",
        "--period", "2023-10", "--checkpoint", str(out), "--speed", "fast",
        "--out", str(tmp_path / "map"), "--quiet", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["card"]["sha256"] == load_checkpoint(out, student=True)[0].sha256
    assert report["totals"]["mapped_px"] > 0


def test_a_student_of_another_teacher_is_refused(tmp_path: Path) -> None:
    card, arrays = untrained(task("cropland"))
    made = save_checkpoint(tmp_path / "x", card, arrays)
    for sha, refused in ((made.sha256, False), ("0" * 64, True)):
        own = replace(card, name="x-fast", teacher={"name": "x", "sha256": sha})
        save_checkpoint(tmp_path / "x" / STUDENT, own, arrays)
        if refused:
            with pytest.raises(BadRequest, match="student learned from another one"):
                load_checkpoint(tmp_path / "x", student=True)
        else:
            assert load_checkpoint(tmp_path / "x", student=True)[0].name == "x-fast"


def test_without_folds_a_student_is_scored_on_the_inner_split(tmp_path: Path) -> None:
    simulate(tmp_path / "set", sensors=("s1",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.learn.train.Lesson", lambda: SHORT)
        assert cli.run(train_command.command, [
            "--task", "cropland", "--samples", str(tmp_path / "set"), "--out",
            str(tmp_path / "x"), "--no-evaluate", "--student", "--quiet", *TINY]) == 0
    card, _ = load_checkpoint(tmp_path / "x", student=True)
    assert "not evaluated" in card.protocol


@pytest.mark.parametrize("name", sorted(p.parts[-3] for p in STORE.glob(f"*/{STUDENT}/card.json")))
def test_shipped_students_are_near_their_teacher_at_an_eighth_of_its_cost(name: str) -> None:
    card, _ = load_checkpoint(name)
    small, arrays = load_checkpoint(name, student=True)
    assert small.teacher["sha256"] == card.sha256
    predictor = Predictor(task(small.task), small, arrays, "cpu")
    assert set(predictor.domains) == set(small.sensors) == set(card.sensors)
    for key, s in small.sensors.items():
        teacher = card.sensors[key]
        assert (s.features, s.context, s.static) == (
            teacher.features, teacher.context, teacher.static)
        theirs, own = small.teacher["flops"][key]
        assert theirs >= 8 * own
        # in the same folds, to the four digits that cards state
        lost = round(small.baselines["its teacher"][key] - s.score, 4)
        assert lost <= (0.003 if small.metric == "weighted F1" else 0.01)
