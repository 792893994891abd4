"""Catalogues and cards are foreign: where they lead, what files are, how large all may be."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from pipeline.data import rasters, reader, web
from pipeline.data.hrefs import absolute
from pipeline.data.items import ItemSet
from pipeline.data.load import open_composite
from pipeline.data.search import search
from pipeline.data.stacks import Loader
from pipeline.spec.card import CheckpointCard
from pipeline.spec.errors import BadRequest, DataTrouble
from pipeline.spec.grid import sheets
from pipeline.spec.tasks import CROPLAND
from pipeline.spec.timeline import parse_period
from tests.support.fault_server import FaultServer
from tests.support.foreign import only, untrusting
from tests.support.records import record
from tests.support.toy import toy_card

SPRING = parse_period("2023-04", 2)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    untrusting(monkeypatch)


@pytest.fixture
def items(region: Path, area: shapely.Geometry) -> ItemSet:
    return search(str(region / "catalog.json"), "s1", area, SPRING)


def read(items: ItemSet, area: shapely.Geometry, loader: Loader = "odc") -> np.ndarray:
    grid = sheets(area, 10)[0].geobox
    return open_composite(items, grid, ("vv",), SPRING, loader=loader)["value"].values


# --- where hrefs may lead


@pytest.mark.parametrize("href", [
    "/vsicurl/http://e.org/x.tif", "/vsizip/x.zip/y.tif", "/vsimem/x", "vsicurl_streaming://x",
    "zip+https://e.org/x.zip!y.tif", "tar://x.tar!y", "file+zip://x.zip!y", "GTIFF_DIR:1:/etc/x",
    "ftp://e.org/x.tif", "data:image/tiff;base64,AAAA", "javascript:x", "NETCDF:/etc/passwd",
    "file:///etc/passwd", "file://localhost/etc/passwd", "/etc/passwd", "..//..//etc/passwd",
    "%2e%2e/../../x", "x\0.tif", "x\n.tif", "x\x1b[2J.tif", "http://", "https:///x.tif", "s3:///x",
    "http://[", "x" * 5000, 5, None, ["https://e.org/x.tif"],
])
def test_hrefs_lead_to_the_web_or_into_the_catalogues_folder(tmp_path: Path, href: object) -> None:
    root = (tmp_path / "in").resolve()
    with contextlib.suppress(ValueError):  # some are names like any other: of no file there is
        assert Path(absolute(href, str(root / "item.json"), root)).is_relative_to(root)
    with contextlib.suppress(ValueError):
        assert absolute(href, "https://e.org/items/one", None).startswith("https://e.org/")


@pytest.mark.parametrize("href", ["gs://b/x.tif", "az://c/x.tif", "s3://b/x.tif",
                                  "https://e.org/x.tif"])
def test_buckets_and_the_web_are_let_through(href: str) -> None:
    assert absolute(href, "https://e.org/", None) == href


@pytest.mark.parametrize("host", [
    "127.0.0.1", "localhost", "169.254.169.254", "[::1]", "10.1.2.3", "192.168.0.1", "0.0.0.0",
    "[fd00:ec2::254]", "100.100.100.200", "metadata.google.internal", "[::ffff:127.0.0.1]",
])
def test_items_on_private_hosts_are_left_out(
    tmp_path: Path, area: shapely.Geometry, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = record("one", "2023-03-01T00:00:00Z")
    item["geometry"] = shapely.geometry.mapping(area)
    item["assets"]["B02"]["href"] = f"http://{host}/x.tif"
    good = record("two", "2023-03-02T00:00:00Z") | {"geometry": item["geometry"]}
    for entry in (item, good):
        (tmp_path / f"{entry['id']}.json").write_text(json.dumps(entry))
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "id": "c", "links": [
        {"rel": "item", "href": f"./{n}.json"} for n in ("one", "two")]}))
    found = search(str(tmp_path / "catalog.json"), "s2", area, SPRING)
    assert [i.id for i in found.items] == ["two"]
    assert "private host" in dict(found.skipped)["one"]
    monkeypatch.setenv(web.TRUSTED_HOSTS, f"e.org, {host.strip('[]')}")
    assert len(search(str(tmp_path / "catalog.json"), "s2", area, SPRING).items) == 2


class Lure(BaseHTTPRequestHandler):
    """Leads elsewhere."""

    protocol_version = "HTTP/1.1"
    target = ""
    seen: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.seen.append(self.headers["Host"])
        self.send_response(302)
        self.send_header("Location", self.target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def lure() -> Iterator[tuple[type[Lure], int]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Lure)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    Lure.seen.clear()
    yield Lure, server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("target", [
    "http://127.0.0.1:{port}/secret", "http://169.254.169.254/latest/meta-data/",
    "http://[::1]:{port}/", "http://2130706433:{port}/", "http://innocent.example:{port}/",
    "file:///etc/passwd", "gopher://127.0.0.1/",
])
@pytest.mark.parametrize("loader", ["odc", "stackstac"])
def test_no_redirect_leads_to_a_private_address(
    lure: tuple[type[Lure], int], items: ItemSet, area: shapely.Geometry, target: str,
    loader: Loader, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The catalogue's own host may be private, if the user named it; no other, whatever name its
    address goes by."""
    handler, port = lure
    handler.target = target.format(port=port)
    lookup = socket.getaddrinfo

    def resolve(host: str, *args: object, **options: object) -> object:
        return lookup("127.0.0.1" if host.endswith(".example") else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    trap = only(dataclasses.replace(items, catalog=f"http://localhost:{port}"),
                f"http://localhost:{port}/x.tif")
    with pytest.raises(DataTrouble, match=rf"item {trap.items[0].id} cannot be read.*x\.tif"):
        read(trap, area, loader)
    assert set(handler.seen) == {f"localhost:{port}"}  # nothing else was sent anywhere


def test_a_catalogue_does_not_lead_into_the_private_network(lure: tuple[type[Lure], int]) -> None:
    handler, port = lure
    for target in ("http://127.0.0.1:1/", "file:///etc/passwd"):
        handler.target = target
        with pytest.raises(DataTrouble, match="does not answer as a STAC API"):
            search(f"http://localhost:{port}", "s1", shapely.box(0, 0, 1, 1), SPRING)


# --- what files may be


@pytest.mark.parametrize("loader", ["odc", "stackstac"])
@pytest.mark.parametrize("driver", ["VRT", "PNG", "text"])
def test_only_geotiffs_are_opened(
    tmp_path: Path, items: ItemSet, area: shapely.Geometry, driver: str, loader: Loader
) -> None:
    real, path = Path(items.items[0].assets["vv"].href), tmp_path / "x.tif"
    if driver == "VRT":
        path.write_text(
            '<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Float32" band='
            f'"1"><SimpleSource><SourceFilename>{real}</SourceFilename></SimpleSource>'
            "</VRTRasterBand></VRTDataset>")
    elif driver == "PNG":
        path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x09\0\0\0\x09\x08\0\0\0\0")
    else:
        path.write_text("root:x:0:0")
    with pytest.raises(DataTrouble, match=r"x\.tif.*not recognized as being in a supported"):
        read(only(items, str(path)), area, loader)


def test_a_side_file_decides_nothing(
    tmp_path: Path, items: ItemSet, area: shapely.Geometry
) -> None:
    plain = read(only(items, items.items[0].assets["vv"].href), area)
    path = tmp_path / "x.tif"
    shutil.copyfile(items.items[0].assets["vv"].href, path)
    (tmp_path / "x.tif.aux.xml").write_text(
        "<PAMDataset><GeoTransform>0,1,0,0,0,-1</GeoTransform><PAMRasterBand band='1'>"
        "<NoDataValue>1</NoDataValue></PAMRasterBand></PAMDataset>")
    (tmp_path / "x.tfw").write_text("1\n0\n0\n-1\n0\n0\n")
    np.testing.assert_array_equal(read(only(items, str(path)), area), plain)


@pytest.mark.parametrize(("size", "block", "pixel"), [
    ((1_000_016, 16), 16, 10.0),  # a raster without end
    ((20_000, 20_000), 20_000, 10.0),  # one block fills the memory
    ((99_984, 99_984), 16, 0.01),  # pixels so small that a tile holds millions
])
def test_headers_that_promise_too_much_are_refused(
    tmp_path: Path, items: ItemSet, area: shapely.Geometry, size: tuple[int, int], block: int,
    pixel: float,
) -> None:
    grid, path = sheets(area, 10)[0].geobox, tmp_path / "x.tif"
    place = Affine(pixel, 0, grid.affine.c, 0, -pixel, grid.affine.f)
    with rasterio.open(path, "w", driver="GTiff", width=size[0], height=size[1], count=1,
                       dtype="float32", crs=str(grid.crs), transform=place, tiled=True,
                       blockxsize=block, blockysize=block, sparse_ok=True, bigtiff="yes"):
        pass  # no block is stored
    with pytest.raises(DataTrouble, match=r"x\.tif.*(more than an image has|too small)"):
        read(only(items, str(path)), area)


def test_items_and_pages_have_a_size(
    tmp_path: Path, area: shapely.Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(**changes: object) -> str:
        item = record("one", "2023-03-01T00:00:00Z", note="x" * 5000) | changes
        item["geometry"] = shapely.geometry.mapping(area)
        (tmp_path / "catalog.json").write_text(json.dumps(item))
        return str(tmp_path / "catalog.json")

    assert len(search(written(), "s2", area, SPRING).items) == 1
    for name in ("x" * 300, "a\nb", "\x1b[2Jcleared", "", 5, "\ud800"):
        with pytest.raises(DataTrouble, match="not a valid item"):
            search(written(id=name), "s2", area, SPRING)
    monkeypatch.setattr("pipeline.data.item_checks.MAX_ITEM", 1000)
    with pytest.raises(DataTrouble, match="too large"):
        search(written(), "s2", area, SPRING)
    monkeypatch.setattr("pipeline.data.catalogs.MAX_PAGE", 1000)
    with pytest.raises(DataTrouble, match="page of the catalogue is too large"):
        search(written(), "s2", area, SPRING)


def test_tables_have_a_size(
    region: Path, area: shapely.Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.data.catalogs.MAX_TABLE", 1000)
    with pytest.raises(DataTrouble, match="unpacks to more than 1000 bytes"):
        search(str(region / "items.parquet"), "s1", area, SPRING)


def test_answers_of_an_api_have_a_size(
    region: Path, area: shapely.Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "MAX_ANSWER", 3000)
    with FaultServer(region) as server, pytest.raises(DataTrouble, match=r"too large.*up to 3000"):
        search(server.url, "s1", area, SPRING)


def test_a_window_is_never_read_whole_where_it_is_not_needed() -> None:
    assert reader.MAX_CELLS <= 1 << 26
    assert rasters.MAX_BLOCK <= 1 << 28


# --- checkpoints


@pytest.mark.parametrize(("path", "value"), [
    (("steps",), "12"), (("steps",), 1e9), (("name",), 5), (("target_std",), float("nan")),
    (("options", "width"), 10**9), (("options", "layers"), 2**70), (("notes",), [1]),
    (("options", "x"), [[[[[[[[[[[1]]]]]]]]]]]), (("sensors", "s1", "mean"), ["a", "b", "c"]),
    (("sensors", "s1", "std"), None), (("sensors", "s1", "coverage_steps"), [0.5, 1.5]),
    (("sensors", "s1", "temperature"), True), (("data",), {"a": 1}), (("sensors",), []),
])
def test_cards_hold_what_they_say(path: tuple[str, ...], value: object) -> None:
    card = json.loads(json.dumps(toy_card(CROPLAND).to_json()))
    assert CheckpointCard.from_json(card)
    holder = card
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    with pytest.raises(BadRequest, match=r"card\.json"):
        CheckpointCard.from_json(card)
