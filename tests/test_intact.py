"""A flipped bit in a deflated block is an error, never a value; whole blocks always pass."""

from __future__ import annotations

import os
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.windows import Window

from pipeline.data import intact
from pipeline.data.intact import Raw, check_blocks
from pipeline.data.remote import Changed

SIZE = 80  # pixels; blocks of 32 do not divide it
PACKINGS: dict[str, dict[str, Any]] = {
    "uint16": {"dtype": "uint16", "predictor": 2},
    "int16": {"dtype": "int16", "predictor": 2},
    "int32": {"dtype": "int32", "predictor": 2},
    "uint8": {"dtype": "uint8", "predictor": 1},
    "float32": {"dtype": "float32", "predictor": 3},
    "float32 as integers": {"dtype": "float32", "predictor": 2},
    "float64": {"dtype": "float64", "predictor": 3},
    "strips": {"dtype": "uint16", "predictor": 2, "tiled": False, "blockysize": 32},
    "bands of a pixel": {"dtype": "uint16", "predictor": 2, "count": 2, "interleave": "pixel"},
    "bands apart": {"dtype": "uint16", "predictor": 2, "count": 2, "interleave": "band"},
    "big-endian": {"dtype": "uint16", "predictor": 2, "ENDIANNESS": "BIG"},
    "twelve bits": {"dtype": "uint16", "predictor": 1, "NBITS": 12},
}


def write(path: Path, packing: dict[str, Any]) -> np.ndarray:
    """A file of one packing, with an overview, and its pixels."""
    options = {"count": 1, "tiled": True, "blockxsize": 32, "blockysize": 32} | packing
    if not options["tiled"]:
        del options["blockxsize"]
    rng, dtype = np.random.default_rng(0), np.dtype(packing["dtype"])
    values = rng.normal(1000, 40, (SIZE, SIZE)).astype(dtype)
    if dtype.kind != "f":  # noise does not pack: its bytes stand as they are, and may become any
        values = rng.integers(0, 1 << packing.get("NBITS", 8 * dtype.itemsize),
                              (SIZE, SIZE)).astype(f"u{dtype.itemsize}").view(dtype)
    with rasterio.open(path, "w", driver="GTiff", width=SIZE, height=SIZE, compress="deflate",
                       crs="EPSG:32631", transform=Affine(10, 0, 0, 0, -10, 0), **options) as file:
        for band in range(1, options["count"] + 1):
            file.write(values, band)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2])
    return values


def raw_of(path: Path) -> Raw:
    data = path.read_bytes()
    return lambda first, size: data[first : first + size]


