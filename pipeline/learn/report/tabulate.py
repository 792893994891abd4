"""Markdown tables laid out like the paper's Tables 2 to 7, with what they leave out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.learn.fit import FUSED
from pipeline.learn.recipe import TREES, Row
from pipeline.learn.report.ceiling import LabelNoise
from pipeline.learn.report.naming import encoder_title, field_title, method_title, sensor_title
from pipeline.learn.report.scoring import LOWER_IS_BETTER
from pipeline.learn.report.standings import Standings

EMPTY = "–"
Key = tuple[str, str]  # text and encoder of a row
_ALL = ("All sensors: of rows that predict from one sensor at a time, the mean of the sensors' "
        "predictions. ")
_PLACE = ("Own place: mean or most frequent of the place's other labels, held-out ones included; "
          "what a method can gain by recognising the place. ")


def main_table(
    standings: Standings, against: str, empty: Mapping[Key, str],
    place: Mapping[str, tuple[float, float]],
) -> str:
    """Method, field, and per sensor score and comparison with a reference.

    Args:
        standings: scores.
        against: text of the reference, e.g. ``individual``.
        empty: why a row has no score.
        place: per sensor mean and standard deviation of the last line, which is no rival: what it
            is worth to recognise the place (``ceiling.own_place``).
    """
    encoders = len({r.encoder for r in standings.rows}) > 1
    sensors = (*standings.sensors, *([FUSED] if standings.fused else []))
    compared = any(r.method == against.split("+")[0] for r in standings.rows)
    head = ["Method", "Field", *(["Encoder"] if encoders else [])]
    for sensor in sensors:
        head.append(sensor_title(sensor))
        if compared and sensor != FUSED:
            head.append(f"vs {against}")
    lines = []
    for row in standings.rows:
        line = [method_title(row), field_title(row)]
        if encoders:
            line.append("" if row.method in TREES else encoder_title(row.encoder))
        if (row.text, row.encoder) in empty:
            line.append(f"{EMPTY} {empty[row.text, row.encoder]}")
        else:
            for sensor in sensors:
                line.append(score_cell(standings, row, sensor))
                if compared and sensor != FUSED:
                    line.append(_compared(standings, row, sensor, against))
        lines.append(line)
    if place:
        line = ["*Own place*", "*Reference: the place's other labels*",
                *([""] if encoders else [])]
        for sensor in standings.sensors:
            mean, std = place.get(sensor, (math.nan, math.nan))
            line += [f"*{_number(mean, std)}*", *([""] if compared else [])]
        lines.append(line)
    return grid(head, lines)


def measures_table(standings: Standings, empty: Mapping[Key, str]) -> str:
    """Means of every other measure, per sensor (RMSE, accuracy, calibration, pooled scores)."""
    metrics = [m for m in standings.frame.metric.unique() if m != standings.metric]
    encoders = len({r.encoder for r in standings.rows}) > 1
    sensors = (*standings.sensors, *([FUSED] if standings.fused else []))
    pairs = [(m, s) for m in metrics for s in sensors]
    lines = []
    for row in standings.rows:
        if (row.text, row.encoder) in empty:
            continue
        values = [standings.mean(row, s, m)[0] for m, s in pairs]
        if not np.isfinite(values).any():
            continue
        name = method_title(row)
        if encoders and row.method not in TREES:
            name += f", {encoder_title(row.encoder)}"
        lines.append([name, *(_plain(v) for v in values)])
    if not lines:
        return ""
    down = dict.fromkeys(LOWER_IS_BETTER, " ↓")
    return grid(["Method", *(f"{m}{down.get(m, '')}, {sensor_title(s)}" for m, s in pairs)], lines)


def shares_table(standings: Standings, empty: Mapping[Key, str]) -> str:
    """Scores with a part of the training samples: the learning curve."""
    pairs = [(sensor, share) for sensor in standings.sensors for share in standings.shares]
    lines = []
    for row in standings.rows:
        if (row.text, row.encoder) not in empty:
            cells = [_number(*standings.mean(row, sensor, share=share)) for sensor, share in pairs]
            if any(c != EMPTY for c in cells):
                lines.append([method_title(row), *cells])
    return grid(["Method", *(f"{sensor_title(s)}, {share:.0%}" for s, share in pairs)], lines)


def regions_table(
    standings: Standings, regions: Sequence[str], empty: Mapping[Key, str]
) -> str:
    """Scores of each region that was held out."""
    pairs = [(sensor, k) for sensor in standings.sensors for k in range(len(regions))]
    lines = []
    for row in standings.rows:
        if (row.text, row.encoder) not in empty:
            by_fold = {sensor: standings.folds(row, sensor).groupby("fold").mean()
                       for sensor in standings.sensors}
            lines.append([method_title(row),
                          *(_plain(float(by_fold[s].get(k, math.nan))) for s, k in pairs)])
    return grid(["Method", *(f"{sensor_title(s)}, {regions[k]}" for s, k in pairs)], lines)


def report(
    standings: Standings, *, title: str, protocol: str, against: Sequence[str],
    empty: Mapping[Key, str], place: Mapping[str, tuple[float, float]],
    noise: LabelNoise | None, unit: str, regions: Sequence[str] = (),
) -> str:
    """All tables of one benchmark as Markdown; the protocol stands under each of them.

    Args:
        standings: scores.
        title: of the benchmark.
        protocol: in words.
        against: references; the main table is repeated for each.
        empty: why a row has no score.
        place: see ``main_table``.
        noise: in the labels, where it could be estimated.
        unit: of the target.
        regions: what each fold holds out; empty where folds have no names.
    """
    parts = [f"# {title}"]
    for name in against:
        parts.append(f"## {standings.metric}, compared with `{name}`")
        parts.append(main_table(standings, name, empty, place))
        if name != against[0]:
            parts.append(f"vs {name}: as above. {_sentence(protocol)}")
            continue
        parts.append(f"{standings.metric}, mean ± standard deviation over the folds; **best**, "
                     f"<u>second best</u>. vs {name}: mean difference in the same folds "
                     "(first p of the corrected resampled t-test over the folds, "
                     "doi:10.1023/A:1024068626366, second p of the paired permutation of places, "
                     "arXiv:cs/0008005, which takes the trained models as given; folds won); the "
                     "reference has as many of the row's own switches as the table has (of the "
                     "row's own method: all or none), as comparisons.csv names it. "
                     + _ALL * standings.fused + _PLACE * bool(place)
                     + _sentence(protocol))
    if noise is not None:
        parts.append(
            f"Noise in the labels: {noise.pairs} pairs of labels of one place, {noise.months} "
            f"months apart, bound its standard deviation to {noise.std:.3g} {unit}. Noise alone "
            f"thus leaves room for a pooled R2 of {noise.r2:.2f}; what is missing below that is "
            "not known from the inputs, or not yet learnt.")
    if other := measures_table(standings, empty):
        parts += ["## Other measures", other,
                  "Means over the folds; *pooled* = over all held-out rows of a seed. ↓ = less is "
                  "better. " + _sentence(protocol)]
    if regions:
        parts += ["## By region held out", regions_table(standings, regions, empty),
                  f"{standings.metric} of each region, mean over the seeds. " + _sentence(protocol)]
    if len(standings.shares) > 1:
        parts += ["## Learning curve", shares_table(standings, empty),
                  f"{standings.metric} with a share of the training samples. "
                  + _sentence(protocol)]
    return "\n\n".join(parts) + "\n"


def score_cell(standings: Standings, row: Row, sensor: str) -> str:
    """``mean ± std``, best bold and second best underlined; what uses all sensors is no rival."""
    mean, std = standings.mean(row, sensor)
    text = _number(mean, std)
    if sensor == FUSED or not math.isfinite(mean):
        return text
    best, second = standings.ranked(sensor)
    if round(mean, 3) == best:
        return text.replace(f"{mean:.3f}", f"**{mean:.3f}**", 1)
    if round(mean, 3) == second:
        return text.replace(f"{mean:.3f}", f"<u>{mean:.3f}</u>", 1)
    return text


def grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; short lines are filled up, bars in the text are escaped."""
    full = [[*(c.replace("|", "\\|") for c in line), *[""] * (len(head) - len(line))]
            for line in (head, *lines)]
    rows = ["| " + " | ".join(line) + " |" for line in full]
    return "\n".join([rows[0], "|---" * len(head) + "|", *rows[1:]])


def _compared(standings: Standings, row: Row, sensor: str, against: str) -> str:
    reference = standings.reference(row, against)
    if reference is None:
        return "reference" if row.method == against.split("+")[0] else EMPTY
    c = standings.against(row, reference, sensor)
    if c.folds == 0:
        return EMPTY
    values = (c.p_t,) if standings.places is None else (c.p_t, c.p_places)
    p = ", ".join(EMPTY if math.isnan(v) else _p(v) for v in values)
    return f"{c.difference:+.3f} ({p}; {c.wins:g}/{c.folds})"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p {value:.3f}"


def _number(mean: float, std: float) -> str:
    return f"{mean:.3f} ± {std:.3f}" if math.isfinite(mean) else EMPTY


def _plain(value: float) -> str:
    return EMPTY if not math.isfinite(value) else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
