"""Arrays -> cloud-optimised GeoTIFFs, reopened and compared with what was written.

GDAL's COG driver can only copy a finished dataset, hence two steps: windows into a temporary tiled
GeoTIFF, then the copy. Overviews: MODE for classes, AVERAGE for values. GDAL leaves nodata out of
both: an overview pixel is nodata only where all pixels under it are (so overviews reach up to one
of their own pixels beyond the area's edge), and a class overview holds no code that is not there.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import rasterio
import rasterio.shutil
from odc.geo.geobox import GeoBox
from rasterio._err import CPLE_BaseError  # raised by GDAL copies; rasterio has no public name
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, MemoryFile
from rasterio.windows import Window

from pipeline.data.files import replacing, write_trouble
from pipeline.spec.errors import DataTrouble
from pipeline.spec.layers import Layer

_BLOCK = 512
_WINDOW = 4 * _BLOCK  # 4 MB of uint8: few reads of the run store, little memory
# PAM off: no .aux.xml beside our files. GDAL's block cache, in bytes, is otherwise 5 % of the
# machine's memory.
_GDAL = {"GDAL_PAM_ENABLED": "NO", "GDAL_CACHEMAX": 64 << 20}


class Raster(Protocol):
    """A 2-D array-like: NumPy, ``zarr.Array`` or a view that is read window by window."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, window: tuple[slice, slice]) -> Any: ...


def write_cog(
    path: Path, data: Raster, geobox: GeoBox, layer: Layer, tags: Mapping[str, str]
) -> None:
    """Write one layer as a verified COG; memory is bounded by one 2048 x 2048 window.

    Args:
        path: of the COG; what was there before stays until the new file is verified.
        data: [Y, X] codes of ``layer.dtype``; read once, north to south.
        geobox: Y x X pixel grid.
        layer: meaning and encoding of the codes.
        tags: dataset metadata.

    Raises:
        ValueError: ``data`` is not of the shape of ``geobox`` or the dtype of ``layer``.
        BadRequest: ``path`` cannot be written to.
        DataTrouble: the disk is full or failing, the written file does not read back as it should,
            or ``data`` holds a code that the layer does not have.
    """
    if tuple(data.shape) != tuple(geobox.shape) or np.dtype(data.dtype) != np.dtype(layer.dtype):
        raise ValueError(
            f"{layer.name} is {data.dtype}{tuple(data.shape)}, "
            f"wanted {layer.dtype}{tuple(geobox.shape)}"
        )
    with replacing(path) as temporary, rasterio.Env(**_GDAL):
        plain = temporary.with_name("plain.tif")
        try:
            crc = _write_plain(plain, data, geobox, layer, tags, path)
            rasterio.shutil.copy(plain, temporary, driver="COG", **_cog_options(layer))
        except (RasterioError, CPLE_BaseError) as error:
            raise write_trouble(path, error) from error
        # also finds what GDAL does not tell: an error while it closes a file on a full disk
        if fault := _fault(temporary, geobox, layer, tags, crc):
            raise write_trouble(path, RuntimeError(fault))


def verify_cog(
    path: Path, geobox: GeoBox, layer: Layer, tags: Mapping[str, str], crc: int | None = None
) -> None:
    """Reopen a COG and compare layout, grid, encoding, legend, tags and pixels.

    Args:
        path: of the COG.
        geobox, layer, tags: what it was written with.
        crc: ``checksum`` of the written codes; None only checks that all pixels can be read.

    Raises:
        DataTrouble: the first difference found.
    """
    with rasterio.Env(**_GDAL):
        if fault := _fault(path, geobox, layer, tags, crc):
            raise DataTrouble(f"{path} is not the map that was written", got=fault,
                              then="delete it and type the command again with --resume")


def checksum(data: Raster) -> int:
    """CRC-32 of a raster's codes, window by window: the ``crc`` of ``verify_cog``."""
    crc = 0
    for rows, cols in _windows(data.shape):
        crc = zlib.crc32(_codes(data, rows, cols).data, crc)
    return crc


