"""The levels of an area's images, from a fixed sample of its cells: what ``--adapt`` looks at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import shapely
from odc.geo.geobox import GeoBox

from pipeline.data.items import ItemSet
from pipeline.data.load import load_cube
from pipeline.infer.plan import cell_side, lattice_cells
from pipeline.prep.adapt import Shift, estimate
from pipeline.prep.features import bands_needed
from pipeline.spec.card import SensorCard
from pipeline.spec.errors import DataTrouble
from pipeline.spec.grid import Sheet
from pipeline.spec.sensors import SENSORS
from pipeline.spec.tasks import Task
from pipeline.spec.timeline import Timeline

SAMPLED = 16  # cells: more of them cost time, and move a median of a million values little


def level_shift(
    items: ItemSet, card: SensorCard, sheets: Sequence[Sheet], task: Task, timeline: Timeline
) -> Shift:
    """The shift that brings a sensor's images to the radiometry of its card, once for a run.

    Estimated from all clear monthly values of the area in ``SAMPLED`` cells of the lattice, evenly
    spaced among those that touch it: neither the tile size nor the order of work changes it.

    Args:
        items: of the sensor, all of one radiometry.
        card: of the sensor.
        sheets: of the area.
        task: pixel sizes.
        timeline: the months.

    Raises:
        DataTrouble: an image cannot be read, there is no clear pixel, the shift is too large, or
            the checkpoint knows a band in an index only: there is no level to shift it to.
    """
    sensor = SENSORS[items.sensor]
    bands = bands_needed(card.features, sensor.band_names)
    if lacking := [band for band in bands if band not in card.features]:
        raise DataTrouble(f"--adapt knows no level of {sensor.key} {', '.join(lacking)}: the "
                          "checkpoint has it in an index only",
                          then="use another --catalog or --checkpoint")
    found: dict[str, list[np.ndarray]] = {band: [] for band in bands}
    for sheet, window in sample_cells(sheets):
        cube = load_cube(items, window, bands, timeline, aggregate=task.aggregate)
        inside = sheet.inside(window)
        for k, band in enumerate(bands):
            seen = cube.x[:, k][:, inside]  # (T, P)
            found[band].append(seen[np.isfinite(seen)])
    values = {band: np.concatenate(parts) for band, parts in found.items()}
    return estimate(sensor, items.sources[0].radiometry, card, values)


def sample_cells(sheets: Sequence[Sheet]) -> Iterator[tuple[Sheet, GeoBox]]:
    """Windows of the sampled cells, each cut to its sheet."""
    every = [(sheet, window) for sheet in sheets for window in _windows(sheet)]
    n = min(SAMPLED, len(every))
    for k in range(n):
        yield every[(2 * k + 1) * len(every) // (2 * n)]


def _windows(sheet: Sheet) -> Iterator[GeoBox]:
    """The sheet's part of each lattice cell that touches the area."""
    side, (row0, col0), (h, w) = cell_side(sheet), sheet.lattice_origin, sheet.geobox.shape
    shapely.prepare(sheet.area)
    for cy, cx in lattice_cells(sheet):
        rows = slice(max(cy * side - row0, 0), min((cy + 1) * side - row0, h))
        cols = slice(max(cx * side - col0, 0), min((cx + 1) * side - col0, w))
        window = sheet.geobox[rows, cols]
        if sheet.area.intersects(shapely.box(*window.boundingbox.bbox)):
            yield window
