"""Rows of an evaluation: which there are, which refuse, and rivals of one's own."""

import dataclasses
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from models.losses import prediction_loss
from models.methods.base import Method, summed
from models.registry import METHODS
from pipeline.learn.campaign import run
from pipeline.learn.cell_store import weights_of
from pipeline.learn.contenders import ablations, choose_rows, rivals, why_not, with_weights
from pipeline.learn.fit import Settings
from pipeline.learn.recipe import SWITCHES, parse_row
from pipeline.learn.report.figure_style import chosen
from pipeline.learn.report.results import write_results
from pipeline.learn.table import tensors
from pipeline.spec.errors import BadRequest
from tests.support.evaluation import (
    fake_cell,
    refusing_cell,
    toy_campaign,
    toy_table,
)


def test_a_refusing_row_is_left_empty_and_the_others_go_on(tmp_path):
    calls = Counter()

    def train(table, split, row, *, features=False):
        calls[row.text] += 1
        return refusing_cell(table, split, row, features=features)

    ticks = []
    outcome = run(toy_campaign(tmp_path, "esensi,mdico"), train=train,
                  tick=lambda: ticks.append(1))
    assert calls == {"esensi": 1, "mdico": 8}
    assert outcome.empty == {("esensi", "tempcnn"): "made-up trouble"}
    assert len(ticks) == 16
    assert {d.row.text for d in outcome.done} == {"mdico"}



def test_rows_that_cannot_run_say_why_without_being_trained(tmp_path, monkeypatch):
    odd = ("made up", lambda r: dataclasses.replace(r, network={"odd": 1}))
    monkeypatch.setitem(SWITCHES, "odd", odd)
    rows = "individual,dml,anysat,mdico+place,individual+odd,mmgf"
    outcome = run(toy_campaign(tmp_path, rows, seeds=1), train=fake_cell)
    reasons = {text: why for (text, _), why in outcome.empty.items()}
    assert reasons.pop("anysat").startswith("pretrained, and its weights are not here")
    assert reasons == {
        "dml": "needs class probabilities",
        "mdico+place": "the benchmark has no place features",
        "individual+odd": "has no odd",
    }
    table = toy_table()
    single = dataclasses.replace(table, series={"s1": table.series["s1"]})
    alone = run(toy_campaign(tmp_path / "one", "mmgf", table=single), train=fake_cell)
    assert alone.empty == {("mmgf", "tempcnn"): "fuses sensors, and there is only one"}


def test_all_is_every_method_and_the_trees_in_the_order_of_the_papers_tables():
    texts = [r.text for r in choose_rows("all", "tempcnn")]
    assert texts[0] in ("mmgf", "inputfu", "omnisat")
    assert texts[-6:] == ["mdico", "individual+stop5", "mdico+stop5", "extra-trees",
                          "gradient-boosting", "no-satellite+season"]
    assert texts.index("inputfu") < texts.index("individual") < texts.index("esensi")
    assert {*texts} >= {m for m in METHODS if not m.startswith("mdico-")}
    assert not {*texts} & {*ablations(), "mdico-ablation"}


def test_ablations_stand_beside_the_same_with_a_fixed_length():
    texts = [r.text for r in choose_rows("ablations", "tempcnn")]
    assert len(texts) == 2 * (2 + len(ablations())) >= 22
    assert all(f"{t}+fixed" in texts for t in texts if "+" not in t)


def test_beyond_has_each_switch_once():
    texts = [r.text for r in choose_rows("beyond,mdico", "tempcnn")]
    assert texts.count("mdico") == 1
    assert {t.partition("+")[2] for t in texts} == {"", *SWITCHES} - {"stop5", "fixed"}


def test_encoders_multiply_networks_but_not_trees():
    rows = choose_rows("mdico,extra-trees", "tempcnn,lstm,tempcnn")
    assert [(r.text, r.encoder) for r in rows] == [
        ("mdico", "tempcnn"), ("mdico", "lstm"), ("extra-trees", "tempcnn")]
    every = {r.encoder for r in choose_rows("mdico", "all")}
    assert every >= {"tempcnn", "mlp", "lstm", "transformer", "convtran"}
    assert not {e for e in every if e.startswith("resnet")}


