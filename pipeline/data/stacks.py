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

from pipeline.data import load_stackstac
from pipeline.data.items import ItemSet, when
from pipeline.data.rasters import ImageFile
from pipeline.data.reader import NearestDriver
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
    """

    source: Source
    names: tuple[str, ...]
    index: np.ndarray
    scale: Mapping[str, np.ndarray]
    offset: Mapping[str, np.ndarray]

    def physical(self, band: str, blocks: Sequence[np.ndarray], member: np.ndarray) -> np.ndarray:
        """[M, Y, X] reflectance or linear power of some of the images, NaN where not clear.

        Args:
            band: canonical name.
            blocks: of ``Stack.blocks(band)``, computed.
            member: [M] which of the N images.

        Raises:
            DataTrouble: the pixels contradict the offset that an image's metadata imply.
        """
        scale = self.scale[band][member][:, None, None]
        offset = self.offset[band][member][:, None, None]
        values = to_physical(blocks[0][member], self.source, scale, offset)
        if self.source.mask is not None:
            values[~MASKS[self.source.mask](blocks[1][member])] = np.nan
        if self.source.mask == "scl" and band == "B04":
            self._check_offsets(values, blocks[1][member], offset.ravel(), member)
        return values

    def _check_offsets(
        self, red: np.ndarray, scl: np.ndarray, offset: np.ndarray, member: np.ndarray
    ) -> None:
        for k, name in enumerate(member):
            clear = np.isfinite(red[k])
            vegetation = red[k][clear & (scl[k] == SCL_VEGETATION)]
            doubt = offset_doubt(vegetation, int(clear.sum()), self.source, float(offset[k]))
            if doubt:
                raise DataTrouble(
                    f"item {self.names[name]} contradicts its metadata", got=doubt,
                    then="try another --catalog, and tell the provider of this one",
                )


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
        """Arrays that ``Images.physical`` wants for a band, whole in time."""
        arrays = [self.dn[band]] if self.qa is None else [self.dn[band], self.qa]
        return [a.rechunk({0: -1}) for a in arrays]


def open_stacks(
    items: ItemSet, geobox: GeoBox, bands: Sequence[str], chunk_px: int, loader: Loader
) -> list[Stack]:
    """Stacks of all images that may touch a window, one a source row; nothing is read yet.

    Images in the window's own CRS come first: of two tiles of a pass the unwarped one is kept.

    Raises:
        DataTrouble: metadata that the row's scaling rule needs is missing.
    """
    native = str(geobox.crs)
    groups: dict[str, list[int]] = {}
    for k in sorted(items.touching(geobox), key=lambda k: (crs_of(items.items[k]) != native, k)):
        groups.setdefault(items.sources[k].key, []).append(k)
    return [_open(items, index, geobox, tuple(bands), chunk_px, loader)
            for index in groups.values()]


def crs_of(item: pystac.Item) -> str:
    """``EPSG:n`` that an item states for itself or its first asset; empty when it does not."""
    assets = iter(item.assets.values())
    places = [item.properties, *(asset.extra_fields for asset in assets)]
    return next((str(p["proj:code"]).upper() for p in places if p.get("proj:code")), "")


def _open(
    items: ItemSet, index: list[int], geobox: GeoBox, bands: tuple[str, ...], chunk_px: int,
    loader: Loader,
) -> Stack:
    chosen = [items.items[k] for k in index]
    source = items.sources[index[0]]
    needed = assets_needed(source, bands)
    if needed is None or any(key not in item.assets for item in chosen for key in needed):
        raise ValueError("pass ItemSet.usable(bands): some items lack assets of these bands")
    slim = [_slim(item, needed, geobox) for item in chosen]
    files = {f.href: f for k in index for key in needed if (f := items.file(k, key))}
    dtypes = dict.fromkeys(needed, STORED_DTYPE[source.unit])
    fills: dict[str, float] = dict.fromkeys(needed, source.nodata)
    if source.mask is not None:
        dtypes[source.mask_asset] = MASK_DTYPE[source.mask]
        fills[source.mask_asset] = MASK_FILL[source.mask]
    if loader == "stackstac":
        arrays = load_stackstac.stack(slim, dtypes, fills, geobox, chunk_px, files)
    else:
        arrays = _odc(slim, dtypes, fills, geobox, chunk_px, files)
    scalings = {b: [_scaling(source, item, source.assets[b]) for item in chosen] for b in bands}
    images = Images(
        source, tuple(item.id for item in chosen), np.asarray(index),
        {b: np.array([s for s, _ in pairs], np.float32) for b, pairs in scalings.items()},
        {b: np.array([o for _, o in pairs], np.float32) for b, pairs in scalings.items()},
    )
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


def _slim(item: pystac.Item, needed: tuple[str, ...], window: GeoBox) -> pystac.Item:
    """A copy that states the window as its grid.

    Providers' shapes, transforms and outlines may be wrong or missing, and a loader that believes
    them leaves out pixels without a word. So every file is asked, and its own grid decides.
    """
    slim = pystac.Item(
        item.id, None, None, when(item),
        {"proj:wkt2": CRS(window.crs).to_wkt(), "proj:shape": list(window.shape),
         "proj:transform": list(window.affine[:6])},
        stac_extensions=[_PROJECTION], collection="images",
    )
    for key in needed:
        asset = item.assets[key]
        slim.add_asset(key, pystac.Asset(asset.href, media_type="image/tiff", roles=["data"]))
    return slim


def _scaling(source: Source, item: pystac.Item, key: str) -> tuple[float, float]:
    try:
        return scaling(source, item.properties, item.assets[key].extra_fields)
    except ValueError as error:
        raise DataTrouble(f"item {item.id} cannot be scaled: {error}",
                          then="try another --catalog") from None
