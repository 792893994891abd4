"""How many requests a file on the web takes: few, and none for what is known already."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.windows import Window

from pipeline.data.block_store import BlockStore
from pipeline.data.rasters import GDAL_OPTIONS, ImageFile, read_image
from pipeline.data.remote import RemoteFile
from tests.support.stac_server import StacServer

SIDE = 1024
PIXELS = np.random.default_rng(0).integers(1, 9999, (SIDE, SIDE), dtype=np.uint16)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StacServer]:
    """A COG of 2 MB in 64 blocks: its header takes some kilobytes, its blocks have gaps between
    them (GDAL writes their size before each)."""
    RemoteFile._headers.clear()
    plain = tmp_path / "plain.tif"
    with rasterio.open(plain, "w", driver="GTiff", width=SIDE, height=SIDE, count=1,
                       dtype="uint16", crs="EPSG:32631",
                       transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)) as file:
        file.write(PIXELS, 1)
    rasterio.shutil.copy(plain, tmp_path / "a.tif", driver="COG", BLOCKSIZE=128,
                         COMPRESS="DEFLATE")
    with StacServer(tmp_path) as running:
        yield running


def read(server: StacServer, window: Window, store: BlockStore | None = None) -> int:
    """Read a window, rightly; the number of requests that it took."""
    before = len(server.requests)
    image = ImageFile(f"{server.url}/files/a.tif", "an item", trusted=frozenset({"127.0.0.1"}))
    with rasterio.Env(**GDAL_OPTIONS):
        got = read_image(image, lambda file: file.read(window).copy(), store)
    np.testing.assert_array_equal(got, PIXELS[window.toslices()])
    return len(server.requests) - before


def test_a_header_is_one_request_and_asked_for_once(server: StacServer) -> None:
    assert read(server, Window(300, 300, 10, 10)) == 2  # the header, a block
    assert read(server, Window(700, 500, 10, 10)) == 1  # another block


def test_neighbouring_blocks_are_one_request(server: StacServer) -> None:
    """A row of blocks, with what stands between them; a wide window, row by row at the most."""
    store = BlockStore(1 << 26)
    assert read(server, Window(0, 0, SIDE, 100), store) == 2
    assert read(server, Window(0, 0, SIDE, 100), store) == 0  # held
    assert read(server, Window(0, 256, SIDE, 512), store) <= 4
    assert len({path for _, path, _, _ in server.requests}) == 1
