"""The second loader, stackstac, behind the same stacks; equal values on native grids.

What it takes to use it today (0.5.1 is its last release): it wants ``epsg``, explicit bounds and no
snapping, else it is a pixel off; integers and an integer fill value are refused, so numbers pass
through float32 (exact up to 2^24); its rescaling is off, since the source table does that; and a
missing file must be an error, not a gap. Across zones GDAL's warper places pixels within 1/8 pixel.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import dask.array as da
import numpy as np
import pystac
import stackstac
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from pipeline.data.signing import signed


def stack(
    items: Sequence[pystac.Item],
    dtypes: Mapping[str, str],
    fills: Mapping[str, float],
    geobox: GeoBox,
    chunk_px: int,
    signer: str,
) -> dict[str, da.Array]:
    """Lazy [N, Y, X] stack of each asset, as stored.

    Args:
        items: N items.
        dtypes, fills: asset key -> data type and value where there is no pixel.
        geobox: window; its CRS must have an EPSG code, its pixels must be square.
        chunk_px: chunk size, pixels.
        signer: of the source row. Hrefs are signed now: compute before the token ends.
    """
    epsg, box = CRS(geobox.crs).epsg, geobox.boundingbox
    plain = [
        {
            "id": item.id,
            "bbox": None,
            "properties": {
                "datetime": item.datetime.isoformat() if item.datetime else None,
                # the window as every item's extent: the file's own grid decides
                "proj:epsg": epsg, "proj:bbox": list(box.bbox),
            },
            "assets": {k: {"href": signed(a.href, signer)} for k, a in item.assets.items()},
        }
        for item in items
    ]
    with warnings.catch_warnings():
        # stackstac 0.5.1 on today's xarray, pandas and dask; nothing that we could change
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        loaded = stackstac.stack(
            plain, assets=list(dtypes), epsg=epsg, resolution=float(geobox.resolution.x),
            bounds=box.bbox, snap_bounds=False, chunksize=chunk_px, dtype=np.dtype("float32"),
            fill_value=np.float32("nan"), rescale=False, sortby_date=False, xy_coords=False,
            properties=False, band_coords=False, errors_as_nodata=(),
        ).data
    return {
        key: da.where(da.isnan(loaded[:, k]), np.float32(fills[key]), loaded[:, k]).astype(dtype)
        for k, (key, dtype) in enumerate(dtypes.items())
    }
