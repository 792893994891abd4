"""What else a bucket does, on a real S3 server: leases, saved tiles, the catalogue, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.infer.store import LOG, finished_tiles
from pipeline.refresh import lease
from pipeline.refresh.bucket import Bucket
from pipeline.refresh.carry import MARKS
from pipeline.refresh.lock import Busy
from pipeline.refresh.remote import mirrored
from pipeline.refresh.remote_catalogue import publish_catalogue
from pipeline.refresh.saved import UNFINISHED, Saver, forget, restore
from pipeline.refresh.versions import Shelf
from pipeline.spec.errors import BadRequest, DataTrouble
from tests.support import s3_server
from tests.support.buckets import IDS, made, read, refresher, unnamed
from tests.support.stac_schemas import faults
from tests.test_refresh_store import SHEET, TILES, pairs, written
from tests.test_refresh_store import store as empty_store

pytest.importorskip("obstore", reason="the extra s3 is not installed")
pytestmark = pytest.mark.skipif(not s3_server.command(), reason="moto_server is not installed")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server.serving() as address:
        yield address


@pytest.fixture
def root(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """An empty place in the bucket, and the environment that leads there."""
    return s3_server.place(server, monkeypatch, request.node.name)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unnamed(tmp_path_factory.mktemp("s3") / "version")


@pytest.fixture
def refresh(root: str, template: Path) -> Callable[..., Shelf]:
    return refresher(root, template)


def test_a_large_object_is_not_there_before_its_last_part(root: str, tmp_path: Path) -> None:
    """The promise of multipart uploads that everything else rests on, asked of the server."""
    import obstore

    found = Bucket(root)
    writer = obstore.open_writer(found._store, "large", buffer_size=5 << 20)
    writer.write(bytes(11 << 20))
    writer.flush()
    assert not found.exists("large")
    assert found.keys("") == []
    del writer  # the process dies
    assert not found.exists("large")
    (tmp_path / "large").write_bytes(np.random.default_rng(0).bytes(11 << 20))
    found.put("large", tmp_path / "large")
    found.download([("large", tmp_path / "back")])
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()


def test_one_machine_at_a_time(
    root: str, refresh: Callable[..., Shelf], template: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shelf = Shelf(tmp_path / "a" / "demo" / "cropland")
    with mirrored(root, "demo", "cropland", shelf, 3, 0):
        with pytest.raises(Busy, match="another machine"):
            refresh(tmp_path / "b", IDS[0])
        refresh(tmp_path / "b", IDS[0], region="elsewhere")  # other maps go on

    def slow() -> None:
        """An owner that is silent for long, is taken for dead, and finds out."""
        with mirrored(root, "demo", "cropland", shelf, 3, 0):
            monkeypatch.setattr(lease, "LEASE_S", -1.0)
            refresh(tmp_path / "b", IDS[1])
            made(shelf, template, IDS[2])

    with pytest.raises(Busy, match="taken for dead"):
        slow()
    assert read(root)[0] == IDS[1]


def test_what_a_lost_machine_had_finished(root: str, tmp_path: Path) -> None:
    """Saved tile by tile, taken over whole, and earlier leavings go when a later run has them."""
    bucket, shelf = Bucket(f"{root}/demo/cropland"), Shelf(tmp_path / "a" / "demo" / "cropland")
    stage = shelf.open_stage(IDS[1])
    store = written(stage / ".run")
    (stage / ".run" / MARKS).write_text("{}")
    tiles = {f"{SHEET.name}/{tile.name}": tile for tile in TILES}
    made = [*tiles][1:]  # the first was carried over
    bucket.put(f"{UNFINISHED}/{IDS[0]}/.run/{LOG}", b"of an earlier one")
    Saver(bucket, IDS[1], store, {key: tiles[key] for key in made}).stop()
    assert bucket.folders(UNFINISHED) == [IDS[1]]
    saved = bucket.keys(f"{UNFINISHED}/{IDS[1]}")
    assert len([k for k in saved if "/map/c/" in k]) == len(made) - 1  # one is nothing but fill

    there = Shelf(tmp_path / "b" / "demo" / "cropland")
    restore(bucket, there)
    (back,) = there.leftovers()
    assert set(finished_tiles(back / ".run")) == set(made)
    new = empty_store(tmp_path / "new")
    taken = new.adopt(back / ".run", [p for p in pairs(stage / ".run") if p[1].key in made])
    assert [r.key for r in taken] == made
    for key in made:
        tile = tiles[key]
        for layer in store.layers:
            np.testing.assert_array_equal(*(s.view(SHEET.name, layer.name)[tile.rows, tile.cols]
                                            for s in (store, new)))
    restore(bucket, there)  # it is there
    assert there.leftovers() == (back,)

    # a run that has been promoted says nothing: what is kept stays until that is published
    saver = Saver(bucket, IDS[2], store, tiles)
    stage.rename(shelf.version(IDS[1]))
    saver.stop()
    assert bucket.folders(UNFINISHED) == [IDS[1]]
    forget(bucket)
    assert bucket.keys(UNFINISHED) == []
    restore(bucket, Shelf(tmp_path / "c" / "demo" / "cropland"))


def test_the_catalogue_of_a_bucket(
    root: str, refresh: Callable[..., Shelf], tmp_path: Path
) -> None:
    """Two machines, each with its own maps: the catalogue holds both, and every link is there."""
    refresh(tmp_path / "a", IDS[0])
    refresh(tmp_path / "a", IDS[1])
    publish_catalogue(root, tmp_path / "a")
    refresh(tmp_path / "b", IDS[0], region="other")
    publish_catalogue(root, tmp_path / "b")
    found = Bucket(root)
    keys = {k for k in found.keys("") if ".run" not in k}
    documents = {k: found.get_json(k) for k in keys
                 if k.endswith(("catalog.json", "collection.json")) or "/items/" in k}
    assert len(documents) == 1 + 2 + 3
    for key, document in documents.items():
        assert faults(document) == [], key
        hrefs = [link["href"] for link in document["links"]]
        hrefs += [asset["href"] for asset in document.get("assets", {}).values()]
        for href in hrefs:
            parts = key.split("/")[:-1]
            for part in href.split("/"):
                if part == "..":
                    parts.pop()
                elif part != ".":
                    parts.append(part)
            assert href.startswith("http") or "/".join(parts) in keys, f"{key}: {href}"
    assert "index.parquet" in keys
    refresh(tmp_path / "a", IDS[2], keep=1)
    publish_catalogue(root, tmp_path / "a")
    assert [k for k in found.keys("demo") if "/items/" in k] == [
        f"demo/cropland/items/{IDS[2]}-utm31n.json"]


def test_trouble_is_one_line_without_secrets(
    root: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(DataTrouble, match="object storage") as caught:
        Bucket("s3://no-such-bucket/x").put("key", b"")
    assert "\n" not in str(caught.value)
    assert "top-secret" not in str(caught.value)
    with pytest.raises(DataTrouble, match="nothing-there"):
        Bucket(root).download([("nothing-there", tmp_path / "x")])
    with pytest.raises(DataTrouble, match="object storage"):
        Bucket("ftp://x/y")
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(BadRequest, match=r"wallmap\[s3\]"):
        Bucket(root)
