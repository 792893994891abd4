"""Images of one source row as lazy stacks of stored numbers, by odc-stac or by stackstac."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import dask.array as da
import numpy as np
import odc.stac
import pystac
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.loader.types import RasterLoadParams

from pipeline.data import load_stackstac
from pipeline.data.block_store import SHARED
from pipeline.data.items import ItemSet, when
from pipeline.data.rasters import ImageFile
from pipeline.data.reader import NearestDriver, NearestReader
from pipeline.data.sources import MASK_DTYPE, MASK_FILL, STORED_DTYPE, assets_needed
from pipeline.prep.masks import MASKS, SCL_VEGETATION
from pipeline.prep.radiometry import offset_doubt, scaling, to_physical
from pipeline.spec.errors import DataTrouble
from pipeline.spec.source import Source

Loader = Literal["odc", "stackstac"]

_PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"


@dataclass(frozen=True)
class Images:
    """N images of one source row: all that their numbers mean, without the numbers.

    Attributes:
        source: the row.
        names: [N] ids of the items.
        index: [N] position of each image in its ItemSet.
        scale, offset: band -> [N].
        files: asset key -> [N].
    """

    source: Source
    names: tuple[str, ...]
    index: np.ndarray
    scale: Mapping[str, np.ndarray]
    offset: Mapping[str, np.ndarray]
    files: Mapping[str, tuple[ImageFile, ...]]

    def numbers(self, band: str, k: int, window: GeoBox) -> np.ndarray:
        """[Y, X] numbers of an image as stored, read now; nodata where it has none.

        Raises:
            DataTrouble: the file cannot be read.
        """
        return self._read(self.source.assets[band], k, window)

    def quality(self, k: int, window: GeoBox) -> np.ndarray | None:
        """[Y, X] quality codes of an image, read now; None where the row has no mask."""
        return self._read(self.source.mask_asset, k, window) if self.source.mask else None

    def covered(self, quality: np.ndarray | None) -> np.ndarray | None:
        """Where quality codes say that the ground was not seen; None where there are none."""
        if quality is None or self.source.mask is None:
            return None
        return ~MASKS[self.source.mask](quality)

    def physical(
        self, band: str, k: int, numbers: np.ndarray, covered: np.ndarray | None
    ) -> np.ndarray:
        """[Y, X] reflectance or linear power of an image, NaN where there is no observation."""
        values = to_physical(numbers, self.source, self.scale[band][k], self.offset[band][k])
        if covered is not None:
            values[covered] = np.nan
        return values

    def check_offset(self, band: str, k: int, numbers: np.ndarray, quality: np.ndarray) -> None:
        """Compare the offset of an image with its pixels, where a rule is known for it.

        Raises:
            DataTrouble: they contradict each other.
        """
        if self.source.mask != "scl" or band != "B04":
            return
        clear = MASKS[self.source.mask](quality) & (numbers != self.source.nodata)
        red = numbers[clear & (quality == SCL_VEGETATION)]
        scale, offset = self.scale[band][k], self.offset[band][k]
        vegetation = to_physical(red, self.source, scale, offset)
        doubt = offset_doubt(vegetation, int(clear.sum()), self.source, float(offset))
        if doubt:
            raise DataTrouble(
                f"item {self.names[k]} contradicts its metadata", got=doubt,
                then="try another --catalog, and tell the provider of this one",
            )

    def _read(self, asset: str, k: int, window: GeoBox) -> np.ndarray:
        how = RasterLoadParams(*stored_as(self.source, asset))
        return NearestReader(self.files[asset][k], SHARED).read(how, window)[1]


@dataclass(frozen=True)
class Stack:
    """Images and their lazy numbers over one window.

    Attributes:
        images: what they are.
        dn: band -> [N, Y, X] numbers as stored, the row's nodata where there is none.
        qa: [N, Y, X] quality band; None where the row has no mask.
    """

    images: Images
    dn: Mapping[str, da.Array]
    qa: da.Array | None

    def blocks(self, band: str) -> list[da.Array]:
        """Numbers of a band and, if the row has a mask, quality codes, whole in time."""
        arrays = [self.dn[band]] if self.qa is None else [self.dn[band], self.qa]
        return [a.rechunk({0: -1}) for a in arrays]


def images_of(items: ItemSet, geobox: GeoBox, bands: Sequence[str]) -> list[Images]:
    """All images that may touch a window, by source row; nothing is read.

    Images in the window's own CRS come first: of two tiles of a pass the unwarped one is kept.

    Raises:
        DataTrouble: metadata that the row's scaling rule needs is missing.
    """
    native = str(geobox.crs)
    groups: dict[str, list[int]] = {}
    for k in sorted(items.touching(geobox), key=lambda k: (crs_of(items.items[k]) != native, k)):
        groups.setdefault(items.sources[k].key, []).append(k)
    return [_images(items, index, tuple(bands)) for index in groups.values()]


def open_stacks(
    items: ItemSet, geobox: GeoBox, bands: Sequence[str], chunk_px: int, loader: Loader
) -> list[Stack]:
    """Lazy stacks of ``images_of`` a window."""
    return [_open(items, images, geobox, tuple(bands), chunk_px, loader)
            for images in images_of(items, geobox, bands)]


def crs_of(item: pystac.Item) -> str:
    """``EPSG:n`` that an item states for itself or its first asset; empty when it does not."""
    assets = iter(item.assets.values())
    places = [item.properties, *(asset.extra_fields for asset in assets)]
    return next((str(p["proj:code"]).upper() for p in places if p.get("proj:code")), "")


def stored_as(source: Source, asset: str) -> tuple[str, float]:
    """Data type of an asset's numbers, and the one that stands for none."""
    if source.mask is not None and asset == source.mask_asset:
        return MASK_DTYPE[source.mask], MASK_FILL[source.mask]
    return STORED_DTYPE[source.unit], source.nodata


