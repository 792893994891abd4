"""What changed between two versions of a map, and what of it the uncertainty cannot explain.

A class change is called significant where the chance that both versions are right, the product of
their calibrated probabilities, is at least 90 % (post-classification comparison: Singh 1989,
doi:10.1080/01431168908903939). A change of a value is significant where it exceeds the 90 %
interval of a difference, sqrt(a^2 + b^2) of the two half-widths (Schenker and Gentleman 2001,
doi:10.1198/000313001317097960; comparing for overlap would be stricter than 90 %). Both rules take
the errors of the two versions as independent. They share scenes and checkpoint, so that their
errors rather go along with each other: then less is called significant than could be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.io import DatasetReader
from rasterio.windows import Window

from pipeline.data.files import atomic_write_json
from pipeline.publish.cog import write_cog
from pipeline.publish.item import cog_asset
from pipeline.refresh.product import CHANGE, Product
from pipeline.spec.errors import DataTrouble
from pipeline.spec.layers import Layer, layers_of
from pipeline.spec.tasks import MapClass, Task

SAME, GAINED, LOST, UNSURE, ONE_ONLY, NONE = 0, 1, 2, 3, 254, 255
_SURE = 0.9  # as the intervals of continuous maps
_WINDOW = 2048  # pixels of a side looked at together
_GREY, _PALE = (222, 222, 222), (250, 220, 120)


def change_layers(task: Task) -> tuple[Layer, ...]:
    """Layers of the change of a task's map: what kind of change, and for values how much.

    ``change`` has the codes of this module. ``difference`` is new minus old.
    """
    grown, lost = ("became cropland", "was cropland") if task.classes else ("more", "less")
    kinds = Layer(
        "change", f"Change of {task.title.lower()} since the version before", "uint8", NONE,
        "classes",
        (MapClass(SAME, "same", _GREY), MapClass(GAINED, grown, (0, 114, 178)),
         MapClass(LOST, lost, (213, 94, 0)),
         MapClass(UNSURE, "changed within the uncertainty", _PALE),
         MapClass(ONE_ONLY, "mapped in one version only", (150, 150, 150))),
    )
    if task.classes:
        return (kinds,)
    low, high = task.valid_range
    return kinds, Layer(
        "difference", f"{task.title}, new minus old", "uint16", task.nodata, "values",
        scale=task.scale, offset=low - high, unit=task.unit,
    )


def write_change(new: Path, old: Path | None) -> dict[str, Any]:
    """Write what changed into the new version: ``change.tif`` of each sheet (continuous maps:
    ``difference.tif``, too) and the summary ``change.json``. Memory is bounded by a window.

    Args:
        new: folder of the new version.
        old: folder of the version before; None for a first one, and nothing is written.

    Returns:
        The summary; empty for a first version. Shares are of the pixels that both versions map;
        ``assets`` are the STAC assets by sheet.

    Raises:
        DataTrouble: the versions are not of one task or lattice, or the disk fails.
        BadRequest: the folder cannot be written to.
    """
    if old is None:
        return {}
    after, before = Product.open(new), Product.open(old)
    if after.task != before.task:
        raise DataTrouble("two versions of different tasks have no difference",
                          got=f"{after.task.key} and {before.task.key}")
    layers = change_layers(after.task)
    tags = {"TASK": after.task.key, "BEFORE": old.resolve().name, "RULE": _rule(after.task)}
    assets: dict[str, dict[str, Any]] = {}
    for name, folder in after.sheets.items():
        with ExitStack() as stack:
            pair = _Pair(stack, folder, before.sheets.get(name), after.task)
            for layer in layers:
                write_cog(folder / f"{layer.name}.tif", _Compared(pair, layer), pair.geobox, layer,
                          tags)
        assets[name] = {layer.name: cog_asset(folder, layer, pair.geobox) for layer in layers}
    summary = {**_summary(before, after, layers), "assets": assets}
    atomic_write_json(new / CHANGE, summary)
    return summary


def significance(
    task: Task, new: np.ndarray, new_sure: np.ndarray, old: np.ndarray, old_sure: np.ndarray
) -> np.ndarray:
    """Where a difference is significant, boolean, of the arrays' shape.

    Args:
        task: of the maps.
        new, old: codes of ``map.tif``.
        new_sure, old_sure: codes of ``confidence.tif``: percent for classes, half-widths of the
            90 % interval in the map's own steps for values.
    """
    a, b = new_sure.astype(np.float64), old_sure.astype(np.float64)
    if task.classes:
        return (new != old) & (a * b >= _SURE * 100**2)
    return np.abs(new.astype(np.float64) - old) > np.hypot(a, b)


class _Pair:
    """The same sheet in two versions, compared window by window."""

    def __init__(self, stack: ExitStack, new: Path, old: Path | None, task: Task) -> None:
        self.task = task
        self.layers = layers_of(task)[:2]  # map, confidence
        self._new, self._old = (
            [stack.enter_context(rasterio.open(folder / f"{layer.name}.tif"))
             for layer in self.layers] if folder else []
            for folder in (new, old)
        )
        cog = self._new[0]
        self.geobox = GeoBox(cog.shape, cog.transform, cog.crs)
        self._shift = _offset(cog, self._old[0]) if self._old else (0, 0)

    def read(self, rows: slice, cols: slice) -> list[np.ndarray]:
        """Codes of new map, new confidence, old map, old confidence in a window."""
        down, right = self._shift
        there = slice(rows.start + down, rows.stop + down), slice(cols.start + right,
                                                                  cols.stop + right)
        return [
            *(_read(cog, rows, cols, layer)
              for cog, layer in zip(self._new, self.layers, strict=True)),
            *(_read(self._old[k] if self._old else None, *there, layer)
              for k, layer in enumerate(self.layers)),
        ]


def _offset(new: DatasetReader, old: DatasetReader) -> tuple[int, int]:
    """Rows and columns from the old raster's first pixel to the new one's: an area may have been
    redrawn, but all of its maps lie on one lattice.

    Raises:
        DataTrouble: they do not.
    """
    col, row = ~old.transform @ (new.transform.c, new.transform.f)
    fraction = max(abs(v - round(v)) for v in (col, row))
    if new.crs != old.crs or new.res != old.res or fraction > 1e-6:
        raise DataTrouble("two versions lie on different lattices", got=f"{new.name}, {old.name}")
    return round(row), round(col)


def _read(cog: DatasetReader | None, rows: slice, cols: slice, layer: Layer) -> np.ndarray:
    """A window that may reach beyond the raster, or of none: no data there."""
    out = np.full((rows.stop - rows.start, cols.stop - cols.start), layer.nodata, layer.dtype)
    if cog is None:
        return out
    top, bottom = max(rows.start, 0), min(rows.stop, cog.height)
    left, right = max(cols.start, 0), min(cols.stop, cog.width)
    if top < bottom and left < right:
        out[top - rows.start : bottom - rows.start, left - cols.start : right - cols.start] = (
            cog.read(1, window=Window.from_slices((top, bottom), (left, right))))
    return out


class _Compared:
    """A layer of ``change_layers``, computed when a window of it is asked for."""

    def __init__(self, pair: _Pair, layer: Layer) -> None:
        self._pair, self._layer = pair, layer
        self.shape: tuple[int, ...] = tuple(pair.geobox.shape)
        self.dtype = np.dtype(layer.dtype)

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        new, new_sure, old, old_sure = self._pair.read(*window)
        task, layer = self._pair.task, self._layer
        here, there = new != task.nodata, old != task.nodata
        if layer.kind == "values":
            zero = round(-layer.offset / layer.scale)
            return np.where(here & there, new.astype(np.int64) - old + zero,
                            layer.nodata).astype(layer.dtype)
        kind = np.where(new > old, GAINED, LOST)
        kind[~significance(task, new, new_sure, old, old_sure)] = UNSURE
        kind[new == old] = SAME
        kind[here ^ there] = ONE_ONLY
        kind[~here & ~there] = NONE
        return kind.astype(layer.dtype)


def _summary(before: Product, after: Product, layers: Sequence[Layer]) -> dict[str, Any]:
    """What the written files say, in pixels, shares and hectares."""
    count, total, absolute = np.zeros(256, np.int64), 0.0, 0.0
    for folder in after.sheets.values():
        for kinds, difference in _windows(folder, layers):
            count += np.bincount(kinds.ravel(), minlength=256)
            total += float(difference.sum())
            absolute += float(np.abs(difference).sum())
    hectares = after.task.pixel_m**2 / 10_000
    both = int(count[[SAME, GAINED, LOST, UNSURE]].sum())
    significant = int(count[[GAINED, LOST]].sum())
    made: dict[str, Any] = {
        "before": before.folder.resolve().name, "rule": _rule(after.task),
        "compared_px": both, "compared_ha": round(both * hectares, 2),
        "changed_share": int(both - count[SAME]) / max(both, 1),
        "significant_share": significant / max(both, 1),
        "kinds": {
            c.name: {"px": int(count[c.code]), "ha": round(int(count[c.code]) * hectares, 2)}
            for c in layers[0].classes
        },
    }
    if len(layers) > 1:
        made |= {"mean_change": total / max(both, 1),
                 "mean_absolute_change": absolute / max(both, 1), "unit": after.task.unit}
    return made


def _windows(
    folder: Path, layers: Sequence[Layer]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Kinds of change, and the differences in the task's unit of the pixels that have one."""
    with ExitStack() as stack:
        cogs = [stack.enter_context(rasterio.open(folder / f"{layer.name}.tif"))
                for layer in layers]
        height, width = cogs[0].shape
        for row in range(0, height, _WINDOW):
            for col in range(0, width, _WINDOW):
                window = Window(col, row, min(_WINDOW, width - col), min(_WINDOW, height - row))
                kinds = cogs[0].read(1, window=window)
                values = np.zeros(0)
                if len(cogs) > 1:
                    codes, layer = cogs[1].read(1, window=window), layers[1]
                    values = codes[codes != layer.nodata] * layer.scale + layer.offset
                yield kinds, values


def _rule(task: Task) -> str:
    """What is called significant, in words."""
    if task.classes:
        return (f"significant: the product of both versions' calibrated probabilities is at least "
                f"{_SURE:.0%}")
    return (f"significant: the difference exceeds the root of the sum of squares of both versions' "
            f"{_SURE:.0%} half-widths")
