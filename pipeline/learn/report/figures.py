"""Figures beside the tables: scores, learning curve, losses; features and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from pipeline.learn.fit import FUSED, VALIDATION
from pipeline.learn.recipe import Row
from pipeline.learn.report.figure_style import (
    COLOURS,
    GREY,
    INK,
    MARKERS,
    PALE,
    chosen,
    colour,
    label,
    panels,
    save,
)
from pipeline.learn.report.figures_of_cells import calibration_figure, features_figure
from pipeline.learn.report.naming import sensor_title
from pipeline.learn.report.scoring import Done
from pipeline.learn.report.standings import Standings
from pipeline.spec.tasks import Task

_MOST_PANELS = 6
_WIDE = 30  # a larger ratio of losses is drawn on a logarithmic axis
_TOTAL = "total"  # the sum of the others


@dataclass(frozen=True)
class Picture:
    """What the figures are of.

    Attributes:
        title: of the benchmark.
        protocol: in words, printed below each figure.
        standings: scores.
        done: cells.
        task: of the benchmark.
        target: of all rows.
    """

    title: str
    protocol: str
    standings: Standings
    done: Sequence[Done]
    task: Task
    target: np.ndarray


def write_figures(folder: Path, picture: Picture) -> list[Path]:
    """Write all figures that there is something to show for; returns their paths."""
    s, below = picture.standings, picture.protocol
    full = [d for d in picture.done if d.share == s.shares[-1]]
    rows = [r for r in s.rows if any(np.isfinite(s.mean(r, k)[0]) for k in (*s.sensors, FUSED))]
    paths = []
    if rows:
        paths.append(scores_figure(folder / "scores.png", s, rows, picture.title, below))
    if rows and len(s.shares) > 1:
        paths.append(shares_figure(folder / "learning_curve.png", s, rows, picture.title, below))
    if trained := [r for r in rows if _cells(full, r)[0].cell.history]:
        paths.append(losses_figure(folder / "losses.png", full, trained, rows, picture.title,
                                   below))
    for made in (
        features_figure(folder / "features.png", full, rows, picture.task, picture.target,
                        picture.title, below),
        calibration_figure(folder / "reliability.png", full, rows, picture.task, picture.target,
                           picture.title, below),
    ):
        paths += [made] if made else []
    return paths


def scores_figure(
    path: Path, s: Standings, rows: Sequence[Row], title: str, below: str
) -> Path:
    """Score of each row, a panel a sensor; bars are the standard deviation over the folds."""
    sensors = (*s.sensors, *([FUSED] if s.fused else []))
    figure, ((*axes,),) = panels(1, len(sensors), 3.4, 1.3 + 0.27 * len(rows), sharey=True)
    at = np.arange(len(rows))
    for ax, sensor in zip(axes, sensors, strict=True):
        found = [s.mean(row, sensor) for row in rows]
        base = next((m for row, (m, _) in zip(rows, found, strict=True)
                     if row.method == "individual"), np.nan)
        if np.isfinite(base):
            ax.axvline(base, color=GREY, lw=0.8, ls="--", zorder=0)
        for y, (row, (mean, std)) in enumerate(zip(rows, found, strict=True)):
            if np.isfinite(mean):
                ax.errorbar(mean, y, xerr=std, fmt="o", ms=4, lw=1.2, capsize=2,
                            color=colour(row))
                ax.annotate(f"{mean:.3f}", (mean, y), (0, 4), textcoords="offset points",
                            ha="center", fontsize=6, color=INK,
                            path_effects=[withStroke(linewidth=2, foreground="white")])
        ax.set_title(sensor_title(sensor))
        ax.set_xlabel(f"{s.metric}, mean ± standard deviation")
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.grid(axis="y", color=PALE, lw=0.5)
        ax.set_axisbelow(True)
    axes[0].set_yticks(at, [label(row, rows) for row in rows])
    axes[0].set_ylim(len(rows) - 0.4, -0.8)
    if any(row.method == "individual" for row in rows):
        below = f"Dashed: the first row of Individual. {below}"
    return save(figure, path, f"{title}: score by method and sensor", below)


def shares_figure(
    path: Path, s: Standings, rows: Sequence[Row], title: str, below: str
) -> Path:
    """Score against the share of the training samples, a panel a sensor."""
    rows = chosen([r for r in rows if any(np.isfinite(s.mean(r, k)[0]) for k in s.sensors)],
                  len(COLOURS))
    figure, ((*axes,),) = panels(1, len(s.sensors), 3.6, 3.2)
    shares = np.array(s.shares)
    for ax, sensor in zip(axes, s.sensors, strict=True):
        for k, row in enumerate(rows):
            found = np.array([s.mean(row, sensor, share=float(x)) for x in shares])
            shift = 1 + 0.012 * (k - (len(rows) - 1) / 2)  # bars beside each other
            ax.errorbar(shares * shift, found[:, 0], yerr=found[:, 1], fmt=f"-{MARKERS[k]}", ms=4,
                        lw=1.2, elinewidth=0.7, capsize=2, color=COLOURS[k],
                        label=label(row, rows))
        ax.set_xscale("log")
        ax.set_xticks(shares, [f"{x:.0%}" for x in shares])
        ax.minorticks_off()
        ax.set_title(sensor_title(sensor))
        ax.set_xlabel("share of the training samples")
    axes[0].set_ylabel(f"{s.metric}, mean ± standard deviation")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=7,
                  frameon=False)
    return save(figure, path, f"{title}: learning curve", below)


def losses_figure(
    path: Path, done: Sequence[Done], rows: Sequence[Row], all_rows: Sequence[Row], title: str,
    below: str,
) -> Path:
    """Each loss over the epochs, mean over the folds, a panel a row (the paper's Figure 5)."""
    shown = chosen(rows, _MOST_PANELS)
    names = dict.fromkeys(n for row in shown for d in _cells(done, row) for n in d.cell.history)
    parts = [n for n in names if n not in (VALIDATION, _TOTAL)]
    columns = min(3, len(shown))
    figure, grid = panels(-(-len(shown) // columns), columns, 3.2, 2.5)
    axes = [ax for line in grid for ax in line]
    for ax in axes[len(shown):]:
        ax.set_visible(False)
    for ax, row in zip(axes, shown, strict=False):
        cells = _cells(done, row)
        for k, name in enumerate(parts):
            _curve(ax, cells, name, COLOURS[k % len(COLOURS)], "-")
        _curve(ax, cells, VALIDATION, INK, "--")
        ax.axvline(float(np.median([d.cell.epochs for d in cells])), color=GREY, lw=0.8, ls=":")
        ax.set_title(label(row, all_rows))
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.set_ylabel("loss")
        low, high = ax.dataLim.intervaly
        if low > 0 and high / low > _WIDE:
            ax.set_yscale("log")
    handles = {line.get_label(): line for ax in axes for line in ax.lines
               if not str(line.get_label()).startswith("_")}
    figure.legend(handles=list(handles.values()), loc="outside right center", fontsize=7,
                  frameon=False)
    return save(figure, path, f"{title}: losses in training",
                f"Mean over the folds, as long as half of them still train; dotted: median of the "
                f"epochs that the weights took. {below}")


def _curve(ax: Axes, cells: Sequence[Done], name: str, colour: str, style: str) -> None:
    series = [d.cell.history[name] for d in cells if name in d.cell.history]
    if not series:
        return
    length = int(np.median([len(x) for x in series]))
    padded = np.full((len(series), length), np.nan)
    for line, x in zip(padded, series, strict=True):
        line[: len(x)] = x[:length]
    ax.plot(np.arange(1, length + 1), np.nanmean(padded, 0), style, color=colour, lw=1.2,
            label=name)


def _cells(done: Sequence[Done], row: Row) -> list[Done]:
    return [d for d in done if (d.row.text, d.row.encoder) == (row.text, row.encoder)]
