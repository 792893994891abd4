"""The table of archives: one row per provider, collection and sensor. Adding a provider = a row.

Radiometry, scaling, nodata and masks are stated here, never guessed from pixel values. At most one
row fits an item; the tests hold that for every recorded item.
"""

from __future__ import annotations

import dataclasses
import math

import pystac

from pipeline.data.static_sources import STATIC_SOURCES
from pipeline.spec.context import LAYERS
from pipeline.spec.sensors import L8, S1, S2, sensor
from pipeline.spec.source import Source

CATALOGS = {
    "planetary-computer": "https://planetarycomputer.microsoft.com/api/stac/v1",
    "earth-search": "https://earth-search.aws.element84.com/v1",
}

# Collections that hold a sensor's images but must not be mapped from, and why.
REFUSED = {
    ("s1", "sentinel-1-grd"): "raw GRD is neither calibrated nor terrain-corrected; "
    "sentinel-1-rtc of planetary-computer is",
    ("s2", "sentinel-2-l1c"): "top of atmosphere; the models know surface reflectance",
}

_OLI = ("landsat-8", "landsat-9")
_BY_NAME = {s.key: {b: b for b in s.band_names} for s in (S1, S2, L8)}
_BY_COMMON_NAME = {b.name: b.common_name for b in S2.bands}
_LANDSAT_C2 = _BY_NAME["l8"] | {"nir": "nir08"}

_PLANETARY_COMPUTER = (
    Source(  # Catalyst's terrain-flattened gamma0, linear power, float32
        key="planetary-computer/sentinel-1-rtc", sensor="s1", collection="sentinel-1-rtc",
        assets=_BY_NAME["s1"], unit="linear", radiometry="gamma0-rtc", nodata=-32768,
        absent=("sandbox:seed",), signer="planetary-computer",
    ),
    Source(  # Sen2Cor as delivered: the offset of baseline 04.00 is still in the numbers
        key="planetary-computer/sentinel-2-l2a", sensor="s2", collection="sentinel-2-l2a",
        assets=_BY_NAME["s2"], unit="reflectance", radiometry="l2a", nodata=0, scale=1e-4,
        offset_rule="s2-baseline", mask_asset="SCL", mask="scl",
        present=("s2:processing_baseline",),
        absent=("earthsearch:payload_id", "sandbox:seed"), signer="planetary-computer",
    ),
    Source(  # scale and offset: USGS LSDS-1619, Landsat 8-9 Collection 2 Level 2 guide
        key="planetary-computer/landsat-c2-l2", sensor="l8", collection="landsat-c2-l2",
        assets=_LANDSAT_C2, unit="reflectance", radiometry="landsat-c2-sr", nodata=0,
        scale=2.75e-5, offset=-0.2, mask_asset="qa_pixel", mask="landsat-c2", platforms=_OLI,
        absent=("earthsearch:payload_id", "sandbox:seed"), signer="planetary-computer",
    ),
)

# The offline demo region writes its items in the shape of the Planetary Computer's.
_SANDBOX = tuple(
    dataclasses.replace(
        row, key=f"sandbox/{row.collection}", signer="",
        present=(*row.present, "sandbox:seed"),
        absent=tuple(name for name in row.absent if name != "sandbox:seed"),
    )
    for row in _PLANETARY_COMPUTER
)

_EARTH_SEARCH = (
    Source(  # Collection 1: the asset's own raster:bands are right
        key="earth-search/sentinel-2-c1-l2a", sensor="s2", collection="sentinel-2-c1-l2a",
        assets=_BY_COMMON_NAME, unit="reflectance", radiometry="l2a", nodata=0,
        offset_rule="raster-bands", mask_asset="scl", mask="scl",
        present=("earthsearch:payload_id",),
    ),
    Source(  # already harmonised; the assets' raster:bands still say -0.1 and are not used
        key="earth-search/sentinel-2-l2a", sensor="s2", collection="sentinel-2-l2a",
        assets=_BY_COMMON_NAME, unit="reflectance", radiometry="l2a", nodata=0, scale=1e-4,
        mask_asset="scl", mask="scl", equals=(("earthsearch:boa_offset_applied", True),),
    ),
    Source(
        key="earth-search/sentinel-2-l2a-unharmonised", sensor="s2", collection="sentinel-2-l2a",
        assets=_BY_COMMON_NAME, unit="reflectance", radiometry="l2a", nodata=0, scale=1e-4,
        offset_rule="s2-baseline", mask_asset="scl", mask="scl",
        present=("s2:processing_baseline",),
        equals=(("earthsearch:boa_offset_applied", False),),
    ),
    Source(  # s3://usgs-landsat: requester pays, so reading needs an AWS account
        key="earth-search/landsat-c2-l2", sensor="l8", collection="landsat-c2-l2",
        assets=_LANDSAT_C2, unit="reflectance", radiometry="landsat-c2-sr", nodata=0,
        scale=2.75e-5, offset=-0.2, mask_asset="qa_pixel", mask="landsat-c2", platforms=_OLI,
        present=("earthsearch:payload_id",),
    ),
)

