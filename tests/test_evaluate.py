"""The evaluation as a whole: cells that are made once, resumed, damaged; the command line."""

import dataclasses
import errno
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.losses import prediction_loss
from models.methods.base import Method, summed
from models.registry import METHODS
from pipeline import cli, evaluate
from pipeline.data.benchmarks import BENCHMARKS
from pipeline.learn import campaign as campaigns
from pipeline.learn.campaign import run
from pipeline.learn.cell import Cell, Found
from pipeline.learn.cell_store import cell_path, fingerprint, load_cell, save_cell, weights_of
from pipeline.learn.contenders import ablations, choose_rows, rivals, why_not, with_weights
from pipeline.learn.fit import Settings
from pipeline.learn.recipe import SWITCHES, parse_row
from pipeline.learn.report.figure_style import chosen
from pipeline.learn.report.results import write_results
from pipeline.learn.table import tensors
from pipeline.spec.errors import BadRequest, DataTrouble
from tests.support.evaluation import (
    fake_cell,
    refusing_cell,
    toy_campaign,
    toy_table,
)

POINTS = Path(__file__).resolve().parents[2] / "shared" / "data" / "points"


class Counting:
    """``fake_cell`` that counts by row, and can be interrupted after so many cells."""

    def __init__(self, most=10**6):
        self.count, self.most = Counter(), most

    def __call__(self, table, split, row, *, features=False):
        if self.count.total() == self.most:
            raise KeyboardInterrupt
        self.count[row.text] += 1
        return fake_cell(table, split, row, features=features)


# ---- the cells


def test_a_finished_campaign_trains_nothing_again(tmp_path):
    train, ticks = Counting(), []
    first = run(toy_campaign(tmp_path), train=train, tick=lambda: ticks.append(1))
    assert train.count == {"individual": 8, "mdico": 8, "extra-trees": 8}
    assert len(ticks) == len(first.done) == first.trained == 24
    again = run(toy_campaign(tmp_path), train=Counting(0), tick=lambda: ticks.append(1))
    assert again.trained == 0
    assert len(ticks) == 48
    for a, b in zip(first.done, again.done, strict=True):
        assert (a.row.text, a.split.seed, a.split.fold) == (b.row.text, b.split.seed, b.split.fold)
        np.testing.assert_array_equal(a.cell.found["s1"].raw, b.cell.found["s1"].raw)


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(toy_campaign(tmp_path), train=Counting(10))
    assert len(list(tmp_path.glob("*.npz"))) == 10
    rest = Counting()
    outcome = run(toy_campaign(tmp_path), train=rest)
    assert rest.count.total() == outcome.trained == 14
    whole = run(toy_campaign(tmp_path / "other"), train=fake_cell)
    for a, b in zip(outcome.done, whole.done, strict=True):
        np.testing.assert_array_equal(a.cell.found["l8"].value, b.cell.found["l8"].value)


