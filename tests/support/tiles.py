"""Tiles of a small area, a reader that needs no files, and an untrained predictor."""

from __future__ import annotations

import numpy as np
import shapely

from pipeline.infer.plan import Cell, Choice, PlanRow
from pipeline.infer.predict import Predictor
from pipeline.spec.card import CheckpointCard
from pipeline.spec.cube import Cube
from pipeline.spec.errors import DataTrouble
from pipeline.spec.grid import sheets
from pipeline.spec.tasks import CROPLAND
from pipeline.spec.timeline import Timeline
from tests.support.toy import untrained

YEAR = Timeline(2023 * 12, 12)
AREA = shapely.box(3.0, 50.8, 3.01, 50.806)


def predictor_of(task=CROPLAND, card: CheckpointCard | None = None) -> Predictor:
    return Predictor(task, *untrained(task, card), "cpu")


class FakeReader:
    """Cubes whose sensor decides their gaps; one tile cannot be read."""

    def __init__(self, broken: str = "") -> None:
        self.broken, self.calls = broken, []

    def __call__(self, row: PlanRow, sensor: str) -> tuple[Cube, float]:
        self.calls.append((row.tile.name, sensor))
        if row.tile.name == self.broken:
            raise DataTrouble("cannot read vv of S1A_X")
        grid = row.tile.geobox.pad(CROPLAND.smooth_px(sensor) // 2)
        h, w = grid.shape
        bands = ("vv", "vh") if sensor == "s1" else CROPLAND.features["s2"][:9]
        x = np.ones((12, len(bands), h, w), np.float32)  # as reflectance far from the training
        if sensor == "s1":
            x = x * np.array([-11, -18], np.float32)[:, None, None]
        count = np.ones((12, h, w), np.uint8)
        if sensor == "s2":
            count[:, : h // 2] = 0
            x[:, :, : h // 2] = np.nan
        return Cube(sensor, bands, YEAR, grid, x, count), 0.0


def rows_of(order: tuple[str, ...]) -> list[PlanRow]:
    (sheet,) = sheets(AREA, 10)
    choices = tuple(Choice(key, 1, 12.0, 0.9) for key in order)
    return [
        PlanRow(sheet, tile, (Cell(slice(None), slice(None), choices),), "test")
        for tile in sheet.tiles(32)
    ]