def _images(items: ItemSet, index: list[int], bands: tuple[str, ...]) -> Images:
    chosen = [items.items[k] for k in index]
    source = items.sources[index[0]]
    needed = assets_needed(source, bands)
    if needed is None or any(key not in item.assets for item in chosen for key in needed):
        raise ValueError("pass ItemSet.usable(bands): some items lack assets of these bands")
    scalings = {b: [_scaling(source, item, source.assets[b]) for item in chosen] for b in bands}
    return Images(
        source, tuple(item.id for item in chosen), np.asarray(index),
        {b: np.array([s for s, _ in pairs], np.float32) for b, pairs in scalings.items()},
        {b: np.array([o for _, o in pairs], np.float32) for b, pairs in scalings.items()},
        {key: tuple(items.file(k, key) for k in index) for key in needed},
    )


def _open(
    items: ItemSet, images: Images, geobox: GeoBox, bands: tuple[str, ...], chunk_px: int,
    loader: Loader,
) -> Stack:
    source, needed = images.source, tuple(images.files)
    slim = [_slim(items.items[k], {key: images.files[key][n].alias for key in needed}, geobox)
            for n, k in enumerate(images.index)]
    files = {f.alias: f for column in images.files.values() for f in column}
    kinds = {key: stored_as(source, key) for key in needed}
    dtypes, fills = {k: v[0] for k, v in kinds.items()}, {k: v[1] for k, v in kinds.items()}
    load = load_stackstac.stack if loader == "stackstac" else _odc
    arrays = load(slim, dtypes, fills, geobox, chunk_px, files)
    return Stack(
        images, {b: arrays[source.assets[b]] for b in bands},
        arrays[source.mask_asset] if source.mask is not None else None,
    )


def _odc(
    items: Sequence[pystac.Item], dtypes: Mapping[str, str], fills: Mapping[str, float],
    geobox: GeoBox, chunk_px: int, files: Mapping[str, ImageFile],
) -> dict[str, da.Array]:
    loaded = odc.stac.load(
        items, bands=list(dtypes), geobox=geobox, groupby="id", resampling="nearest",
        chunks={"y": chunk_px, "x": chunk_px}, fail_on_error=True,
        driver=NearestDriver(files),
        stac_cfg={"*": {"assets": {k: {"data_type": dtypes[k], "nodata": fills[k]} for k in dtypes},
                        "warnings": "ignore"}},
    )
    return {key: loaded[key].data for key in dtypes}


def _slim(item: pystac.Item, aliases: Mapping[str, str], window: GeoBox) -> pystac.Item:
    """A copy that states the window as its grid, and aliases by asset instead of addresses.

    Providers' shapes, transforms and outlines may be wrong or missing, and a loader that believes
    them leaves out pixels without a word. So every file is asked, and its own grid decides.
    """
    slim = pystac.Item(
        item.id, None, None, when(item),
        {"proj:wkt2": CRS(window.crs).to_wkt(), "proj:shape": list(window.shape),
         "proj:transform": list(window.affine[:6])},
        stac_extensions=[_PROJECTION], collection="images",
    )
    for key, alias in aliases.items():
        slim.add_asset(key, pystac.Asset(alias, media_type="image/tiff", roles=["data"]))
    return slim


def _scaling(source: Source, item: pystac.Item, key: str) -> tuple[float, float]:
    try:
        return scaling(source, item.properties, item.assets[key].extra_fields)
    except ValueError as error:
        raise DataTrouble(f"item {item.id} cannot be scaled: {error}",
                          then="try another --catalog") from None