# Archives of cut-out scenes (static catalogues of research projects), as their notes state them.
_ARCHIVES = (
    Source(  # exported before baseline 04.00, which the items do not name
        key="archive/sentinel-2-l2a", sensor="s2", collection="sentinel-2-l2a",
        assets=_BY_NAME["s2"], unit="reflectance", radiometry="l2a", nodata=0, scale=1e-4,
        mask_asset="SCL", mask="scl",
        # an item of a provider that merely lacks its baseline is not of this archive
        absent=("s2:processing_baseline", "earthsearch:payload_id", "s2:product_uri",
                "s2:datatake_id", "s2:mgrs_tile", "s2:granule_id", "grid:code"),
    ),
    Source(  # dB * 10 000, ellipsoid sigma0
        key="archive/sentinel-1-grd-sigma0", sensor="s1", collection="sentinel-1-grd-sigma0",
        assets=_BY_NAME["s1"], unit="dB", radiometry="sigma0", nodata=0, scale=1e-4,
    ),
    Source(  # int16 written as uint16: fill -999 reads 64537, small negatives read above 32767
        key="archive/landsat-c1-l2-sr", sensor="l8", collection="landsat-c1-l2-sr",
        assets={"blue": "B02", "green": "B03", "red": "B04", "nir": "B05", "swir16": "B06",
                "swir22": "B07"},
        unit="reflectance", radiometry="landsat-c1-sr", nodata=64537, scale=1e-4,
        twos_complement=True, mask_asset="pixel_qa", mask="landsat-c1", platforms=_OLI,
    ),
    Source(  # monthly composites, cloud-free by construction; no B8A
        key="archive/sentinel-2-monthly", sensor="s2", collection="sentinel-2-monthly",
        assets={b: b for b in S2.band_names if b != "B8A"},
        unit="reflectance", radiometry="l2a", nodata=65535, scale=1e-4,
    ),
    Source(
        key="archive/sentinel-1-monthly", sensor="s1", collection="sentinel-1-monthly",
        assets=_BY_NAME["s1"], unit="dn20log10", radiometry="sigma0", nodata=65535, offset=-83.0,
    ),
)

# Of two items of one acquisition and baseline, the one whose row stands first is kept.
SOURCES: tuple[Source, ...] = (*_SANDBOX, *_EARTH_SEARCH, *_PLANETARY_COMPUTER, *_ARCHIVES)
_ROWS = (*SOURCES, *STATIC_SOURCES)

# What the numbers are stored as, by what they mean: items often do not say.
STORED_DTYPE = {
    "reflectance": "uint16", "linear": "float32", "dB": "int32", "dn20log10": "uint16",
    "m": "float32", "class": "uint8",
}
# Data type and "nothing here" value of quality bands. Fill of Collection 2 is bit 0, not 0.
MASK_DTYPE = {"scl": "uint8", "landsat-c2": "uint16", "landsat-c1": "uint16"}
MASK_FILL = {"scl": 0, "landsat-c2": 1, "landsat-c1": 0}
MASK_PIXEL_M = {"scl": 20.0, "landsat-c2": 30.0, "landsat-c1": 30.0}


def collections_of(sensor_key: str) -> tuple[str, ...]:
    """STAC collections that hold images of a sensor (or a layer), in the order of the table."""
    if sensor_key not in LAYERS:
        sensor(sensor_key)
    return tuple(dict.fromkeys(row.collection for row in _ROWS if row.sensor == sensor_key))


def rows_of(item: pystac.Item, sensor_key: str) -> tuple[Source, ...]:
    """All rows that fit an item (one or none; the tests hold the table to that)."""
    return tuple(r for r in _ROWS if r.sensor == sensor_key and _fits(r, item))


def source_of(item: pystac.Item, sensor_key: str) -> Source | None:
    """The row that fits an item, or None when the sensor cannot be read from it."""
    return next(iter(rows_of(item, sensor_key)), None)


def why_not(item: pystac.Item, sensor_key: str) -> str:
    """Reason, in words, why no row fits."""
    collection = item.collection_id or "(none)"
    if reason := REFUSED.get((sensor_key, collection)):
        return f"{collection} is refused: {reason}"
    platform = item.properties.get("platform", "not stated")
    return f"no row of the source table fits collection {collection}, platform {platform}"


def assets_needed(source: Source, bands: tuple[str, ...]) -> tuple[str, ...] | None:
    """Asset keys of bands and quality band, or None when the archive lacks one of the bands."""
    if not set(bands) <= set(source.assets):
        return None
    assets = tuple(source.assets[b] for b in bands)
    return (*assets, source.mask_asset) if source.mask_asset else assets


def coarsest_m(source: Source, key: str) -> float:
    """Pixel, metres, up to which overviews may stand for an asset's numbers; 0 is never.

    Averages of codes and of decibels mean nothing. Those of reflectance do as long as one pixel of
    the quality band, which is read as it is, tells of all that was averaged. Where there is no
    quality band any average does.
    """
    if key == source.mask_asset or not source.averages:
        return 0.0
    return math.inf if source.mask is None else MASK_PIXEL_M[source.mask]


def _fits(row: Source, item: pystac.Item) -> bool:
    properties = item.properties
    return (
        item.collection_id == row.collection
        and all(name in properties for name in row.present)
        and not any(name in properties for name in row.absent)
        and all(name in properties and properties[name] == value for name, value in row.equals)
        and (not row.platforms or str(properties.get("platform", "")).lower() in row.platforms)
    )
