"""What failed once is asked for again, and is never pixels: GDAL keeps answers, and does not say
when it has decoded what its buffer happened to hold."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from pipeline.data import rasters, web
from pipeline.data.block_store import BlockStore
from pipeline.data.rasters import GDAL_OPTIONS, ImageFile, read_image
from pipeline.data.remote import RemoteFile
from pipeline.spec.errors import DataTrouble
from tests.support.fault_server import LASTING, Fault, FaultServer

SIDE = 512
HERE = frozenset({"127.0.0.1"})


def noise(seed: int = 0, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 9999, (side, side), dtype=np.uint16)


def write(path: Path, pixels: np.ndarray, compress: str = "none") -> None:
    with rasterio.open(path, "w", driver="GTiff", width=pixels.shape[1], height=pixels.shape[0],
                       count=1, dtype="uint16", tiled=True, blockxsize=64, blockysize=64,
                       compress=compress, crs="EPSG:32631",
                       transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)) as file:
        file.write(pixels, 1)


def read(href: str, store: BlockStore | None = None, side: int = SIDE) -> np.ndarray:
    image = ImageFile(href, "an item", trusted=HERE)
    with rasterio.Env(**GDAL_OPTIONS):
        return read_image(image, lambda f: f.read(Window(0, 0, side, side)).copy(), store)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    monkeypatch.setattr(web, "_sleep", lambda _: None)
    monkeypatch.setattr(web, "PATIENCE_S", 0.2)
    RemoteFile._headers.clear()
    write(tmp_path / "plain.tif", noise())
    with FaultServer(tmp_path) as running:
        yield running


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("kind", [k for k in LASTING if k != "corrupt"])
def test_a_failure_between_blocks_is_no_pixel(server: FaultServer, kind: str, held: bool) -> None:
    """Blocks without compression decode to whatever is there: GDAL raises nothing."""
    href, store = f"{server.url}/files/plain.tif", BlockStore(1 << 24) if held else None
    server.wrong = [Fault(kind, where="pixels", times=10**6)]
    with pytest.raises(DataTrouble, match=r"an item cannot be read.*plain\.tif"):
        read(href, store)
    assert server.struck
    server.wrong = []
    np.testing.assert_array_equal(read(href, store), noise())  # nothing of it was kept


def test_a_file_that_ends_too_early_is_no_pixel(server: FaultServer, tmp_path: Path) -> None:
    """For good, and the server thinks that it is whole."""
    path = tmp_path / "plain.tif"
    path.write_bytes(path.read_bytes()[: SIDE * SIDE])  # half of the pixels
    with pytest.raises(DataTrouble, match=r"plain\.tif"):
        read(f"{server.url}/files/plain.tif")


def test_a_file_that_was_replaced_is_read_anew(server: FaultServer, tmp_path: Path) -> None:
    """Its header was kept from the tile before; what it points at is elsewhere now."""
    href = f"{server.url}/files/plain.tif"
    np.testing.assert_array_equal(read(href), noise())
    write(tmp_path / "plain.tif", noise(1, 640))
    np.testing.assert_array_equal(read(href), noise(1, 640)[:SIDE, :SIDE])


def test_a_block_that_came_damaged_once_is_asked_for_again(
    server: FaultServer, tmp_path: Path
) -> None:
    write(tmp_path / "packed.tif", noise(), "deflate")
    server.wrong = [Fault("corrupt", where="pixels")]
    np.testing.assert_array_equal(read(f"{server.url}/files/packed.tif"), noise())
    assert server.struck == [("corrupt", "packed.tif")]


@pytest.mark.parametrize("status", [403, 404])
def test_a_bucket_that_refused_once_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """GDAL reads buckets itself, and keeps the answer that a file is not there."""
    write(tmp_path / "a.tif", noise())
    content, refused, asked = (tmp_path / "a.tif").read_bytes(), [True], set()

    class Bucket(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.add(self.path)
            first, _, last = self.headers.get("Range", "bytes=0-").removeprefix(
                "bytes=").partition("-")
            body = content[int(first): int(last) + 1 if last else None]
            self.send_response(status if refused else 206)
            body = b"" if refused else body
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/"
                                              f"{len(content)}")
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            asked.add(self.path)
            self.send_response(status if refused else 200)
            self.send_header("Content-Length", str(0 if refused else len(content)))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    bucket = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    threading.Thread(target=bucket.serve_forever, args=(0.05,), daemon=True).start()
    for name, value in (("AWS_S3_ENDPOINT", f"127.0.0.1:{bucket.server_port}"),
                        ("AWS_HTTPS", "NO"), ("AWS_VIRTUAL_HOSTING", "FALSE"),
                        ("AWS_NO_SIGN_REQUEST", "YES"), ("GDAL_HTTP_MAX_RETRY", 0)):
        monkeypatch.setitem(rasters.GDAL_OPTIONS, name, value)
    try:
        with pytest.raises(DataTrouble, match=r"an item cannot be read.*a\.tif"):
            read(f"s3://box{status}/a.tif")
        refused.clear()
        asked.clear()
        np.testing.assert_array_equal(read(f"s3://box{status}/a.tif"), noise())
        assert asked == {f"/box{status}/a.tif"}  # no listing of the bucket, no side-car files
    finally:
        bucket.shutdown()
        bucket.server_close()
