"""The evaluation as a whole: cells that are made once, resumed, damaged; the command line."""

import dataclasses
import errno
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline import cli, evaluate
from pipeline.data.benchmarks import BENCHMARKS
from pipeline.learn import campaign as campaigns
from pipeline.learn.campaign import run
from pipeline.learn.cell import Cell, Found
from pipeline.learn.cell_store import cell_path, fingerprint, load_cell, save_cell
from pipeline.learn.recipe import SWITCHES
from pipeline.spec.errors import DataTrouble
from tests.support.evaluation import (
    fake_cell,
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