def _windows(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    height, width = shape
    for row in range(0, height, _WINDOW):
        for col in range(0, width, _WINDOW):
            yield (
                slice(row, min(row + _WINDOW, height)), slice(col, min(col + _WINDOW, width))
            )


def _write_plain(
    plain: Path, data: Raster, geobox: GeoBox, layer: Layer, tags: Mapping[str, str], path: Path
) -> int:
    """Write the temporary GeoTIFF and return the checksum of the codes."""
    height, width = geobox.shape
    crc = 0
    with rasterio.open(
        plain, "w", driver="GTiff", height=height, width=width, count=1, dtype=layer.dtype,
        nodata=layer.nodata, crs=f"EPSG:{_epsg(geobox)}", transform=geobox.affine,
        tiled=True, blockxsize=_BLOCK, blockysize=_BLOCK, bigtiff="IF_SAFER",
        compress=_compression(), predictor=1,  # read once and thrown away: speed before size
    ) as out:
        out.update_tags(**tags)
        out.set_band_description(1, layer.name)
        if layer.kind == "classes":
            out.write_colormap(1, _colours(layer))
            out.update_tags(1, **_class_tags(layer))
        else:
            out.scales, out.offsets, out.units = (layer.scale,), (layer.offset,), (layer.unit,)
        for rows, cols in _windows(data.shape):
            block = _codes(data, rows, cols)
            if layer.kind == "classes":
                _check_classes(block, layer, path)
            crc = zlib.crc32(block.data, crc)
            out.write(block, 1, window=Window.from_slices(rows, cols))
    return crc


def _codes(data: Raster, rows: slice, cols: slice) -> np.ndarray:
    return np.ascontiguousarray(data[rows, cols])


def _check_classes(block: np.ndarray, layer: Layer, path: Path) -> None:
    known = np.zeros(256, bool)
    known[[layer.nodata, *(c.code for c in layer.classes)]] = True
    if not known[block].all():
        raise DataTrouble(
            f"{path}: a pixel's code is no class", got=int(block[~known[block]][0]),
            allowed=", ".join(f"{c.code} {c.name}" for c in layer.classes),
        )


def _cog_options(layer: Layer) -> dict[str, Any]:
    values = layer.kind == "values"
    return {
        "BLOCKSIZE": _BLOCK,
        "COMPRESS": _compression(),
        "PREDICTOR": "YES" if values else "NO",  # neighbouring class codes are no numbers
        "OVERVIEW_RESAMPLING": "AVERAGE" if values else "MODE",
        "NUM_THREADS": "ALL_CPUS",
        "BIGTIFF": "IF_SAFER",
    }


@lru_cache
def _compression() -> str:
    """ZSTD where this GDAL was built with it (rasterio's wheels are), else DEFLATE."""
    try:
        with MemoryFile() as memory:
            with memory.open(driver="GTiff", height=1, width=1, count=1, dtype="uint8",
                             compress="ZSTD", crs="EPSG:32631",
                             transform=rasterio.Affine.scale(10, -10)) as out:
                out.write(np.zeros((1, 1, 1), np.uint8))
            with memory.open() as back:
                return "ZSTD" if str(back.profile.get("compress")).upper() == "ZSTD" else "DEFLATE"
    except (RasterioError, CPLE_BaseError):
        return "DEFLATE"


def _colours(layer: Layer) -> dict[int, tuple[int, int, int, int]]:
    # TIFF has no alpha in its colour table: GDAL makes the nodata entry transparent when it reads
    return {c.code: (*c.colour, 255) for c in layer.classes} | {layer.nodata: (0, 0, 0, 0)}


def _class_tags(layer: Layer) -> dict[str, str]:
    """Class names as band metadata: GeoTIFF has no place of its own for category names."""
    return {f"CLASS_{c.code}": c.name for c in layer.classes}


def _fault(
    path: Path, geobox: GeoBox, layer: Layer, tags: Mapping[str, str], crc: int | None
) -> str:
    """The first difference between a file and what it should be; empty when there is none."""
    try:
        with rasterio.open(path) as cog:
            for what, got, wanted in _facts(cog, geobox, layer, tags):
                if got != wanted:
                    return f"{what} {got}, not {wanted}"
            found = checksum(_Band(cog))
    except (RasterioError, CPLE_BaseError) as error:
        return str(error)
    return "" if crc in (None, found) else "other pixels"


def _facts(
    cog: DatasetReader, geobox: GeoBox, layer: Layer, tags: Mapping[str, str]
) -> Iterator[tuple[str, Any, Any]]:
    """(what, found, wanted) of everything but the pixels."""
    yield "layout", cog.tags(ns="IMAGE_STRUCTURE").get("LAYOUT"), "COG"
    yield "block shape", cog.block_shapes, [(_BLOCK, _BLOCK)]
    yield "shape", cog.shape, tuple(geobox.shape)
    yield "has overviews:", bool(cog.overviews(1)), max(cog.shape) > _BLOCK
    yield "CRS", cog.crs.to_epsg() if cog.crs else None, _epsg(geobox)
    yield "transform", tuple(cog.transform), tuple(geobox.affine)
    yield "data type", cog.dtypes, (layer.dtype,)
    yield "nodata", cog.nodata, layer.nodata
    yield "description", cog.descriptions, (layer.name,)
    yield "scale", cog.scales, (layer.scale,)
    yield "offset", cog.offsets, (layer.offset,)
    yield "unit", cog.units[0] or "", layer.unit
    found = cog.tags()
    yield "tags", {key: found.get(key) for key in tags}, dict(tags)
    if layer.kind == "classes":
        table, names, wanted = cog.colormap(1), cog.tags(1), _class_tags(layer)
        yield "colour table", {k: table.get(k) for k in _colours(layer)}, _colours(layer)
        yield "class names", {key: names.get(key) for key in wanted}, wanted


def _epsg(geobox: GeoBox) -> int | None:
    return geobox.crs.epsg if geobox.crs else None


class _Band:
    """Band 1 of an open file, read by slices."""

    def __init__(self, cog: DatasetReader) -> None:
        self._cog, self.shape, self.dtype = cog, cog.shape, cog.dtypes[0]

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        return self._cog.read(1, window=Window.from_slices(*window))
