"""What a sandbox is made of: one frozen record, so that equal parameters mean equal pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pyproj import Transformer

from pipeline.sandbox.geo import transformer
from pipeline.spec.errors import BadRequest
from pipeline.spec.timeline import Timeline, month_text, parse_month

_M_PER_DEGREE = 111_320.0


@dataclass(frozen=True)
class SandboxParams:
    """Parameters of a sandbox.

    Attributes:
        seed: of everything random.
        lon, lat: centre of the region, degrees; near a multiple of 6 degrees of longitude the
            region spans two UTM zones.
        width_km, height_km: size of the region.
        first, last: months of the series, ``YYYY-MM``.
        s1_days, s2_days, l8_days: revisit in days (Sentinel-1: of each of its two orbits).
        cloudiness: mean cloud cover of the optical acquisitions, 0 to 1.
        s2_gap: share of width (half) and height (whole) of the north-west block where every
            Sentinel-2 pixel is cloudy; 0 for none.
        s1_gap: share of the width, at the east end, that no Sentinel-1 scene reaches; 0 for none.
        grain_m: spacing of blocks of fields; fields are about a sixth of it wide.
        overlap_m: how far the scenes of one zone reach into the other.
        group_m: side of the blocks that name the points' ``group``.
        cropland_points: number of labelled cropland points.
        lfmc_sites, lfmc_months: fuel-moisture sites, each sampled in the last months.
        workers: threads that simulate and write; not a part of the result.
    """

    seed: int = 20
    lon: float = 6.0
    lat: float = 43.9
    width_km: float = 4.0
    height_km: float = 2.5
    first: str = "2022-11"
    last: str = "2023-10"
    s1_days: int = 12
    s2_days: int = 10
    l8_days: int = 8
    cloudiness: float = 0.4
    s2_gap: float = 0.3
    s1_gap: float = 0.12
    grain_m: float = 600.0
    overlap_m: float = 200.0
    group_m: float = 1000.0
    cropland_points: int = 1800
    lfmc_sites: int = 60
    lfmc_months: int = 8
    workers: int = 2

    def __post_init__(self) -> None:
        if not (0.2 <= self.width_km <= 200 and 0.2 <= self.height_km <= 200):
            raise BadRequest(
                "the sandbox's size is out of range", got=f"{self.width_km},{self.height_km}",
                allowed="0.2 to 200 km", then="try --size-km 4,2.5",
            )
        if not (-180 < self.lon < 180 and 0 < self.lat < 80):
            raise BadRequest(
                "the sandbox's centre is out of range", got=f"{self.lon},{self.lat}",
                allowed="longitude -180 to 180, latitude 0 to 80 (northern hemisphere)",
            )
        if parse_month(self.first) > parse_month(self.last):
            raise BadRequest(
                "the months are upside down", got=f"{self.first}..{self.last}",
                then=f"try --first {self.last} --last {self.first}",
            )
        if min(self.s1_days, self.s2_days, self.l8_days, self.workers) < 1:
            raise BadRequest("revisit days and workers are at least 1")

    @classmethod
    def demo(cls) -> SandboxParams:
        """The demo region of ``aoi/demo.geojson``."""
        return cls()

    @classmethod
    def tiny(cls) -> SandboxParams:
        """For tests: about 64 x 48 pixels a zone, 14 months, written in a second or two."""
        return cls(
            width_km=1.08, height_km=0.44, first="2022-09", s1_days=24, s2_days=28, l8_days=24,
            cloudiness=0.25, grain_m=230.0, overlap_m=60.0, group_m=200.0, cropland_points=300,
            lfmc_sites=12,
        )

    @property
    def timeline(self) -> Timeline:
        first = parse_month(self.first)
        return Timeline(first, parse_month(self.last) - first + 1)

    @property
    def half_m(self) -> tuple[float, float]:
        """Half the width and half the height, metres."""
        return self.width_km * 500, self.height_km * 500

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north of the region, degrees."""
        dy = self.height_km * 500 / _M_PER_DEGREE
        dx = self.width_km * 500 / (_M_PER_DEGREE * math.cos(math.radians(self.lat)))
        return self.lon - dx, self.lat - dy, self.lon + dx, self.lat + dy

    @property
    def plane(self) -> str:
        """PROJ string of the local metric plane that the landscape is defined on."""
        return f"+proj=tmerc +lat_0={self.lat} +lon_0={self.lon} +datum=WGS84 +units=m +type=crs"

    def to_plane(self, epsg: int) -> Transformer:
        """Transformer from a CRS to the local plane."""
        return transformer(epsg, self.plane)

    @property
    def lfmc_month_list(self) -> tuple[str, ...]:
        """Months that fuel-moisture points are sampled in."""
        return tuple(month_text(m) for m in self.timeline.months[-self.lfmc_months :])