def test_the_folds_come_row_by_row_so_that_a_killed_run_can_compare(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(toy_campaign(tmp_path), train=(train := Counting(7)))
    assert train.count == {"individual": 3, "mdico": 2, "extra-trees": 2}


def test_a_changed_recipe_makes_only_its_own_cells_again(tmp_path, monkeypatch):
    run(toy_campaign(tmp_path), train=fake_cell)
    more = Counting()
    run(toy_campaign(tmp_path, "individual,mdico,mdico+season,extra-trees"), train=more)
    assert more.count == {"mdico+season": 8}
    # the switch now means something else: the text is the same, the recipe is not
    words, change = SWITCHES["ema"]
    monkeypatch.setitem(SWITCHES, "season", (words, change))
    changed = Counting()
    run(toy_campaign(tmp_path, "individual,mdico,mdico+season,extra-trees"), train=changed)
    assert changed.count == {"mdico+season": 8}


@pytest.mark.parametrize("what", ["data", "protocol", "folds", "share", "engine", "features"])
def test_whatever_decides_a_cell_makes_it_another_one(tmp_path, what, monkeypatch):
    run(toy_campaign(tmp_path), train=fake_cell)
    other = {
        "data": lambda: toy_campaign(tmp_path, table=dataclasses.replace(
            toy_table(), target=toy_table().target + 1e-9)),
        "protocol": lambda: toy_campaign(tmp_path, protocol="paper"),
        "folds": lambda: toy_campaign(tmp_path, folds=3, seeds=1),
        "share": lambda: toy_campaign(tmp_path, shares=(0.5,)),
        "engine": lambda: toy_campaign(tmp_path),
        "features": lambda: toy_campaign(tmp_path),
    }[what]()
    if what == "engine":
        monkeypatch.setattr(campaigns, "ENGINE", "another")
    if what == "features":
        monkeypatch.setattr(campaigns, "FEATURE_PATH", "another")
    assert run(other, train=fake_cell).trained == len(other.work())


def test_more_seeds_and_shares_keep_what_is_there(tmp_path):
    run(toy_campaign(tmp_path), train=fake_cell)
    assert run(toy_campaign(tmp_path, seeds=3), train=fake_cell).trained == 12
    assert run(toy_campaign(tmp_path, shares=(0.5, 1.0)), train=fake_cell).trained == 24


@pytest.mark.parametrize("harm", ["empty", "cut", "flipped", "text", "other"])
def test_a_damaged_cell_is_made_again(tmp_path, harm):
    campaign = toy_campaign(tmp_path)
    run(campaign, train=fake_cell)
    path = cell_path(tmp_path, campaign.work()[5].config)
    content = bytearray(path.read_bytes())
    if harm == "flipped":
        for k in range(100, len(content), 97):
            content[k] ^= 0xFF
    path.write_bytes({
        "empty": b"", "cut": bytes(content[: len(content) // 2]), "flipped": bytes(content),
        "text": b"not a cell",
        "other": cell_path(tmp_path, campaign.work()[6].config).read_bytes(),
    }[harm])
    again = Counting()
    assert len(run(campaign, train=again).done) == 24
    assert again.count.total() == 1


def test_no_half_written_cell_is_left_behind(tmp_path, monkeypatch):
    def full(file, **arrays):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(DataTrouble, match="No space left"):
        run(toy_campaign(tmp_path), train=fake_cell)
    assert list(tmp_path.iterdir()) == []


def test_a_cell_reads_back_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    cell = Cell(
        {"s1": Found(np.arange(3), np.array([1, 0, 1]), rng.normal(size=(3, 2)).astype("f4")),
         "l8": Found(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2), "f4"))},
        {"main": rng.normal(size=4), "a/b": np.zeros(2)}, 3.2, 1.25, {"s1": 0.7},
        {"s1": rng.normal(size=(3, 5))},
    )
    save_cell(tmp_path, {"k": 1}, cell)
    back = load_cell(tmp_path, {"k": 1})
    assert load_cell(tmp_path, {"k": 2}) is None
    assert (back.epochs, back.seconds, dict(back.temperature)) == (3.2, 1.25, {"s1": 0.7})
    for sensor, found in cell.found.items():
        for a, b in zip(dataclasses.astuple(found), dataclasses.astuple(back.found[sensor]),
                        strict=True):
            np.testing.assert_array_equal(a, b)
    assert set(back.history) == {"main", "a/b"}
    np.testing.assert_array_equal(back.features["s1"], cell.features["s1"])


def test_the_fingerprint_sees_values_types_and_order():
    a = np.arange(4.0)
    same = [fingerprint({"x": a}), fingerprint({"x": a.copy()}), fingerprint({"x": a[::1]})]
    others = [{"x": a.astype("f4")}, {"x": a.reshape(2, 2)}, {"y": a}, {"x": a[::-1]},
              {"x": a.tolist()}, {"x": (a, a)}, {}]
    assert len(set(same)) == 1
    assert len({same[0], *(fingerprint(v) for v in others)}) == 1 + len(others)
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
    assert fingerprint(np.array(["a", None], dtype=object)) == fingerprint(["a", None])


def test_features_are_kept_of_one_fold_only(tmp_path):
    outcome = run(toy_campaign(tmp_path, "mdico"), train=fake_cell)
    assert [bool(d.cell.features) for d in outcome.done] == [True] + [False] * 7


# ---- rows


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


# ---- the command line


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the command line on real points with made-up cells; the words of stderr and stdout."""
    if not POINTS.is_dir():
        pytest.skip("real data is not here: ../shared/data is absent")
    monkeypatch.setattr(evaluate, "run", lambda *a, **k: run(*a, **k, train=fake_cell))
    monkeypatch.setattr(os, "environ", dict(os.environ))

    def call(*args, data=POINTS, out=tmp_path / "out"):
        return cli.run(evaluate.command, [*args, "--data", str(data), "--out", str(out)])

    return call


def test_the_whole_command(command, tmp_path, capsys):
    code = command("--benchmark", "lfmc", "--protocol", "transfer", "--methods",
                   "individual,mdico,dml", "--seeds", "2", "--no-figures", "--json", "--quiet")
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert (code, err) == (0, "")
    assert answer["metric"] == "R2"
    assert set(answer["scores"]["mdico"]["tempcnn"]) == {"s1", "l8", "all"}
    assert answer["empty"] == {"dml tempcnn": "needs class probabilities"}
    assert all(Path(p).is_file() for p in answer["files"].values())
    assert "regions held out" in answer["protocol"]
    assert "## By region held out" in (tmp_path / "out" / "table.md").read_text()


def test_progress_goes_to_stderr_and_the_table_to_stdout(command, capsys):
    assert command("--benchmark", "lfmc", "--methods", "individual", "--folds", "2",
                   "--no-figures") == 0
    out, err = capsys.readouterr()
    assert "| Individual | Unimodal learning |" in out
    assert "2/2" in err
    assert "2 folds of whole places (150)" in out


@pytest.mark.parametrize(("args", "words"), [
    (["--benchmark", "lfcm"], "unknown benchmark; got 'lfcm'; allowed: lfmc"),
    ([], "--benchmark is missing"),
    (["--benchmark", "lfmc", "--protocol", "random"], "allowed: paper, site, transfer"),
    (["--benchmark", "lfmc", "--seeds", "0"], "--seeds is too small"),
    (["--benchmark", "lfmc", "--jobs", "0"], "--jobs is too small"),
    (["--benchmark", "lfmc", "--share", "0.5,2"], "above 0, at most 1"),
    (["--benchmark", "lfmc", "--share", "half"], "above 0, at most 1"),
    (["--benchmark", "lfmc", "--methods", "mdicoo"], "unknown method"),
    (["--benchmark", "lfmc", "--against", "nobody"], "unknown method"),
    (["--benchmark", "lfmc", "--sensors", "s9"], "unknown sensor"),
    (["--benchmark", "lfmc", "--protocol", "transfer", "--folds", "3"], "leave --folds out"),
    (["--benchmark", "lfmc", "--methods", "dml", "--folds", "2"], "no row can run"),
    (["--benchmark", "lfmc", "--fold", "2"], "--fold"),
])
def test_what_cannot_be_done_is_refused_in_one_line(command, capsys, args, words):
    assert command(*args, "--quiet") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert words in err


def test_absent_data_says_where_it_is_obtained(command, capsys, tmp_path):
    assert command("--benchmark", "lfmc", data=tmp_path) == 2
    err = capsys.readouterr().err
    assert BENCHMARKS["lfmc"].obtain[:40] in err
    assert "--data" in err


def test_the_list_needs_nothing(capsys):
    assert cli.run(evaluate.command, ["--list"]) == 0
    text = capsys.readouterr().out
    for word in ("lfmc", "data:", "transfer", "ablations", "season", "mdico", "extra-trees",
                 "mdico-unpaired"):
        assert word in text
    assert cli.run(evaluate.command, ["--list", "--json"]) == 0
    catalogue = json.loads(capsys.readouterr().out)
    assert set(catalogue["benchmarks"]) == set(BENCHMARKS)
    assert set(catalogue["switches"]) == set(SWITCHES)
