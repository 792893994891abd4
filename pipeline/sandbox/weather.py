"""Drought, rain and clouds: what changes from day to day."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np

from pipeline.sandbox.noise import chance, smooth, uniform
from pipeline.sandbox.params import SandboxParams
from pipeline.sandbox.phenology import Cycle, double_logistic

_DRY_SEASON = Cycle(start=152, end=268, up=0.05, down=0.08, peak=1.0)
_ENDLESS = 99.0  # a threshold that no cloud field reaches: the sky is clear, or overcast


def day_of_year(when: date) -> float:
    return float(when.timetuple().tm_yday)


def drought(seed: int, when: date) -> float:
    """Seasonal drought index: 0 in winter, near 1 in August; each year has its own severity."""
    severity = 0.85 + 0.15 * chance(seed, 51, when.year)
    return severity * float(double_logistic(day_of_year(when), _DRY_SEASON))


def wetness(seed: int, when: date) -> float:
    """Wetness of the top soil, 0 to 1, from 30 days of simulated rain.

    Antecedent precipitation index: rain decays by 0.87 a day (Kohler & Linsley 1951, US Weather
    Bureau Research Paper 34).
    """
    index = 0.0
    for back in range(30):
        day = when - timedelta(days=back)
        if chance(seed, 52, day.toordinal()) < 0.26 - 0.16 * drought(seed, day):
            index += 0.87**back * -14.0 * math.log(1 - chance(seed, 53, day.toordinal()))
    return 1 - math.exp(-index / 18.0)


def sun(lat: float, when: datetime) -> tuple[float, float]:
    """Sun elevation and azimuth (clockwise from north), degrees, at about local solar time.

    Declination by Cooper 1969 (doi:10.1016/0038-092X(69)90047-4); good to a degree or so.
    """
    decl = math.radians(23.45 * math.sin(2 * math.pi * (284 + day_of_year(when)) / 365))
    # 24 minutes: local solar time at 6 degrees east
    hour = math.radians(15 * (when.hour + when.minute / 60 + 0.4 - 12))
    phi = math.radians(lat)
    up = math.sin(phi) * math.sin(decl) + math.cos(phi) * math.cos(decl) * math.cos(hour)
    south = -math.cos(hour) * math.sin(phi) * math.cos(decl) + math.cos(phi) * math.sin(decl)
    return math.degrees(math.asin(up)), math.degrees(math.atan2(
        -math.sin(hour) * math.cos(decl), south)) % 360


@dataclass(frozen=True)
class Sky:
    """Clouds of one acquisition.

    Attributes:
        key: hash keys of the acquisition.
        scale_m: size of the clouds.
        level: threshold of the cloud field: clouds are where it is exceeded.
        shadow: displacement of the shadows, metres east and north.
        haze: strength of thin haze that no mask flags, 0 to 1.
    """

    key: tuple[int, ...]
    scale_m: float
    level: float
    shadow: tuple[float, float]
    haze: float

    def depth(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Cloud field minus threshold: above 0 is cloud, just below its rim."""
        if abs(self.level) == _ENDLESS:
            return np.full(np.shape(x), -self.level, np.float32)
        return smooth(x, y, self.scale_m, *self.key, 61, octaves=4) - np.float32(self.level)

    def shadow_depth(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The same for the shadows on the ground."""
        return self.depth(x - self.shadow[0], y - self.shadow[1])

    def hazy(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Opacity of unflagged haze, 0 to about 0.12."""
        if self.haze == 0:
            return np.zeros(np.shape(x), np.float32)
        field = smooth(x, y, 3 * self.scale_m, *self.key, 62)
        return np.float32(0.06 * self.haze) * np.clip(1 + field, 0, 2)


def sky(params: SandboxParams, sensor: int, when: datetime) -> Sky:
    """Clouds of an acquisition; the same for all of its tiles.

    Args:
        params: of the sandbox.
        sensor: code of the sensor.
        when: acquisition time.
    """
    key = (params.seed, 60, sensor, when.toordinal())
    cover = _cover(params.cloudiness, *key)
    # the threshold comes from one coarse grid over the region, so that tiles agree on it
    hx, hy = params.half_m
    gx, gy = np.meshgrid(np.linspace(-hx, hx, 48), np.linspace(-hy, hy, 48))
    scale = 1.6 * params.grain_m
    field = smooth(gx, gy, scale, *key, 61, octaves=4)
    level = {0.0: _ENDLESS, 1.0: -_ENDLESS}.get(cover, float(np.quantile(field, 1 - cover)))
    elevation, azimuth = sun(params.lat, when)
    length = 0.5 * params.grain_m / math.tan(math.radians(max(elevation, 15)))
    toward = math.radians(azimuth + 180)
    return Sky(key, scale, level, (length * math.sin(toward), length * math.cos(toward)),
               haze=chance(*key, 65) if chance(*key, 64) < 0.3 else 0.0)


def _cover(cloudiness: float, *key: int) -> float:
    """Cloud cover: often none, sometimes all, else anything between; mean about ``cloudiness``."""
    clear, share = uniform(*key, np.array([66, 67]))
    if clear >= 1.35 * cloudiness:
        return 0.0
    return float(min(0.08 + 1.3 * share, 1.0))
