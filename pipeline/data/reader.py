"""odc-loader driver: nearest pixel, exactly, from the file's own grid; errors name the image.

Why not the stock reader: it places pixels by an approximate transformer whose result depends on the
window, so two tilings of one area would differ; it may answer from overviews, which average quality
codes; it trusts the item's shape and transform, which providers get wrong; and it signs hrefs when
the graph is built, not when the file is opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import rasterio
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.loader.types import RasterLoadParams, RasterSource
from pyproj import Transformer
from rasterio.windows import Window

from pipeline.data.hrefs import shown
from pipeline.data.signing import signed
from pipeline.spec.errors import DataTrouble

# Set around every read, so that they hold in whichever thread or process the read happens.
GDAL_OPTIONS: dict[str, Any] = {
    # no listing of the folder in search of side-car files: one request less per file, or hundreds
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # the header of a COG in one request
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    # neighbouring blocks in one request
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    # several ranges over one connection
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_VERSION": "2",
    # busy servers: 429, 500, 502, 503, 504 are tried again, later and later
    "GDAL_HTTP_MAX_RETRY": 4,
    "GDAL_HTTP_RETRY_DELAY": 1,
    # a connection that hangs would hang the map
    "GDAL_HTTP_CONNECTTIMEOUT": 20,
    "GDAL_HTTP_TIMEOUT": 120,
    # headers are read again by the next tile, pixels are not
    "VSI_CACHE": "TRUE",
    "VSI_CACHE_SIZE": 5_000_000,
}

_QUERY = re.compile(r"\?\S+")


class NearestDriver:
    """odc-loader ``ReaderDriver``.

    Args:
        signer: of the source row.
        names: href -> item id, for error messages.
    """

    md_parser = None
    dask_reader = None
    aux_reader = None

    def __init__(self, signer: str, names: Mapping[str, str]) -> None:
        self._signer = signer
        self._names = names

    def new_load(self, geobox: GeoBox, *, chunks: dict[str, int] | None = None) -> None:
        """No state is shared between the reads of a load."""

    def finalise_load(self, load_state: None) -> None:
        """Nothing to close."""

    def capture_env(self) -> dict[str, Any]:
        """GDAL options, carried to wherever a read happens."""
        return dict(GDAL_OPTIONS)

    @contextmanager
    def restore_env(self, env: dict[str, Any], load_state: None) -> Iterator[None]:
        """GDAL environment around a read."""
        with rasterio.Env(**env):
            yield None

    def open(self, src: RasterSource, ctx: None) -> NearestReader:
        """Reader of one asset; the file is opened when it is read."""
        return NearestReader(src.uri, self._signer, self._names.get(src.uri, ""))


class NearestReader:
    """odc-loader ``RasterReader`` of one asset."""

    def __init__(self, href: str, signer: str, item_id: str) -> None:
        self._href = href
        self._signer = signer
        self._item_id = item_id

    def read(
        self,
        cfg: RasterLoadParams,
        dst_geobox: GeoBox,
        *,
        dst: np.ndarray | None = None,
        selection: Any = None,
    ) -> tuple[tuple[slice, slice], np.ndarray]:
        """Pixels of a window, ``cfg.fill_value`` where the file has none.

        Raises:
            DataTrouble: the file cannot be opened or read, or is not what the table says.
        """
        h, w = dst_geobox.shape
        dtype = np.dtype(cfg.dtype)
        try:
            with rasterio.open(
                signed(self._href, self._signer), sharing=False,
                driver="GTiff",  # a VRT of that name could name any file of this machine
            ) as file:
                if not np.can_cast(file.dtypes[0], dtype):
                    raise self._trouble(f"it holds {file.dtypes[0]}, the archive's row {dtype}")
                if file.crs is None or file.transform.b or file.transform.d:
                    raise self._trouble("it is not on a north-up grid of a known CRS")
                pixels = nearest(file, dst_geobox, dtype.type(cfg.fill_value))
        except (rasterio.errors.RasterioError, OSError) as error:
            raise self._trouble(_QUERY.sub("", str(error))) from None
        return (slice(0, h), slice(0, w)), pixels.astype(dtype, copy=False)

    def _trouble(self, reason: str) -> DataTrouble:
        then = "check the connection and run again; --resume keeps what is finished"
        if self._href.startswith("s3://"):
            then = ("this bucket may be requester-pays: set AWS credentials and "
                    "AWS_REQUEST_PAYER=requester, or try --catalog planetary-computer")
        return DataTrouble(f"an asset of item {self._item_id} cannot be read",
                           got=f"{shown(self._href)}: {reason}", then=then)


def nearest(file: rasterio.DatasetReader, window: GeoBox, fill: np.generic) -> np.ndarray:
    """[Y, X] pixels of band 1 whose cell holds the centre of each pixel of a window.

    Args:
        file: opened, north-up.
        window: where to.
        fill: value where the file has no cell.
    """
    x, y = centres(window, file.crs.to_string())
    t = file.transform
    cols, rows = np.floor((x - t.c) / t.a), np.floor((y - t.f) / t.e)
    cols_in, rows_in = (cols >= 0) & (cols < file.width), (rows >= 0) & (rows < file.height)
    inside = cols_in & rows_in  # (H, W)
    if not inside.any():
        return np.full(window.shape, fill)
    # in the window's own CRS these are a row and a column, else (H, W) each
    if cols.shape == rows.shape == inside.shape:
        cols_in = rows_in = inside
    c0, c1 = int(cols[cols_in].min()), int(cols[cols_in].max())
    r0, r1 = int(rows[rows_in].min()), int(rows[rows_in].max())
    block = file.read(1, window=Window(c0, r0, c1 - c0 + 1, r1 - r0 + 1))
    c = np.where(cols_in, cols - c0, 0).astype(np.intp)
    r = np.where(rows_in, rows - r0, 0).astype(np.intp)
    return np.where(inside, block[r, c], fill)


@lru_cache(maxsize=8)  # one tile asks for the same centres for every date and band
def centres(window: GeoBox, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """x and y of a window's pixel centres in a CRS.

    Returns:
        [1, X] and [Y, 1] when it is the window's own CRS, else [Y, X] each; infinite where the
        projection has no answer.
    """
    h, w = window.shape
    t = window.affine
    x, y = t.c + (np.arange(w) + 0.5) * t.a, t.f + (np.arange(h) + 0.5) * t.e
    if window.crs == CRS(crs):
        return x[None, :], y[:, None]
    to_file = Transformer.from_crs(str(window.crs), crs, always_xy=True)
    xs, ys = to_file.transform(*np.meshgrid(x, y))
    return xs, ys