def windows(draw: random.Random, size: int, count: int) -> list[Window]:
    """The whole, and some that cut through blocks."""
    found = [Window(0, 0, size, size)]
    for _ in range(count):
        (a, b), (c, d) = (sorted(draw.sample(range(size + 1), 2)) for _ in range(2))
        found.append(Window(a, c, b - a, d - c))
    return found


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("level", [None, 0])
def test_blocks_as_they_were_written_pass(
    tmp_path: Path, packing: str, level: int | None
) -> None:
    path = tmp_path / "a.tif"
    write(path, PACKINGS[packing])
    with rasterio.open(path, **({} if level is None else {"overview_level": level})) as file:
        for window in windows(random.Random(0), file.width, 20):
            check_blocks(file, window, file.read(1, window=window), raw_of(path))


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_flipped_bit_is_an_error_or_changes_no_pixel(tmp_path: Path, packing: str) -> None:
    path = tmp_path / "a.tif"
    values = write(path, PACKINGS[packing])
    whole = path.read_bytes()
    with rasterio.open(path) as file:
        first, size = (int(file.get_tag_item(f"BLOCK_{k}_0_1", "TIFF", bidx=1))
                       for k in ("OFFSET", "SIZE"))
        wanted = file.read(1)
    assert (wanted == values).all()
    draw, outcomes = random.Random(0), dict.fromkeys(("GDAL", "sum", "same"), 0)
    for at in [*range(first + size - 4, first + size), *draw.choices(range(first, first + size),
                                                                   k=30)]:
        data = bytearray(whole)
        data[at] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        with rasterio.open(path, sharing=False) as file:
            try:
                found = file.read(1)
                check_blocks(file, Window(0, 0, SIZE, SIZE), found, raw_of(path))
            except rasterio.errors.RasterioError:
                outcomes["GDAL"] += 1
            except Changed as error:
                outcomes["sum" if "row 1, column 0" in str(error) else "elsewhere"] += 1
            else:
                assert (found == wanted).all()
                outcomes["same"] += 1
    assert sum(outcomes.values()) - outcomes["same"] > 20
    assert outcomes["sum"] or "float" not in packing  # GDAL lets some of these pass


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_stream_that_is_not_what_its_sum_says_is_told(tmp_path: Path, packing: str) -> None:
    """Whatever GDAL made of it."""
    path = tmp_path / "a.tif"
    write(path, PACKINGS[packing])
    data = bytearray(path.read_bytes())
    with rasterio.open(path) as file:
        pixels = file.read(1)
        first, size = (int(file.get_tag_item(f"BLOCK_{k}_0_1", "TIFF", bidx=1))
                       for k in ("OFFSET", "SIZE"))
        for at in range(first + size - 4, first + size):
            data[at] ^= 1
            with pytest.raises(Changed, match="row 1, column 0 is not what its checksum says"):
                check_blocks(file, Window(0, 0, SIZE, SIZE), pixels, lambda a, n: data[a : a + n])
            data[at] ^= 1
        check_blocks(file, Window(0, 0, SIZE, SIZE), pixels, lambda a, n: data[a : a + n])


@pytest.mark.parametrize("packing", ["uint16", "int16", "int32", "uint8", "float32",
                                     "float32 as integers", "float64", "strips", "bands apart"])
def test_common_packings_are_not_unpacked_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str
) -> None:
    """The sum of the pixels, packed again, is that of zlib for what it unpacks."""
    path, seen = tmp_path / "a.tif", []

    def unpacked(stream: bytes, size: int) -> bool:
        seen.append(len(zlib.decompress(stream)) == size)
        return True

    monkeypatch.setattr(intact, "_is_whole", unpacked)
    write(path, PACKINGS[packing])
    with rasterio.open(path) as file:
        inner = Window(0, 0, SIZE if packing == "strips" else 64, 64)
        check_blocks(file, inner, file.read(1, window=inner), raw_of(path))
        assert not seen
        outer = Window(0, 0, SIZE, SIZE)
        check_blocks(file, outer, file.read(1), raw_of(path))
    assert len(seen) == (1 if packing == "strips" else 5)  # those that reach over the border


@pytest.mark.parametrize("compress", ["lzw", "zstd", "none"])
def test_blocks_without_a_checksum_are_not_looked_at(tmp_path: Path, compress: str) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", width=SIZE, height=SIZE, count=1, dtype="uint8",
                       compress=compress, crs="EPSG:32631",
                       transform=Affine(10, 0, 0, 0, -10, 0)) as file:
        file.write(np.ones((SIZE, SIZE), "uint8"), 1)

    def raw(first: int, size: int) -> bytes:
        raise AssertionError(os.fspath(path))

    with rasterio.open(path) as file:
        check_blocks(file, Window(0, 0, SIZE, SIZE), file.read(1), raw)


def test_blocks_that_a_file_leaves_out_have_none(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", width=SIZE, height=SIZE, count=1, dtype="uint8",
                       compress="deflate", tiled=True, blockxsize=32, blockysize=32, nodata=0,
                       SPARSE_OK=True, crs="EPSG:32631",
                       transform=Affine(10, 0, 0, 0, -10, 0)) as file:
        file.write(np.full((32, 32), 7, "uint8"), 1, window=Window(32, 32, 32, 32))
    with rasterio.open(path) as file:
        check_blocks(file, Window(0, 0, SIZE, SIZE), file.read(1), raw_of(path))
