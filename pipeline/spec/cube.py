"""The Cube: one sensor's composited series over one window, the only thing the models are fed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from odc.geo.geobox import GeoBox

from pipeline.spec.timeline import Timeline


@dataclass(frozen=True)
class Cube:
    """Composited series; shapes are checked where it is born.

    Attributes:
        sensor: the sensor key.
        bands: canonical band names, the order of the band axis.
        timeline: T monthly steps.
        geobox: Y x X pixel grid.
        x: [T, B, Y, X] float32, the sensor's unit; NaN where there is no valid observation.
        count: [T, Y, X] uint8, valid observations (distinct passes) that went into a step.
    """

    sensor: str
    bands: tuple[str, ...]
    timeline: Timeline
    geobox: GeoBox
    x: np.ndarray
    count: np.ndarray

    def __post_init__(self) -> None:
        t, (h, w) = self.timeline.steps, self.geobox.shape
        want_x, want_n = (t, len(self.bands), h, w), (t, h, w)
        if self.x.shape != want_x or self.x.dtype != np.float32:
            raise ValueError(f"cube x is {self.x.dtype}{self.x.shape}, wanted float32{want_x}")
        if self.count.shape != want_n or self.count.dtype != np.uint8:
            raise ValueError(f"count is {self.count.dtype}{self.count.shape}, wanted uint8{want_n}")

    @property
    def valid(self) -> np.ndarray:
        """[T, Y, X] bool: the step has at least one valid observation."""
        return self.count > 0