def test_unknown_rows_and_encoders_are_refused():
    for methods, encoders, word in (("mdico,dimco", "mlp", "dimco"), ("mdico+x", "mlp", "'x'"),
                                    ("mdico", "rnn", "rnn"), (" , ", "mlp", "--methods is empty")):
        with pytest.raises(BadRequest, match=word):
            choose_rows(methods, encoders)


def test_a_toy_rival_is_one_class_in_the_registry(tmp_path, monkeypatch):
    class Toy(METHODS["individual"]):
        TITLE, FIELD = "Toy", "Playing"

    monkeypatch.setitem(METHODS, "toy", Toy)
    assert "toy" in rivals()
    outcome = run(toy_campaign(tmp_path, "individual,toy", seeds=1), train=fake_cell)
    results = write_results(tmp_path / "out", toy_campaign(tmp_path, "individual,toy", seeds=1),
                            outcome, title="T", against=("individual",), figures=False, request={})
    assert "| Toy | Playing | " in results.table


class Least(Method):
    """The least that a rival needs: it does not tell its features."""

    def __init__(self, make_encoder, sensors, outputs, features):
        super().__init__(make_encoder, sensors, features)
        self.head = nn.Linear(features, outputs)

    def predict(self, sensor, x):
        return self.head(self.encoder[sensor](x))

    def losses(self, inputs, present, target, class_weights=None):
        terms = [prediction_loss(target[present[:, m]], self.head(z), class_weights)
                 for m, z in self.features(inputs, present).items()]
        return summed({"main": torch.stack(terms).sum()})


def test_a_rival_of_ones_own_is_trained_and_scored(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "least", Least)
    wanted = toy_campaign(tmp_path, "individual,least", seeds=1)
    few = replace(wanted.rows[1].recipe, network={"width": 4, "features": 4, "dense": 4},
                  settings=Settings(epochs=1, patience=0))
    wanted = replace(wanted, rows=tuple(replace(r, recipe=few) for r in wanted.rows))
    outcome = run(wanted)
    assert not outcome.empty
    assert len(outcome.done) == 2 * len(wanted.plan.splits)
    first = {d.row.method: d.cell.features for d in outcome.done if d.split.fold == 0}
    assert set(first["individual"]) == {"s1", "l8"}
    assert first["least"] == {}


def test_small_is_small_with_every_encoder():
    for row in choose_rows("individual,mdico,shaspec", "all", ("small",)):
        assert row.recipe.network["width"] == row.recipe.network["features"] == 64
        assert ("dense" in row.recipe.network) == (row.encoder == "tempcnn")
        assert why_not(row, toy_table(), tensors(toy_table(), np.ones(120, bool))) == ""


def test_the_papers_rule_is_the_papers_whatever_else_is_switched_on():
    plain, cycled = (choose_rows("individual+stop5", "tempcnn", common)[0].recipe.settings
                     for common in ((), ("cycle",)))
    assert plain == cycled
    assert (plain.epochs, plain.patience, plain.schedule) == (100, 5, "constant")


def test_weights_of_the_user_are_part_of_the_cell(tmp_path):
    (tmp_path / "s1.pt").write_bytes(b"one")
    rows = with_weights(choose_rows("anysat,mdico,extra-trees", "tempcnn"), tmp_path)
    assert [bool(weights_of(r)) for r in rows] == [True, False, False]
    before = weights_of(rows[0])
    (tmp_path / "s1.pt").write_bytes(b"two")
    assert weights_of(rows[0]) != before


def test_panels_show_individual_and_mdico_first():
    rows = [parse_row(t) for t in ("dml", "esensi", "mdico", "individual", "mdico+ema")]
    assert [r.text for r in chosen(rows, 3)] == ["mdico", "individual", "dml"]
