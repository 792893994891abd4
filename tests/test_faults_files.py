"""Servers that fail: the pixels are those of a server that does not, or the asset is named."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely

from pipeline.data import rasters, remote
from pipeline.data.items import ItemSet
from pipeline.data.load import load_cube
from pipeline.data.remote import RemoteFile
from pipeline.data.search import search
from pipeline.data.signing import Tokens
from pipeline.spec.cube import Cube
from pipeline.spec.errors import DataTrouble
from pipeline.spec.grid import sheets
from pipeline.spec.timeline import parse_period
from tests.support.fault_server import LASTING, PASSING, Fault, FaultServer, anew, sleepless

SPRING = parse_period("2023-04", 2)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return sleepless(monkeypatch)


@pytest.fixture(scope="module")
def running(region: Path) -> Iterator[FaultServer]:
    with FaultServer(region) as server:
        yield server


@pytest.fixture
def server(running: FaultServer, waits: list[float]) -> FaultServer:
    return anew(running)


@pytest.fixture(scope="module")
def items(running: FaultServer, area: shapely.Geometry) -> ItemSet:
    return search(running.url, "s1", area, SPRING)


@pytest.fixture(scope="module")
def calm(region: Path, area: shapely.Geometry) -> Cube:
    """Read from disk, by GDAL itself."""
    return read(search(str(region / "catalog.json"), "s1", area, SPRING), area)


def read(items: ItemSet, area: shapely.Geometry) -> Cube:
    return load_cube(items, sheets(area, 10)[0].geobox, ("vv",), SPRING, num_workers=1)


def same(one: Cube, two: Cube) -> None:
    assert one.count.any()
    np.testing.assert_array_equal(one.x, two.x)
    np.testing.assert_array_equal(one.count, two.count)


# --- files


@pytest.mark.parametrize("kind", PASSING)
def test_what_passes_leaves_no_trace(
    server: FaultServer, items: ItemSet, area: shapely.Geometry, calm: Cube, kind: str
) -> None:
    """Twice, at the first request of the files and in the middle of one."""
    server.wrong = [Fault(kind), Fault(kind, after=4)]
    same(read(items, area), calm)
    assert len(server.struck) == 2


@pytest.mark.parametrize("kind", ["429", "reset", "cut", "other bytes", "replaced", "stale 200"])
def test_what_passes_while_pixels_are_read_leaves_no_trace(
    server: FaultServer, items: ItemSet, area: shapely.Geometry, calm: Cube, kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a checksum, and with blocks beyond what is read with the header."""
    monkeypatch.setattr(remote, "_PIECE", 1024)
    monkeypatch.setitem(rasters.GDAL_OPTIONS, "GDAL_INGESTED_BYTES_AT_OPEN", 1024)
    monkeypatch.setattr(rasters, "SMALL", 0)
    server.wrong = [Fault(kind, where="pixels")]
    same(read(items, area), calm)
    assert len(server.struck) == 1


@pytest.mark.parametrize("kind", LASTING)
def test_what_lasts_is_an_error_that_names_item_and_file(
    server: FaultServer, items: ItemSet, area: shapely.Geometry, kind: str
) -> None:
    victim = items.items[3]
    name = victim.assets["vv"].href.rsplit("/", 1)[-1]
    href = victim.assets["vv"].href.removeprefix(server.url).split("?")[0]
    server.wrong = [Fault(kind, times=10**6)]
    one = dataclasses.replace(items, items=(victim,))
    with pytest.raises(DataTrouble, match=f"item {victim.id} cannot be read.*{name}") as caught:
        read(one, area)
    assert href in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.requests) < 50  # it gives up


def test_a_server_that_asks_to_wait_is_waited_for(
    server: FaultServer, items: ItemSet, area: shapely.Geometry, calm: Cube, waits: list[float]
) -> None:
    server.wrong = [Fault("429")]
    same(read(items, area), calm)
    assert waits == [1.0]  # its Retry-After, above our own half second
    waits.clear()
    RemoteFile._headers.clear()  # and the blocks that are held with them
    server.wrong = [Fault("503", times=3)]
    same(read(items, area), calm)
    assert waits == [0.5, 1.0, 2.0]


