"""Elevation and land cover: search, and place features on the pixels of a map."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import rasterio
import shapely
from odc.geo.geobox import GeoBox
from odc.loader.types import RasterLoadParams
from shapely.geometry.base import BaseGeometry

from pipeline.data.block_store import SHARED
from pipeline.data.items import ItemSet
from pipeline.data.rasters import GDAL_OPTIONS
from pipeline.data.reader import NearestReader, centres
from pipeline.data.search import search
from pipeline.data.sources import CATALOGS, STORED_DTYPE
from pipeline.data.tile import finer
from pipeline.prep.place import halo_px, shares, terrain
from pipeline.prep.radiometry import to_physical
from pipeline.spec.context import layers_needed
from pipeline.spec.errors import NothingFound
from pipeline.spec.tasks import Task

# Degrees searched beyond the area: slopes at its edge need the terrain behind it (2 km, up to the
# end of UTM at 84 degrees).
_RIM = 0.2
_WORLD = shapely.box(-180, -90, 180, 90)
_STRIP_PX = 512  # read pixels held at full resolution at once


def find_places(
    catalog: str, names: Iterable[str], area: BaseGeometry
) -> tuple[dict[str, ItemSet], dict[str, str]]:
    """Tiles of the layers that place features are computed from.

    A public catalogue without a layer (Earth Search has no land cover) is helped out by the other
    public ones: the layers do not depend on who provides the images.

    Args:
        catalog: as in ``search``.
        names: place features.
        area: EPSG:4326, within +-180 degrees.

    Returns:
        Items per layer, and the reason for each layer that was found nowhere.

    Raises:
        DataTrouble: a catalogue is down or not STAC.
    """
    found: dict[str, ItemSet] = {}
    missing: dict[str, str] = {}
    wide = area.buffer(_RIM).intersection(_WORLD)
    for layer in layers_needed(names):
        for place in dict.fromkeys((catalog, *(CATALOGS if catalog in CATALOGS else ()))):
            try:
                items = search(place, layer, wide, None).usable((layer,))
                if items.items:
                    found[layer] = items
                    break
                missing.setdefault(layer, f"{items.skipped[-1][0]}: {items.skipped[-1][1]}")
            except NothingFound as error:
                missing.setdefault(layer, str(error))
    return found, {k: why for k, why in missing.items() if k not in found}


def read_places(
    items: Mapping[str, ItemSet], geobox: GeoBox, names: Sequence[str], task: Task
) -> dict[str, np.ndarray]:
    """Place features of the pixels of a window.

    Args:
        items: per layer, of ``find_places``; a feature of a layer that is not there is left out.
        geobox: Y x X map pixels.
        names: place features wanted.
        task: pixel sizes.

    Returns:
        By name, [Y, X] float32, NaN where unknown (a void is not zero).

    Raises:
        DataTrouble: a file cannot be read.
    """
    f = task.aggregate
    found: dict[str, np.ndarray] = {}
    needed = [layer for layer in layers_needed(names) if layer in items]
    if "dem" in needed:
        found |= terrain(mosaic(items["dem"], finer(geobox.pad(halo_px(task)), f)), task)
    if "landcover" in needed:
        found |= shares(mosaic(items["landcover"], finer(geobox, f)), f)
    if {"lon", "lat"} & set(names):
        lon, lat = centres(geobox, "EPSG:4326")
        found |= {"lon": lon.astype(np.float32), "lat": lat.astype(np.float32)}
    return {name: found[name] for name in names if name in found}


def mosaic(items: ItemSet, window: GeoBox) -> np.ndarray:
    """[Y, X] float32 of a layer, NaN where it has nothing: at each pixel the newest tile that has.

    The value is that of the cell that holds the pixel's centre, whatever CRS the tiles are in.
    """
    with rasterio.Env(**GDAL_OPTIONS):
        h = window.shape[0]
        strips = [_strip(items, window[row : min(row + _STRIP_PX, h), :])
                  for row in range(0, h, _STRIP_PX)]
    return np.concatenate(strips)


def _strip(items: ItemSet, window: GeoBox) -> np.ndarray:
    out = np.full(window.shape, np.nan, np.float32)
    for k in reversed(items.touching(window)):  # they are in the order of time
        source = items.sources[k]
        reader = NearestReader(items.file(k, source.assets[items.sensor]), SHARED)
        how = RasterLoadParams(STORED_DTYPE[source.unit], source.nodata)
        _, dn = reader.read(how, window)
        np.copyto(out, to_physical(dn, source, source.scale, source.offset), where=np.isnan(out))
        if np.isfinite(out).all():
            break
    return out
