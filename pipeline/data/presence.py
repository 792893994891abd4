"""Which images hold pixels where their outline says that they should."""

from __future__ import annotations

import numpy as np
import rasterio
import shapely
from odc.geo.geobox import GeoBox
from odc.loader.types import RasterLoadParams
from pyproj import Transformer

from pipeline.data.items import ItemSet
from pipeline.data.rasters import GDAL_OPTIONS
from pipeline.data.reader import NearestReader
from pipeline.data.sources import STORED_DTYPE

_WHOLE = 0.99  # share of a window that an outline covers


def hollow(items: ItemSet, window: GeoBox) -> tuple[str, ...]:
    """Hrefs of the images that cover a window and hold nothing there, if all of them do.

    Clouds are something: masks are not looked at. It ends at the first image with a pixel.

    Args:
        items: of one sensor.
        window: where.

    Raises:
        DataTrouble: a file cannot be read.
    """
    to_degrees = Transformer.from_crs(str(window.crs), 4326, always_xy=True).transform
    box = shapely.transform(shapely.box(*window.boundingbox.bbox), to_degrees, interleaved=False)
    found = []
    with rasterio.Env(**GDAL_OPTIONS):
        for k in items.touching(window):
            outline = shapely.geometry.shape(items.items[k].geometry)
            if outline.intersection(box).area < _WHOLE * box.area:
                continue
            source, has = items.sources[k], items.items[k].assets
            image = items.file(k, next(key for key in source.assets.values() if key in has))
            how = RasterLoadParams(STORED_DTYPE[source.unit], source.nodata)
            _, dn = NearestReader(image).read(how, window)
            if np.any((dn != source.nodata) & (dn != 0)):  # 0: the border of radar images
                return ()
            found.append(image.href)
    return tuple(found)