def test_a_token_that_ends_is_renewed_and_the_read_goes_on(
    server: FaultServer, items: ItemSet, area: shapely.Geometry, calm: Cube,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = {"token": "t"}

    def sign(href: str, _: str) -> str:
        return f"{href}?token={held['token']}"

    def renew(href: str, signer: str, refused: str) -> str:
        assert refused == sign(href, signer)
        held["token"] = server.token
        return sign(href, signer)

    monkeypatch.setattr(rasters, "signed", sign)
    monkeypatch.setattr(remote, "signed", sign)
    monkeypatch.setattr(remote, "renewed", renew)
    server.token, server.lifetime = "t", 5
    same(read(items, area), calm)
    assert [s for *_, s in server.requests].count(403) == 1
    assert held["token"] == "tx"


def test_a_file_of_another_size_than_its_item_says_is_read_as_it_is(
    server: FaultServer, items: ItemSet, area: shapely.Geometry, calm: Cube
) -> None:
    odd = [i.clone() for i in items.items]
    for item in odd:
        for fields in (item.properties, *(a.extra_fields for a in item.assets.values())):
            fields |= {"file:size": 5, "proj:shape": [3, 3]}
    same(read(dataclasses.replace(items, items=tuple(odd)), area), calm)


@pytest.mark.parametrize("where", ["disk", "web"])
def test_a_file_that_is_not_the_one_of_its_checksum_is_refused(
    region: Path, server: FaultServer, items: ItemSet, area: shapely.Geometry, where: str
) -> None:
    found = items if where == "web" else search(str(region / "catalog.json"), "s1", area, SPRING)
    one = found.items[0].clone()
    one.assets["vv"].extra_fields["file:checksum"] = "1220" + "0" * 64
    with pytest.raises(DataTrouble, match=f"{one.id}.*checksum is not the one"):
        read(dataclasses.replace(found, items=(one,)), area)


# --- blocks that are damaged, on disk


@pytest.mark.parametrize("harm", ["cut", "flip"])
@pytest.mark.parametrize("compress", ["deflate", "lzw", "zstd", "none"])
def test_a_damaged_block_is_an_error_and_never_zeros(
    tmp_path: Path, area: shapely.Geometry, items: ItemSet, compress: str, harm: str
) -> None:
    """What the format can tell: all but a flipped bit in blocks that carry no checksum."""
    if harm == "flip" and compress != "deflate":
        pytest.skip("these blocks carry no checksum: the item's file:checksum is what tells")
    grid, path = sheets(area, 10)[0].geobox, tmp_path / "a.tif"
    rng = np.random.default_rng(0)
    values = rng.normal(5, 1, grid.shape).astype("float32").round(2)
    with rasterio.open(path, "w", driver="GTiff", width=grid.shape[1], height=grid.shape[0],
                       count=1, dtype="float32", crs=str(grid.crs), transform=grid.affine,
                       tiled=True, blockxsize=16, blockysize=16, compress=compress) as file:
        file.write(values, 1)
    with rasterio.open(path) as file:
        start, size = (int(file.get_tag_item(f"BLOCK_{k}_0_1", "TIFF", bidx=1))
                       for k in ("OFFSET", "SIZE"))
    data = bytearray(path.read_bytes())
    if harm == "cut":
        del data[start + size // 2:]
    else:
        data[start + size // 2] ^= 16
    path.write_bytes(data)
    one = items.items[0].clone()
    one.assets["vv"].href = str(path)
    one.assets["vv"].extra_fields.pop("file:checksum")
    with pytest.raises(DataTrouble, match=r"a\.tif"):
        read(dataclasses.replace(items, items=(one,)), area)


@pytest.mark.parametrize("times", [1, 10**6])
def test_a_byte_that_changes_on_the_way_is_asked_for_again(
    region: Path, area: shapely.Geometry, times: int, tmp_path: Path, waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a deflated block, and where the item's checksum is not looked at."""
    monkeypatch.setattr(rasters, "SMALL", 0)
    monkeypatch.setattr(remote, "_PIECE", 1024)
    monkeypatch.setitem(rasters.GDAL_OPTIONS, "GDAL_INGESTED_BYTES_AT_OPEN", 1024)
    scene = tmp_path / "deflated"
    shutil.copytree(region, scene)
    for path in scene.rglob("*.tif*"):
        rasterio.shutil.copy(path, tmp_path / "packed", driver="GTiff", compress="DEFLATE",
                             predictor=1, tiled=True, blockxsize=64, blockysize=64)
        (tmp_path / "packed").replace(path)
    with FaultServer(scene) as server:
        found = search(server.url, "s1", area, SPRING)
        calm = read(found, area)
        RemoteFile._headers.clear()
        server.wrong = [Fault("corrupt", times=times, where="pixels")]
        if times == 1:
            same(read(found, area), calm)
        else:
            with pytest.raises(DataTrouble, match="cannot be read"):
                read(found, area)


# --- tokens that are about to end


@pytest.mark.parametrize(("seconds", "asked"), [(30, 2), (90, 1)])
def test_a_token_that_is_about_to_end_is_not_begun_with(
    monkeypatch: pytest.MonkeyPatch, seconds: int, asked: int
) -> None:
    """A read takes a while: one that begins in a token's last minute may not end in it."""
    given: list[str] = []

    def ask(self: Tokens, place: str) -> tuple[str, datetime]:
        given.append(place)
        return f"sig={len(given)}", datetime.now(UTC) + timedelta(seconds=seconds)

    monkeypatch.setattr(Tokens, "_ask", ask)
    tokens = Tokens("https://mint.example", "")
    for _ in range(2):
        signed = tokens.sign("https://acc.blob.core.windows.net/box/a.tif")
    assert given == ["acc/box"] * asked
    assert signed.endswith(f"sig={asked}")
