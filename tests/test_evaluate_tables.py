"""Tables of an evaluation: significance, standings, ceilings."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import f1_score, r2_score

from models.registry import METHODS
from pipeline.learn.cell import Split
from pipeline.learn.recipe import parse_row
from pipeline.learn.report.ceiling import label_noise, own_place
from pipeline.learn.report.naming import field_title, method_title
from pipeline.learn.report.scoring import COLUMNS
from pipeline.learn.report.significance import compare, corrected_t
from pipeline.learn.report.standings import Standings
from pipeline.learn.report.tabulate import grid, main_table, measures_table, report, shares_table
from pipeline.spec.tasks import task
from tests.support.evaluation import toy_table

LFMC, CROPLAND = task("lfmc"), task("cropland")


def test_the_corrected_t_of_a_worked_example():
    # d = 1, 2, 3, 4: mean 2.5, s^2 = 5/3; ten folds: 1/J + 1/9 = 0.25 + 0.1111
    # t = 2.5 / sqrt(0.36111 * 1.66667) = 2.5 / 0.775792 = 3.22251, 3 degrees of freedom
    p = corrected_t(np.array([1.0, 2, 3, 4]), 1 / 9)
    assert p == pytest.approx(2 * stats.t.sf(3.22251, 3), rel=1e-4)
    assert p == pytest.approx(0.0485, abs=1e-4)


def test_without_correction_it_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.1, 1, 20), rng.normal(0, 1, 20)
    assert corrected_t(a - b, 0.0) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert corrected_t(a - b, 1 / 9) > stats.ttest_rel(a, b).pvalue


def test_the_correction_keeps_the_false_alarms_of_overlapping_folds_down():
    # two methods alike, whose differences in two folds correlate with n_test / (n_test + n_train)
    rng = np.random.default_rng(1)
    plain = corrected = 0
    for _ in range(400):
        d = math.sqrt(0.1) * rng.normal() + math.sqrt(0.9) * rng.normal(size=50)
        corrected += corrected_t(d, 1 / 9) < 0.05
        plain += stats.ttest_1samp(d, 0).pvalue < 0.05
    assert corrected / 400 < 0.08
    assert plain / 400 > 0.3


def test_wilcoxon_and_wins():
    a = np.array([0.5, 0.6, 0.7, 0.4, 0.5, 0.9, 0.8, 0.3])
    b = np.array([0.4, 0.4, 0.4, 0.5, 0.5, 0.5, 0.3, 0.9])
    c = compare(a, b, 1 / 9)
    assert c.folds == 8
    assert c.wins == 5.5  # one tie
    assert c.difference == pytest.approx(np.mean(a - b))
    assert c.p_wilcoxon == pytest.approx(stats.wilcoxon(a, b, zero_method="pratt").pvalue)


def test_degenerate_comparisons():
    same = np.array([0.5, 0.6])
    assert compare(same, same, 0.1).p_t == 1.0
    assert compare(same, same, 0.1).p_wilcoxon == 1.0
    assert compare(same + 0.5, same, 0.1).p_t < 1e-12
    assert corrected_t(np.array([0.5, 0.5]), 0.1) == 0.0  # no spread at all
    assert math.isnan(compare(same[:1], same[:1] + 1, 0.1).p_t)
    assert compare(np.array([]), np.array([]), 0.1).folds == 0


def standings(values, sensors=("s1",), **options):
    """Standings of ``{row: scores of the folds}``, the same for every sensor."""
    rows = tuple(parse_row(text) for text in values)
    lines = [{"benchmark": "toy", "protocol": "site", "method": r.method,
              "switches": "+".join(r.switches),
              "encoder": "" if r.method == "extra-trees" else r.encoder, "sensor": sensor,
              "share": 1.0, "seed": k // 4, "fold": k % 4, "metric": "R2", "value": v, "n": 30,
              "epochs": 5.0, "cpu_seconds": 1.0}
             for r in rows for k, v in enumerate(values[r.text]) for sensor in sensors]
    frame = pd.DataFrame(lines, columns=list(COLUMNS)).astype({"fold": "Int64"})
    return Standings(frame, rows, "R2", tuple(sensors), 1 / 3, **options)


FOUR = {
    "individual": [0.1, 0.2, 0.3, 0.4], "mdico": [0.2, 0.3, 0.4, 0.3],
    "individual+season": [0.4, 0.4, 0.4, 0.4], "mdico+season": [0.5, 0.5, 0.5, 0.5],
    "extra-trees": [0.3, 0.3, 0.3, 0.4],
}


def test_mean_and_sample_standard_deviation():
    mean, std = standings(FOUR).mean(parse_row("individual"), "s1")
    assert mean == pytest.approx(0.25)
    assert std == pytest.approx(np.std([0.1, 0.2, 0.3, 0.4], ddof=1))


def test_a_row_is_compared_with_the_reference_that_has_its_switches():
    s = standings(FOUR)
    reference = {r.text: getattr(s.reference(r, "individual"), "text", None) for r in s.rows}
    assert reference == {
        "individual": None, "mdico": "individual", "individual+season": "individual",
        "mdico+season": "individual+season", "extra-trees": "individual",
    }
    assert s.reference(s.rows[3], "mdico").text == "mdico"
    assert s.reference(s.rows[3], "extra-trees").text == "extra-trees"
    assert s.reference(s.rows[3], "dml") is None


def test_the_reference_has_as_many_of_the_rows_switches_as_there_are():
    s = standings({t: [0.1, 0.2, 0.3, 0.4] for t in (
        "no-satellite", "no-satellite+location", "mdico", "mdico+location", "mdico+cv5",
        "mdico+cv5+forest+location", "extra-trees", "individual+stop5")})
    reference = {r.text: getattr(s.reference(r, "no-satellite"), "text", None) for r in s.rows}
    assert reference["mdico+cv5"] == "no-satellite"
    assert reference["mdico+cv5+forest+location"] == "no-satellite+location"
    assert reference["no-satellite+location"] == "no-satellite"
    # one switch at a time within a method: not against another combination
    assert s.reference(parse_row("mdico+cv5+forest+location"), "mdico").text == "mdico"
    # a switch that the row lacks is no fair reference
    assert s.reference(parse_row("mdico"), "individual") is None


def test_of_several_references_the_one_that_was_stopped_alike_counts():
    s = standings({t: [0.1, 0.2, 0.3, 0.4] for t in (
        "individual+season", "individual+stop5", "mdico+season+stop5", "individual")})
    assert s.reference(s.rows[2], "individual").text == "individual+stop5"
    # a switch of the reference as it was asked for is never given up
    assert s.reference(parse_row("mdico+stop5"), "individual+season").text == "individual+season"
    assert s.reference(parse_row("mdico"), "mdico+season") is None


def test_the_permutation_is_told_what_is_compared():
    asked = []

    class Swaps:
        def p(self, *what):
            asked.append((what[0].text, what[1], what[2].text, *what[3:]))
            return 0.5

    s = standings({k: FOUR[k] for k in ("individual", "mdico")}, sensors=("s1",))
    fused = s.frame.sensor.where(s.frame.method != "individual", "all")
    few = s.frame.assign(share=0.5)
    frame = pd.concat([s.frame, few]).assign(sensor=pd.concat([fused, fused]))
    replace(s, frame=frame, places=Swaps()).against(s.rows[1], s.rows[0], "s1")
    assert asked == [("mdico", "s1", "individual", "all", 1.0)]


def test_both_p_values_stand_in_the_table():
    class Swaps:
        def p(self, row, sensor, reference, theirs, share):
            return {"mdico": 0.0005, "extra-trees": 0.25}[row.method]

    s = standings({k: FOUR[k] for k in ("individual", "mdico", "extra-trees")})
    plain = main_table(s, "individual", {}, {})
    assert "(p 0.559; 3/4)" in plain
    table = main_table(replace(s, places=Swaps()), "individual", {}, {})
    assert "(p 0.559, p < 0.001; 3/4)" in table
    assert ", p 0.250; " in table
    # of one fold there is no t-test: its place says so
    one = replace(s, frame=s.frame[s.frame.fold == 0], places=Swaps())
    assert "(–, p < 0.001; 1/1)" in main_table(one, "individual", {}, {})
    kept = replace(s, places=Swaps()).comparisons(["individual"]).set_index("method").p_places
    assert kept.to_dict() == {"mdico": 0.0005, "extra-trees": 0.25}


def test_comparisons_pair_the_folds():
    s = standings(FOUR)
    # one fold of Individual is not scored: the other three count
    frame = s.frame[~((s.frame.method == "individual") & (s.frame.switches == "")
                      & (s.frame.fold == 3))]
    c = replace(s, frame=frame).against(parse_row("mdico"), parse_row("individual"), "s1")
    assert (c.folds, c.wins) == (3, 3)
    assert c.difference == pytest.approx(0.1)
    table = s.comparisons(["individual"])
    assert set(table.against) == {"individual", "individual+season"}
    assert len(table) == 4


def test_given_folds_are_averaged_over_the_seeds_before_they_are_compared():
    values = {"individual": [0.1, 0.2, 0.3, 0.4] * 2,
              "mdico": [0.3, 0.1, 0.3, 0.6, 0.1, 0.5, 0.3, 0.6]}
    own, drawn = (standings(values, given=g).against(
        parse_row("mdico"), parse_row("individual"), "s1") for g in (True, False))
    assert (own.folds, drawn.folds) == (4, 8)
    assert own.wins == 3.5  # means of mdico: 0.2, 0.3, 0.3, 0.6
    assert own.p_t == pytest.approx(corrected_t(np.array([0.1, 0.1, 0, 0.2]), 1 / 3))


def test_the_table_marks_best_and_second_and_explains_empty_rows():
    s = standings({**FOUR, "anysat": []}, sensors=("s1", "l8"))
    lines = main_table(s, "individual", {("anysat", "tempcnn"): "no | weights"},
                       {"s1": (0.7, 0.1)}).splitlines()
    assert lines[0] == ("| Method | Field | Sentinel-1 | vs individual | Landsat 8 | "
                        "vs individual |")
    cells = [[c.strip() for c in line.replace("\\|", "/").strip("|").split("|")]
             for line in lines]
    assert {len(c) for c in cells} == {6}
    by_name = {c[0]: c for c in cells}
    assert by_name["MDiCo + season"][2] == "**0.500** ± 0.000"
    assert by_name["Individual + season"][2] == "<u>0.400</u> ± 0.000"
    assert by_name["MDiCo"][2] == "0.300 ± 0.082"
    assert by_name["MDiCo"][3].startswith("+0.050 (p 0.")
    assert by_name["MDiCo"][3].endswith("; 3/4)")
    assert by_name["Individual"][3] == "reference"
    assert by_name["AnySat*"][2] == "– no / weights"
    assert by_name["*Own place*"][2:] == ["*0.700 ± 0.100*", "", "*–*", ""]


def test_equal_means_share_the_mark():
    s = standings({"individual": [0.3, 0.3], "mdico": [0.3, 0.3], "dml": [0.2, 0.2]})
    text = main_table(s, "individual", {}, {})
    assert text.count("**0.300**") == 2
    assert text.count("<u>0.200</u>") == 1


def test_what_uses_all_sensors_stands_in_a_column_of_its_own_and_is_no_rival():
    s = standings(FOUR)
    fused = s.frame[s.frame.method == "extra-trees"].assign(
        method="mmgf", encoder="tempcnn", sensor="all", value=0.9)
    s = replace(s, frame=pd.concat([s.frame, fused]), rows=(*s.rows, parse_row("mmgf")))
    head, _, *lines = main_table(s, "individual", {}, {}).splitlines()
    assert head.endswith("| vs individual | All sensors |")
    assert lines[-1] == "| MMGF | Multi-modal fusion | – | – | 0.900 ± 0.000 |"
    assert "**0.500**" in lines[3]
    # a reference that knows nothing but "all" stands for every sensor
    assert s.against(s.rows[1], s.rows[-1], "s1").difference == pytest.approx(-0.6)


def test_a_table_without_any_score_is_still_a_table():
    s = standings({"anysat": [], "omnisat": []})
    text = report(s, title="T", protocol="protocol x", against=("individual",),
                  empty={("anysat", "tempcnn"): "no weights", ("omnisat", "tempcnn"): "neither"},
                  place={}, noise=None, unit="")
    assert "no weights" in text
    assert "Other measures" not in text
    assert "vs individual |" not in text


def test_the_protocol_stands_under_every_table():
    table = toy_table()
    s = standings(FOUR)
    more = s.frame.assign(metric="RMSE", value=20.0)
    half = s.frame.assign(share=0.5, value=s.frame.value / 2)
    s = replace(s, frame=pd.concat([s.frame, more, half]))
    text = report(s, title="Toy", protocol="protocol `site`: made up", empty={},
                  against=("individual", "mdico"), place={}, noise=label_noise(table), unit="%",
                  regions=("a", "b", "c", "d"))
    assert text.count("Protocol `site`: made up") == 5
    assert "RMSE ↓, Sentinel-1" in measures_table(s, {})
    assert "0.125 ± 0.065 | 0.250 ± 0.129" in shares_table(s, {})
    assert "| Individual | 0.100 | 0.200 | 0.300 | 0.400 |" in text


def test_markdown_cells_cannot_break_the_grid():
    assert grid(["a", "b"], [["x|y"]]) == "| a | b |\n|---|---|\n| x\\|y |  |"


def test_a_rival_of_ones_own_names_its_field(monkeypatch):
    class Toy:
        TITLE, FIELD = "Toy net", "Playing"

    monkeypatch.setitem(METHODS, "toy", Toy)
    row = parse_row("toy+season")
    assert method_title(row) == "Toy net + season"
    assert field_title(row) == "Playing"
    assert method_title(parse_row("mdico-only-shared")) == "→ shared features"


# ---- ceilings


def test_the_noise_bound_finds_the_noise_that_was_put_in():
    rng = np.random.default_rng(0)
    table = toy_table(n=1200, places=60)
    place = rng.normal(0, 30, 60)[table.groups]
    noise = rng.normal(0, 10, 1200)
    found = label_noise(replace(table, target=100 + place + noise))
    assert found is not None
    assert found.std == pytest.approx(10, rel=0.05)
    assert found.r2 == pytest.approx(1 - 100 / np.var(place + noise), abs=0.02)


def test_the_noise_bound_of_two_labels_by_hand_and_where_there_is_none():
    # 110 places with labels 0 and 2 in the same month: semivariance 2, variance 1 -> R2 -1
    table = toy_table(n=220, places=110)
    table = replace(table, target=np.repeat([0.0, 2.0], 110), months=np.full((220, 4), 24000))
    found = label_noise(table)
    assert (found.months, found.pairs) == (0, 110)
    assert found.std == pytest.approx(math.sqrt(2))
    assert found.r2 == pytest.approx(-1)
    assert label_noise(replace(table, groups=np.arange(220))) is None
    assert label_noise(toy_table("cropland")) is None


def test_the_own_place_knows_the_other_labels_and_never_its_own():
    table = toy_table(n=24, places=12)
    y = np.r_[np.arange(12.0), np.arange(12.0) + 2]  # place k: k and k + 2
    table = replace(table, target=y)
    split = Split(0, 0, 1, np.zeros(24, bool), np.ones(24, bool), "site")
    split = replace(split, train=np.arange(24) < 2)  # only asked of places without others
    said = np.r_[np.arange(12.0) + 2, np.arange(12.0)]
    mean, _ = own_place(table, [split])["s1"]
    assert mean == pytest.approx(r2_score(y, said))
    alone = own_place(replace(table, groups=np.arange(24)), [split])["s1"][0]
    assert alone == pytest.approx(r2_score(y, np.full(24, 0.5)))  # mean of the training samples


def test_the_own_place_of_classes_takes_the_vote_of_the_others():
    table = toy_table("cropland", n=24, places=8)  # three samples a place
    y = np.r_[np.tile([0, 1], 4), np.tile([0, 1], 4), np.tile([0, 0], 4)]
    table = replace(table, target=y)
    split = Split(0, 0, 1, np.ones(24, bool), np.ones(24, bool), "site")
    # even places: all 0; odd ones: 1, 1, 0 -> each 1 sees {1, 0}, a tie that goes to 0; 0 sees 1, 1
    said = np.r_[np.zeros(8), np.zeros(8), np.tile([0, 1], 4)].astype(int)
    assert own_place(table, [split])["s1"][0] == pytest.approx(
        f1_score(y, said, average="weighted"))
