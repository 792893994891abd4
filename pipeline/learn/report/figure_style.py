"""One look for all figures: colours that colour-blind readers tell apart, plain axes, PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pipeline.data.files import replacing
from pipeline.learn.recipe import TREES, Row
from pipeline.learn.report.naming import encoder_title, method_title

# Okabe & Ito 2008, "Color universal design"; yellow is left out, it is too pale for lines
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
INK, GREY, PALE = "#222222", "#777777", "#DDDDDD"
_DPI = 150


def panels(
    rows: int, columns: int, width: float, height: float, *, sharey: bool = False
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of equal panels.

    Args:
        rows, columns: of panels.
        width, height: of one panel, inches.
        sharey: whether all panels have one vertical axis.
    """
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    for ax in grid.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(which="both", labelsize=7, colors=INK)
        ax.xaxis.label.set_fontsize(8)
        ax.yaxis.label.set_fontsize(8)
    return figure, [list(line) for line in grid]


def save(figure: Figure, path: Path, title: str, below: str) -> Path:
    """Write a PNG whole or not at all.

    Args:
        figure: finished but for these.
        path: of the PNG.
        title: first line.
        below: what must be known to read it (the protocol), in small print.
    """
    for ax in figure.axes:
        ax.title.set_fontsize(9)
    figure.suptitle(title, fontsize=10, color=INK)
    small = _wrapped(below.replace("`", ""), figure.get_size_inches()[0])
    figure.supxlabel(small, fontsize=6.5, color=GREY)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=_DPI, format="png", facecolor="white")
    return path


def label(row: Row, rows: Sequence[Row]) -> str:
    """Name of a row, with its encoder where the table has several."""
    several = len({r.encoder for r in rows}) > 1 and row.method not in TREES
    return method_title(row) + (f", {encoder_title(row.encoder)}" if several else "")


def colour(row: Row) -> str:
    """By kind: MDiCo and its variants, Individual, trees, others."""
    if row.method.startswith("mdico"):
        return COLOURS[1]
    if row.method in TREES:
        return COLOURS[2]
    return INK if row.method == "individual" else COLOURS[0]


def chosen(rows: Sequence[Row], most: int) -> list[Row]:
    """The rows that get a panel: Individual and MDiCo first, of the first encoder before others."""
    encoders = list(dict.fromkeys(r.encoder for r in rows))
    return sorted(rows, key=lambda r: (r.text not in ("individual", "mdico"),
                                       encoders.index(r.encoder)))[:most]


def _wrapped(text: str, inches: float) -> str:
    """Lines that fit below a figure of that width (about 20 small letters an inch)."""
    lines, room = [""], int(inches * 20)
    for word in text.split():
        if len(lines[-1]) + len(word) > room:
            lines.append("")
        lines[-1] += f"{word} "
    return "\n".join(line.strip() for line in lines)
