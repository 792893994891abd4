"""Small images of random pixels in blocks, and how often their blocks are decoded."""

from __future__ import annotations

import collections
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.windows import Window

from pipeline.data import rasters, stacks
from pipeline.data.block_store import BlockStore
from pipeline.data.items import ItemSet
from pipeline.data.search import to_item
from pipeline.spec.grid import window
from pipeline.spec.timeline import parse_period
from tests.support.records import record

SPRING = parse_period("2023-04", 2)
SIDE = 96  # pixels of the images made here, in blocks of 32
CORNER = (500000, 5600000)
BANDS = {"s1": ("vv", "vh"), "s2": ("B04", "B08")}


def empty_store(monkeypatch: pytest.MonkeyPatch) -> BlockStore:
    """An empty store in place of the process's own."""
    made = BlockStore(1 << 26)
    monkeypatch.setattr(stacks, "SHARED", made)
    return made


def count_decoded(monkeypatch: pytest.MonkeyPatch) -> collections.Counter:
    """How often each block of each file was decoded."""
    seen: collections.Counter = collections.Counter()
    lock = threading.Lock()

    def opened(*args: Any, **options: Any) -> Watched:
        return Watched(real(*args, **options), args[0], seen, lock)

    real = rasterio.open
    monkeypatch.setattr(rasters.rasterio, "open", opened)
    return seen


class Watched:
    """An opened file that counts the blocks that GDAL decodes for a read."""

    def __init__(self, file: rasterio.DatasetReader, name: str, seen: collections.Counter,
                 lock: threading.Lock) -> None:
        self._file, self._name, self._seen, self._lock = file, name, seen, lock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, band: int, *, window: Window | None = None) -> np.ndarray:
        window = window or Window(0, 0, self._file.width, self._file.height)
        high, wide = self._file.block_shapes[0]
        (top, bottom), (left, right) = window.toranges()
        with self._lock:
            self._seen.update(
                (self._name, y, x) for y in range(top // high, -(-bottom // high))
                for x in range(left // wide, -(-right // wide)))
        return self._file.read(band, window=window)


def write(path: Path, values: np.ndarray, pixel: int = 10, **profile: Any) -> None:
    """A tiled GeoTIFF at CORNER, its north-west."""
    high, wide = values.shape
    with rasterio.open(path, "w", driver="GTiff", width=wide, height=high, count=1,
                       dtype=values.dtype, crs="EPSG:32631",
                       transform=Affine(pixel, 0, CORNER[0], 0, -pixel, CORNER[1]),
                       **({"tiled": True, "blockxsize": 32, "blockysize": 32} | profile)) as file:
        file.write(values, 1)


def scenes(folder: Path, sensor: str, dates: int = 3, pixel: int = 10, **profile: Any) -> ItemSet:
    """Images of April 2023, each of its own random pixels."""
    rng = np.random.default_rng(7)
    items = []
    for k in range(dates):
        name = f"{sensor}-{k}"
        raw = record(name, f"2023-04-{5 * k + 2:02d}T10:00:00Z",
                     **{"s2:processing_baseline": "02.12"})
        raw["geometry"] = shapely.geometry.mapping(shapely.box(2.9, 50.4, 3.1, 50.6))
        if sensor == "s1":
            raw["collection"], keys = "sentinel-1-rtc", ["vv", "vh"]
            images = [rng.gamma(2, 0.05, (SIDE, SIDE)).astype(np.float32) for _ in keys]
        else:
            keys = ["B04", "B08", "SCL"]
            images = [rng.integers(300, 4000, (SIDE, SIDE)).astype(np.uint16) for _ in keys]
            images[2] = rng.choice(np.array([4, 5, 8], np.uint8), (SIDE // 2, SIDE // 2))
        raw["assets"] = {key: {"href": str(folder / f"{name}-{key}.tif")} for key in keys}
        for key, image in zip(keys, images, strict=True):
            write(folder / f"{name}-{key}.tif", image, 20 if key == "SCL" else pixel, **profile)
        items.append(to_item(raw))
    return ItemSet(sensor, str(folder), tuple(items))


def grid_of(x0: int, y0: int, side: int, pixel: int = 10) -> Any:
    """A window some pixels from the corner."""
    west, north = CORNER[0] + x0 * pixel, CORNER[1] - y0 * pixel
    return window((west, north - side * pixel, west + side * pixel, north), 32631, pixel)
