"""The Cube: one sensor's composited series over one window, the only thing the models are fed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
        place: place features by name (``spec.context``), [Y, X] float32, NaN where unknown; empty
            where nothing is known of the place, or nothing is wanted.
    """

    sensor: str
    bands: tuple[str, ...]
    timeline: Timeline
    geobox: GeoBox
    x: np.ndarray
    count: np.ndarray
    place: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        t, (h, w) = self.timeline.steps, self.geobox.shape
        want_x, want_n = (t, len(self.bands), h, w), (t, h, w)
        if self.x.shape != want_x or self.x.dtype != np.float32:
            raise ValueError(f"cube x is {self.x.dtype}{self.x.shape}, wanted float32{want_x}")
        if self.count.shape != want_n or self.count.dtype != np.uint8:
            raise ValueError(f"count is {self.count.dtype}{self.count.shape}, wanted uint8{want_n}")
        for name, values in self.place.items():
            if values.shape != (h, w) or values.dtype != np.float32:
                raise ValueError(f"{name} is {values.dtype}{values.shape}, wanted float32{(h, w)}")

    @property
    def valid(self) -> np.ndarray:
        """[T, Y, X] bool: the step has at least one valid observation."""
        return self.count > 0
