"""Figures of the predictions themselves: features in two dimensions, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from sklearn.manifold import TSNE

from pipeline.learn.fit import FUSED
from pipeline.learn.recipe import Row
from pipeline.learn.reliability import reliability
from pipeline.learn.report.figure_style import (
    COLOURS,
    GREY,
    MARKERS,
    PALE,
    chosen,
    label,
    panels,
    save,
)
from pipeline.learn.report.naming import sensor_title
from pipeline.learn.report.scoring import Done
from pipeline.spec.tasks import Task

_MOST_POINTS = 400  # of a sensor: more hide each other
_MOST_CLASSES = len(COLOURS) - 1  # the rest is grey
_MOST_PANELS, _MOST_ROWS = 4, 3
_FEWEST_POINTS = 20


def features_figure(
    path: Path, done: Sequence[Done], rows: Sequence[Row], task: Task, target: np.ndarray,
    title: str, below: str,
) -> Path | None:
    """t-SNE of held-out features, coloured by the target, a marker a sensor; None if none are kept.

    van der Maaten & Hinton 2008; a panel a row, all its sensors in one embedding, as in the
    paper's Figure 4.
    """
    kept = {(d.row.text, d.row.encoder): d for d in done if _points(d)}
    shown = chosen([r for r in rows if (r.text, r.encoder) in kept], _MOST_PANELS)
    if not shown:
        return None
    columns = min(2, len(shown))
    figure, grid = panels(-(-len(shown) // columns), columns, 3.6, 3.4)
    axes = [ax for line in grid for ax in line]
    for ax in axes[len(shown):]:
        ax.set_visible(False)
    shade, _ = _shades(task, target)
    sensors: dict[str, str] = {}
    for ax, row in zip(axes, shown, strict=False):
        points = _points(kept[row.text, row.encoder])
        flat = np.concatenate([z for z, _ in points.values()])
        xy = TSNE(perplexity=min(30.0, (len(flat) - 1) / 3), init="pca",
                  random_state=0).fit_transform(flat)
        start = 0
        for sensor, (z, at) in points.items():
            sensors.setdefault(sensor, MARKERS[len(sensors) % len(MARKERS)])
            part = xy[start: start + len(z)]
            dots = ax.scatter(part[:, 0], part[:, 1], marker=sensors[sensor], s=11, linewidths=0,
                              alpha=0.8, **shade(at))
            start += len(z)
        ax.set_title(label(row, rows))
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_xlabel("t-SNE 1")
        ax.set_ylabel("t-SNE 2")
    if task.kind == "classification":
        extra = _shades(task, target)[1]
    else:
        extra = []
        name = "labels of a sample" if task.kind == "multilabel" else f"{task.title} ({task.unit})"
        bar = figure.colorbar(dots, ax=axes, shrink=0.8)
        bar.set_label(name, fontsize=8)
        bar.ax.tick_params(labelsize=7)
    handles = [Line2D([], [], ls="", marker=m, color=GREY, ms=5, label=sensor_title(s))
               for s, m in sensors.items()]
    figure.legend(handles=[*handles, *extra], loc="outside right center", fontsize=7,
                  frameon=False)
    return save(figure, path, f"{title}: features of held-out samples",
                f"Test samples of the first fold, at most {_MOST_POINTS} a sensor. {below}")


def calibration_figure(
    path: Path, done: Sequence[Done], rows: Sequence[Row], task: Task, target: np.ndarray,
    title: str, below: str,
) -> Path | None:
    """Accuracy against stated confidence, before and after temperature; None for values."""
    having = [r for r in rows
              if any(set(d.cell.temperature) - {FUSED} for d in _of(done, r))]
    shown = chosen(having, _MOST_ROWS)
    if task.kind != "classification" or not shown:
        return None
    sensors = [s for s in _of(done, shown[0])[0].cell.found if s != FUSED]
    figure, grid = panels(len(shown), len(sensors), 2.9, 2.6)
    for line, row in zip(grid, shown, strict=True):
        for ax, sensor in zip(line, sensors, strict=True):
            _diagram(ax, _of(done, row), sensor, target)
            ax.set_title(f"{label(row, rows)}, {sensor_title(sensor)}")
    return save(figure, path, f"{title}: reliability",
                "Predictions of all folds in bins of confidence, dots by how many; temperature "
                f"from a fold's training part; ECE: expected calibration error. {below}")


def _diagram(ax: Axes, cells: Sequence[Done], sensor: str, target: np.ndarray) -> None:
    found = [(d.cell.found[sensor], d.cell.temperature.get(sensor, 1.0)) for d in cells
             if sensor in d.cell.found and len(d.cell.found[sensor].rows)]
    ax.plot([0, 1], [0, 1], color=PALE, lw=1, zorder=0)
    ax.set_xlim(0, 1.02)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("confidence")
    ax.set_ylabel("accuracy")
    if not found:
        return
    logits = np.concatenate([f.raw for f, _ in found])
    truth = target[np.concatenate([f.rows for f, _ in found])]
    scale = np.concatenate([np.full(len(f.rows), t) for f, t in found])
    for name, t, colour, marker in (("before", 1.0, COLOURS[1], "o"),
                                    ("after", scale, COLOURS[0], "s")):
        r = reliability(logits, truth, t)
        ax.plot(r.confidence, r.accuracy, "-", color=colour, lw=1)
        ax.scatter(r.confidence, r.accuracy, marker=marker, color=colour,
                   s=6 + 60 * r.count / r.count.sum())
        ax.plot([], [], f"-{marker}", color=colour, ms=4, label=f"{name}: ECE {r.ece:.3f}")
    ax.legend(fontsize=7, frameon=False, loc="lower right")


def _points(done: Done) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per sensor features (n, D) of at most so many rows, and those rows; all of one size D."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    rng = np.random.default_rng(0)
    for sensor, z in done.cell.features.items():
        rows = done.cell.found[sensor].rows
        if z.size == 0 or (found and z.shape[1] != next(iter(found.values()))[0].shape[1]):
            continue
        pick = np.sort(rng.permutation(len(z))[:_MOST_POINTS])
        found[sensor] = z[pick], rows[pick]
    return found if sum(len(z) for z, _ in found.values()) >= _FEWEST_POINTS else {}


def _shades(task: Task, target: np.ndarray):
    """Arguments of ``scatter`` for rows, and legend entries of the classes."""
    if task.kind != "classification":
        value = target.sum(1) if task.kind == "multilabel" else target
        low, high = np.nanquantile(value, [0.02, 0.98])
        return lambda rows: {"c": value[rows], "cmap": "viridis", "vmin": low, "vmax": high}, []
    known = target[target >= 0]  # samples without a label are learnt from, and never shown
    common = np.argsort(-np.bincount(known, minlength=len(task.classes)))[:_MOST_CLASSES]
    own = dict(zip(common.tolist(), COLOURS, strict=False))
    names = [shorten(task.classes[k].name, 24, placeholder=" ...") for k in own]
    entries = [Line2D([], [], ls="", marker="o", ms=5, color=c, label=name)
               for name, c in zip(names, own.values(), strict=True)]
    if len(task.classes) > len(own):
        entries.append(Line2D([], [], ls="", marker="o", ms=5, color=PALE, label="other classes"))
    return lambda rows: {"c": [own.get(int(k), PALE) for k in target[rows]]}, entries


def _of(done: Sequence[Done], row: Row) -> list[Done]:
    return [d for d in done if (d.row.text, d.row.encoder) == (row.text, row.encoder)]
