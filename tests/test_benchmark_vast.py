"""A file that repeats four blocks holds, read by GDAL, what it says it repeats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.benchmarks.vast import enlarge


@pytest.mark.parametrize(("dtype", "predictor"), [("float32", 3), ("uint16", 2), ("uint8", 1)])
def test_four_blocks_over_and_over(tmp_path: Path, dtype: str, predictor: int) -> None:
    pixels = (np.random.default_rng(1).random((100, 150)) * 200).astype(dtype)
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", width=150, height=100, count=1,
                       dtype=dtype, tiled=True, blockxsize=48, blockysize=32, compress="zstd",
                       predictor=predictor, nodata=0, crs="EPSG:32631",
                       transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)) as file:
        file.write(pixels, 1)
    enlarge(tmp_path / "a.tif", tmp_path / "b.tif", 1000)
    with rasterio.open(tmp_path / "b.tif") as file:
        found = file.read(1)
        assert (file.crs.to_epsg(), file.nodata, file.transform.a) == (32631, 0, 10)
    np.testing.assert_array_equal(
        found, np.tile(pixels[:64, :96], (16, 11))[:1000, :1000])
    assert (tmp_path / "b.tif").stat().st_size < 60_000
