"""What one sensor says of the pixels of a tile, smoothed: the halo has been used up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.infer.predict import Predictor
from pipeline.infer.smooth import pool, reach
from pipeline.spec.cube import Cube


@dataclass(frozen=True)
class Part:
    """One sensor's prediction of P pixels of a tile.

    Attributes:
        sensor: key.
        score: [K, P] float32 as of ``Prediction``, NaN where the sensor has nothing to say.
        steps: [P] steps with data.
        index: [P] float32 dissimilarity index.
        count: [P] uint16 valid observations.
    """

    sensor: str
    score: np.ndarray
    steps: np.ndarray
    index: np.ndarray
    count: np.ndarray

    @property
    def has(self) -> np.ndarray:
        """[P] bool: the sensor has a prediction."""
        return np.isfinite(self.score[0])

    def where(self, chosen: np.ndarray) -> Part:
        """The chosen ([P] bool) of its pixels."""
        return Part(self.sensor, self.score[:, chosen], self.steps[chosen], self.index[chosen],
                    self.count[chosen])


def part_of(
    sensor: str, cube: Cube, wanted: np.ndarray, at: np.ndarray, predictor: Predictor
) -> Part:
    """Predict the wanted pixels of a tile.

    Args:
        sensor: key.
        cube: of the tile and its halo.
        wanted: [Y, X] bool, pixels of the tile to predict.
        at: [Y, X] bool, the P pixels that the part is about; NaN where they are not wanted.
        predictor: the checkpoint.
    """
    size = predictor.task.smooth_px(sensor)
    around = np.zeros(cube.geobox.shape, bool)
    core(around, wanted.shape)[:] = wanted
    result = predictor(sensor, cube, reach(around, size))
    smoothed = core(pool(result.score, size), wanted.shape)
    score = np.where(wanted, smoothed, np.float32(np.nan))
    seen = cube.count.sum(0, dtype=np.uint16)
    steps, index, count = (core(a, wanted.shape)[at] for a in (result.steps, result.index, seen))
    return Part(sensor, score[:, at], steps, index, count)


def clear_steps(cube: Cube, shape: tuple[int, ...]) -> np.ndarray:
    """[Y, X] steps with data of a tile of that shape, without its halo."""
    seen = cube.valid & np.isfinite(cube.x).all(1)  # (T, Y, X)
    return core(seen.sum(0), shape)


def core(padded: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The tile within its halo: a view of the last two axes."""
    r, c = ((n - m) // 2 for n, m in zip(padded.shape[-2:], shape, strict=True))
    return padded[..., r : r + shape[0], c : c + shape[1]]
