"""A picture of the map for people: the map, how sure it is, what made it, and how good it is."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from pipeline.data.files import replacing
from pipeline.publish.mosaic import Picture, mosaic, picture_of
from pipeline.spec.layers import NO_QUALITY, NO_SENSOR, OUTSIDE, Layer, layers_of
from pipeline.spec.tasks import Task

_MAX_PX = 1000  # of the picture's raster; the main panel has more dots, so no pixel is dropped
_DPI = 150
_INK, _GREY, _NO_DATA = "#222222", "#666666", "#e6e6e6"
_MAP_COLOURS, _CONFIDENCE_COLOURS = "RdYlBu", "viridis"  # red = dry, blue = moist


@dataclass(frozen=True)
class SheetPreview:
    """One sheet: the folder of its ``<layer>.tif``."""

    folder: Path


def write_preview(
    path: Path, sheets: Sequence[SheetPreview], task: Task, title: str, subtitle: str
) -> None:
    """Write the PNG of a map: all its sheets side by side, pixels as they are (no smoothing).

    Args:
        path: of the PNG.
        sheets: at least one.
        task: what is mapped.
        title: first line.
        subtitle: second line.

    Raises:
        BadRequest: ``path`` cannot be written to.
        DataTrouble: the disk is full or failing.
    """
    mapped, confidence, sensor, _, quality = layers_of(task)
    grid = picture_of([s.folder / f"{sensor.name}.tif" for s in sheets], _MAX_PX)
    values, surety, made_by, trust = (
        mosaic([s.folder / f"{layer.name}.tif" for s in sheets], layer, grid)
        for layer in (mapped, confidence, sensor, quality)
    )
    outside = (made_by == OUTSIDE) & (values == mapped.nodata)

    figure, (main, second, third, fourth) = _panels(grid)
    figure.suptitle(title, x=0.01, ha="left", fontsize=15, weight="bold", color=_INK,
                    parse_math=False)
    _panel(main, grid, values, mapped, outside, _MAP_COLOURS, subtitle)
    _panel(second, grid, surety, confidence, outside, _CONFIDENCE_COLOURS, confidence.title)
    # "none" is shown as no data, as in the other panels
    made_by = np.where(made_by == NO_SENSOR, OUTSIDE, made_by)
    trust = np.where(trust == NO_QUALITY, OUTSIDE, trust)
    _panel(third, grid, made_by, sensor, outside, "", sensor.title)
    _panel(fourth, grid, trust, quality, outside, "", quality.title)
    _scale_bar(main, grid)
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a place name in another script
        figure.savefig(temporary, format="png", dpi=_DPI, facecolor="white", bbox_inches="tight",
                       pad_inches=0.12)


def _panels(grid: Picture) -> tuple[Figure, list[Axes]]:
    """Map beside the three small panels, or above them where the area is wide."""
    aspect = grid.shape[1] / grid.shape[0]
    if aspect < 1.5:
        height = min(max(8.2 / aspect + 0.9, 6.0), 12)
        width = min(max(1.45 * (height - 0.9) * aspect, 6.5), 12.5)
        figure = Figure(figsize=(width, height), layout="constrained")
        cells = figure.add_gridspec(3, 2, width_ratios=[2.4, 1])
        places = [cells[:, 0], *(cells[row, 1] for row in range(3))]
    else:
        height = min(max(14.7 / aspect + 2.2, 6.0), 14)
        figure = Figure(figsize=(11, height), layout="constrained")
        cells = figure.add_gridspec(2, 3, height_ratios=[2.4, 1])
        places = [cells[0, :], *(cells[1, col] for col in range(3))]
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(place) for place in places]


def _panel(
    axes: Axes, grid: Picture, codes: np.ndarray, layer: Layer, outside: np.ndarray,
    colours: str, title: str,
) -> None:
    """One raster over a hatched ground, which shows where there is no data, and its legend."""
    small = layer.name != "map"
    axes.set_title(title, loc="left", fontsize=8 if small else 10, color=_GREY, parse_math=False)
    axes.set_anchor("NW")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor(_NO_DATA)
    axes.patch.set(hatch="//////", edgecolor="#bdbdbd")
    for spine in axes.spines.values():
        spine.set(color="#999999", linewidth=0.6)

    missing = (codes == layer.nodata) & ~outside
    if layer.kind == "classes":
        table = np.zeros((256, 3), np.uint8)
        for c in layer.classes:
            table[c.code] = c.colour
        rgb = table[codes]
        handles = [
            Patch(facecolor=np.divide(c.colour, 255).tolist(), edgecolor="#999999", linewidth=0.4,
                  label=c.name)
            for c in layer.classes if not small or (codes == c.code).any()
        ]
    else:
        value = codes * layer.scale + layer.offset
        shading = ScalarMappable(_limits(value[codes != layer.nodata]), colormaps[colours])
        rgb = shading.to_rgba(value, bytes=True)[..., :3]
        _colour_bar(axes, shading, layer.unit if title == layer.title
                    else f"{layer.title} ({layer.unit})")
        handles = []
    if missing.any():
        handles.append(Patch(facecolor=_NO_DATA, edgecolor="#bdbdbd", hatch="//////",
                             label="no data"))
    rgba = np.dstack([rgb, np.where(missing, 0, 255).astype(np.uint8)])
    rgba[outside] = 255  # the paper
    axes.imshow(rgba, extent=grid.extent, interpolation="nearest", aspect="equal")
    if handles:
        x = 0.0 if layer.kind == "classes" else 0.76  # beside the colour bar
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(x, -0.01), frameon=False,
                    ncols=2 if small else 4, fontsize=7 if small else 9, borderaxespad=0.2,
                    handlelength=1.4, columnspacing=1.2)


def _colour_bar(axes: Axes, shading: ScalarMappable, label: str) -> None:
    """Below the panel's left three quarters; "no data" has its place to the right."""
    place = axes.inset_axes((0.02, -0.055, 0.72, 0.025))
    bar = axes.figure.colorbar(shading, cax=place, orientation="horizontal", extend="both")
    bar.set_label(label, fontsize=8, color=_INK)
    bar.ax.tick_params(labelsize=8, color=_GREY)
    bar.outline.set(linewidth=0.4, edgecolor="#999999")


def _limits(values: np.ndarray) -> Normalize:
    """2nd to 98th percentile, so that a few odd pixels do not wash out the fields; at least a tenth
    of the middle value, so that a flat map looks flat."""
    low, high = np.percentile(values, [2, 98]) if values.size else (0.0, 1.0)
    middle, half = (low + high) / 2, (high - low) / 2
    half = max(half, abs(middle) / 20) or 0.5
    return Normalize(middle - half, middle + half)


def _scale_bar(axes: Axes, grid: Picture) -> None:
    width_m, height_m = grid.extent[1], grid.extent[3]
    power = 10 ** math.floor(math.log10(width_m / 4))
    length = max(n * power for n in (1, 2, 5) if n * power <= width_m / 4)
    pad = 0.03 * min(width_m, height_m)
    halo = [withStroke(linewidth=4, foreground="white")]  # readable on every colour
    axes.add_patch(Rectangle((pad, pad), length, pad / 3, facecolor=_INK, path_effects=halo))
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axes.text(pad + length / 2, 1.5 * pad, text, ha="center", va="bottom", fontsize=9, color=_INK,
              path_effects=halo)
