"""What an evaluation writes: tidy scores, comparisons, figures, how it was made."""

import json

import numpy as np
import pandas as pd
import pytest

from pipeline.learn.campaign import run
from pipeline.learn.report import results
from pipeline.learn.report.results import write_results
from tests.support.evaluation import fake_cell, toy_campaign, toy_table


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two made-up evaluations: values, and classes where some samples have no label."""
    found = {}
    for kind in ("lfmc", "cropland"):
        folder, table = tmp_path_factory.mktemp(kind), toy_table(kind)
        if kind == "cropland":
            table.target[-10:] = -1
        campaign = toy_campaign(folder / "cells", "mmgf,individual,mdico,dml,anysat,extra-trees",
                                table=table, shares=(0.5, 1.0))
        outcome = run(campaign, train=fake_cell)
        found[kind] = folder, write_results(
            folder, campaign, outcome, title=f"Toy {kind}", against=("individual", "extra-trees"),
            figures=True, request={"made": "up"})
    return found


def test_scores_are_tidy_and_the_same_in_both_formats(written):
    folder, results = written["lfmc"]
    parquet, csv = pd.read_parquet(folder / "scores.parquet"), pd.read_csv(folder / "scores.csv")
    assert list(parquet) == list(csv)
    assert len(parquet) == len(csv) == len(results.standings.frame)
    np.testing.assert_allclose(parquet.value, csv.value)
    one = csv[(csv.method == "mdico") & (csv.sensor == "s1") & (csv.metric == "R2")
              & (csv["share"] == 1)]
    assert sorted(zip(one.seed, one.fold, strict=True)) == [(s, f) for s in (0, 1)
                                                            for f in range(4)]
    assert f"{one.value.mean():.3f}" in (folder / "table.md").read_text()


def test_the_run_is_described(written):
    folder, _ = written["lfmc"]
    run_json = json.loads((folder / "run.json").read_text())
    rows = {r["row"]: r for r in run_json["rows"]}
    assert rows["dml"]["empty"] == "needs class probabilities"
    assert rows["mdico"]["recipe"]["settings"]["epochs"] == 100
    assert run_json["request"] == {"made": "up"}
    assert {"torch", "numpy", "scipy"} <= set(run_json["packages"])
    assert run_json["folds"] == ["0", "1", "2", "3"]
    assert "Protocol `site`: 4 folds of whole places (24); 2 seeds" in run_json["protocol"]
    assert "120 samples (Sentinel-1 120, Landsat 8 96)" in run_json["protocol"]


def test_comparisons_are_written_for_every_reference(written):
    folder, _ = written["cropland"]
    table = pd.read_csv(folder / "comparisons.csv")
    assert set(table.against) == {"individual", "extra-trees"}
    mine = table[(table.method == "mdico") & (table.against == "individual")]
    assert set(mine.sensor) == {"s1", "l8", "all"}
    assert (mine.folds == 8).all()
    assert mine.p_t.between(0, 1).all()


def test_trees_are_calibrated_in_tables_and_figures(tmp_path, monkeypatch):
    pictures = []
    monkeypatch.setattr(results, "write_figures", lambda _, picture: pictures.append(picture) or [])
    campaign = toy_campaign(tmp_path / "cells", "extra-trees", table=toy_table("cropland"))
    results.write_results(tmp_path, campaign, run(campaign, train=fake_cell), title="Toy",
                          against=(), figures=True, request={})
    csv = pd.read_csv(tmp_path / "scores.csv")
    assert set(csv.sensor[csv.metric == "ECE, temperature"]) == {"s1", "l8", "all"}
    assert all(d.cell.temperature.keys() == d.cell.found.keys() for d in pictures[0].done)


def test_every_figure_is_a_picture_of_some_size(written):
    names = {"scores", "losses", "features", "learning_curve"}
    for kind, extra in (("lfmc", set()), ("cropland", {"reliability"})):
        folder, results = written[kind]
        files = {p.stem: p for p in (folder / "figures").glob("*.png")}
        assert set(files) == names | extra
        assert {f"figure {n}" for n in files} <= set(results.files)
        for path in files.values():
            assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
            assert path.stat().st_size > 10_000
