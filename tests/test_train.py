"""``python -m pipeline.train``: checkpoints, cards, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline import cli
from pipeline import train as command_line
from pipeline.data.checkpoints import load_checkpoint
from tests.support.samples import LFMC, TINY, simulate

REAL = Path(__file__).parents[2] / "shared" / "data" / "points"

torch.set_num_threads(1)  # tiny networks: more threads only wait for each other


def run(*args):
    return cli.run(command_line.command, list(map(str, args)))


def test_train_writes_an_evaluated_checkpoint(tmp_path, capsys):
    simulate(tmp_path / "set", sensors=("s1", "s2", "l8"))
    out = tmp_path / "runs" / "demo"
    assert run("--task", "cropland", "--samples", tmp_path / "set", "--out", out, "--folds", 2,
               "--json", "--quiet", *TINY) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    report = json.loads(captured.out)
    assert set(report["scores"]) == {"mdico", "individual", "mdico, inner split", "extra-trees",
                                     "no-satellite"}
    card, weights = load_checkpoint(out)
    assert set(card.sensors) == {"s1", "s2", "l8"}
    assert card.sensors["s1"].accepts == ("sigma0", "gamma0-rtc")
    assert card.sensors["l8"].accepts == ("landsat-c2-sr", "landsat-c1-sr")
    assert card.sensors["s2"].coverage_steps == (1, 2, 3, 4, 6, 8, 10, 12)
    for key, s in card.sensors.items():
        assert s.score == pytest.approx(report["scores"]["mdico"][key]["mean"], abs=1e-4)
        # to leave all twelve steps is to leave everything
        assert s.coverage_score[-1] == pytest.approx(s.score, abs=1e-4)
        assert s.coverage_score[0] < s.coverage_score[-1]
        assert s.coverage_half_width == ()
        assert s.interval_coverage is None
        assert 0 < s.temperature < 10
        assert all(0 <= e < 0.5 for e in s.ece)
        assert 0 < s.domain_threshold < 3
        assert weights[f"domain.{key}.prototypes"].shape == (240, 16)  # all samples, twice
        assert any(f"calibration error of {key}" in note for note in card.notes)
    assert set(card.baselines) == {"Individual", "extra-trees", "extra-trees, no satellite"}
    assert card.data[0]["name"] == "made_up"
    assert card.options["kernel"] == 5  # a card does not lean on the code's defaults
    assert "2 folds by whole groups" in card.protocol
    assert any("Training shifted radar levels" in note for note in card.notes)
    assert "head.s1.weight" in weights


def test_train_a_regression_in_one_random_fold(tmp_path, capsys):
    simulate(tmp_path / "set", task=LFMC)
    out = tmp_path / "lfmc"
    assert run("--task", "lfmc", "--samples", tmp_path / "set", "--out", out, "--fast",
               "--protocol", "random", "--row", "mdico+gaps+season", *TINY, "--epochs", 30,
               "--folds", 1) == 0
    captured = capsys.readouterr()
    assert "R2" in captured.out
    assert "fold 1" in captured.err
    card, _ = load_checkpoint(out)
    s1 = card.sensors["s1"]
    assert s1.accepts == ("sigma0",)
    assert s1.coverage_steps == (1, 2, 3, 4)
    assert len(s1.coverage_half_width) == 4
    assert 0 < s1.half_width_at(4) < 120
    assert card.target_mean == pytest.approx(125, abs=15)
    assert s1.temperature == 1
    # one fold: there is no other to measure the coverage in
    assert (s1.interval_coverage, s1.ece) == (None, None)
    assert list(s1.coverage_half_width) == sorted(s1.coverage_half_width, reverse=True)
    assert "one test fold" in card.protocol
    assert "single samples" in card.protocol


def test_a_card_says_whether_the_network_has_ever_done_without_the_place(tmp_path):
    folder = simulate(tmp_path / "set", task=LFMC)
    samples = pd.read_parquet(folder / "samples.parquet")
    known = pd.Series(np.linspace(100, 2000, len(samples)))
    needed = {}
    for row, elevation in {"individual+season": known, "individual+place": known,
                           "individual+place+hide": known,
                           "individual+place+season": known.where(known > 500)}.items():
        samples.assign(static_elevation=elevation).to_parquet(folder / "samples.parquet")
        out = tmp_path / row
        assert run("--task", "lfmc", "--samples", folder, "--out", out, "--no-evaluate", "--quiet",
                   "--row", row, *TINY) == 0
        sensors = load_checkpoint(out)[0].sensors.values()
        needed[row] = {s.place_needed for s in sensors}
        assert all(bool(s.static) == ("place" in row) for s in sensors)
    # some samples do not know their place: that is how the last one has learnt to do without
    assert [*needed.values()] == [{False}, {True}, {False}, {False}]


def test_scores_of_too_few_rows_are_null_in_json(tmp_path, capsys):
    simulate(tmp_path / "set", 60, sensors=("s1",))
    assert run("--task", "cropland", "--samples", tmp_path / "set", "--out", tmp_path / "x",
               "--folds", 2, "--no-baselines", "--json", "--quiet", *TINY) == 0

    def refuse(text):
        raise AssertionError(f"{text} is not JSON")

    got = json.loads(capsys.readouterr().out, parse_constant=refuse)["scores"]
    assert got["mdico, inner split"]["s1"]["mean"] is None  # 15 % of 30 rows
    assert 0 < got["mdico"]["s1"]["mean"] <= 1


def test_no_evaluate_says_so_on_the_card(tmp_path):
    simulate(tmp_path / "set", sensors=("s1",))
    assert run("--task", "cropland", "--samples", tmp_path / "set", "--out", tmp_path / "x",
               "--no-evaluate", "--quiet", *TINY) == 0
    card, _ = load_checkpoint(tmp_path / "x")
    assert "not evaluated" in card.protocol
    assert card.baselines == {}


def test_a_held_out_set_is_the_only_test(tmp_path, capsys):
    simulate(tmp_path / "a", name="a")
    simulate(tmp_path / "b", name="b", seed=1)
    samples = pd.read_parquet(tmp_path / "b" / "samples.parquet")
    samples.assign(lon=samples.lon + 9).to_parquet(tmp_path / "b" / "samples.parquet")
    assert run("--task", "cropland", "--samples", tmp_path / "a", "--samples", tmp_path / "b",
               "--out", tmp_path / "x", "--hold-out", "b", "--no-baselines", "--json", "--quiet",
               *TINY) == 0
    sets = json.loads(capsys.readouterr().out)["scores"]["mdico"]["s1"]["sets"]
    assert set(sets) == {"b"}


def test_sets_of_restricted_licence_are_named_on_the_card(tmp_path):
    folder = simulate(tmp_path / "set", sensors=("s1",))
    sidecar = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(sidecar | {"licence": "CC BY-NC-ND 4.0"}))
    assert run("--task", "cropland", "--samples", folder, "--out", tmp_path / "x",
               "--no-evaluate", "--per-set", 100, "--note", "Mind the gap.", "--quiet",
               *TINY) == 0
    card, _ = load_checkpoint(tmp_path / "x")
    assert card.notes[0] == "Mind the gap."
    assert any("restricted" in n and "made_up (CC BY-NC-ND 4.0)" in n for n in card.notes)
    assert card.data[0]["rows"] == 100


@pytest.mark.parametrize(("change", "says"), [
    (["--task", "lakes"], "unknown task"),
    (["--sensors", "s1,s9"], "unknown sensor"),
    (["--sensors", "l8"], "none of the sensors"),
    (["--folds", "0"], "--folds is too small"),
    (["--folds", "40"], "24 groups"),
    (["--row", "mdico+magic"], "unknown switch"),
    (["--row", "nothing"], "unknown method"),
    (["--row", "mdico+forest+prior"], "prior needs season or place"),
    (["--row", "mmgf"], "predicts from one sensor"),
    (["--encoder", "nothing"], "unknown encoder"),
    (["--protocol", "sites"], "unknown protocol"),
    (["--hold-out", "nothing"], "no such sample set to hold out"),
    (["--hold-out", "made_up"], "every sample set is held out"),
    (["--derive-l8"], "needs a set with real l8"),
    (["--samples", "nowhere"], "not a folder of samples"),
    (["--wdth", "3"], "unrecognized arguments"),
    (["--sensors", "l8", "--derive-l8"], "computes l8 from s2"),
    (["--folds", "20"], "a test fold has too few samples with s1"),
    (["--per-set", "30", "--no-evaluate"], "the inner split has too few samples with s1"),
])
def test_bad_requests_are_one_line_and_exit_2(tmp_path, capsys, change, says):
    simulate(tmp_path / "set")
    assert run("--task", "cropland", "--samples", tmp_path / "set", "--out", tmp_path / "x",
               *TINY, *change) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_sensor_that_no_test_fold_can_score_is_refused_before_training(tmp_path, capsys):
    simulate(tmp_path / "a", name="a", sensors=("s1", "s2"))
    simulate(tmp_path / "b", name="b", sensors=("s1",), seed=1)
    assert run("--task", "cropland", "--samples", tmp_path / "a", "--samples", tmp_path / "b",
               "--hold-out", "b", "--protocol", "random", "--out", tmp_path / "x", *TINY) == 2
    err = capsys.readouterr().err
    assert "too few samples with s2" in err
    assert "got 0" in err
    assert "fold" not in err.split("error:")[0]


def test_two_sets_of_one_name_are_refused(tmp_path, capsys):
    folders = [simulate(tmp_path / k / "samples", name="samples") for k in "ab"]
    assert run("--task", "cropland", "--samples", folders[0], "--samples", folders[1],
               "--out", tmp_path / "x", *TINY) == 2
    err = capsys.readouterr().err
    assert "two sample sets are both called samples" in err
    assert all(str(folder) in err for folder in folders)
    assert err.count("\n") == 1


def test_a_set_that_repeats_a_sample_is_refused(tmp_path, capsys):
    folder = simulate(tmp_path / "set")
    samples = pd.read_parquet(folder / "samples.parquet")
    pd.concat([samples, samples[:2]]).to_parquet(folder / "samples.parquet")
    assert run("--task", "cropland", "--samples", folder, "--out", tmp_path / "x", *TINY) == 3
    err = capsys.readouterr().err
    assert "2 rows whose sample_id occurred before; got 'p0'" in err
    assert err.count("\n") == 1


def test_one_class_alone_and_an_output_that_is_a_file_are_refused(tmp_path, capsys):
    folder = simulate(tmp_path / "set")
    (tmp_path / "file").write_text("")
    base = ("--task", "cropland", "--samples", folder, *TINY)
    assert run(*base, "--out", tmp_path / "file") == 2
    samples = pd.read_parquet(folder / "samples.parquet")
    samples.assign(y=1).to_parquet(folder / "samples.parquet")
    assert run(*base, "--out", tmp_path / "x") == 2
    assert "all samples are of one class" in capsys.readouterr().err


def test_ctrl_c_leaves_nothing_half_written(tmp_path, monkeypatch, capsys):
    simulate(tmp_path / "set")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.learn.checkpoint.arrays", interrupt)
    assert run("--task", "cropland", "--samples", tmp_path / "set", "--out", tmp_path / "x",
               "--no-evaluate", "--quiet", *TINY) == 130
    assert not (tmp_path / "x").exists()


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/points is not there")
def test_real_points_are_told_apart_better_than_by_their_season(tmp_path, capsys):
    assert run("--task", "cropland", "--samples", REAL / "itu_cropland", "--sensors", "s2",
               "--out", tmp_path / "x", "--folds", 1, "--json", "--quiet", *TINY) == 0
    got = json.loads(capsys.readouterr().out)["scores"]
    assert got["mdico"]["s2"]["mean"] > 0.75
    assert got["mdico"]["s2"]["mean"] > got["no-satellite"]["s2"]["mean"] + 0.1
