"""Publishing into a bucket, against a real S3 server: whole versions or none, from any machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.infer.store import LOG, finished_tiles
from pipeline.refresh import bucket as buckets
from pipeline.refresh import lease, remote
from pipeline.refresh.bucket import Bucket
from pipeline.refresh.carry import MARKS
from pipeline.refresh.lock import Busy
from pipeline.refresh.remote import POINTER, mirrored, prune
from pipeline.refresh.remote_catalogue import publish_catalogue
from pipeline.refresh.saved import UNFINISHED, Saver, forget, restore
from pipeline.refresh.versions import Shelf
from pipeline.spec.errors import BadRequest, DataTrouble
from tests.support import s3_server
from tests.support.stac_schemas import faults
from tests.support.versions import result, write_version
from tests.test_refresh_store import SHEET, TILES, pairs, written
from tests.test_refresh_store import store as empty_store

pytest.importorskip("obstore", reason="the extra s3 is not installed")
pytestmark = pytest.mark.skipif(not s3_server.command(), reason="moto_server is not installed")
IDS = [f"2023110{k}T030000Z" for k in range(1, 8)]


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
    """A version without a name."""
    folder = write_version(tmp_path_factory.mktemp("s3") / "version",
                           np.array([[0, 1]]), np.array([[99, 99]]))
    chunk = folder / ".run" / "store.zarr" / "c" / "0"
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes(b"tile")
    return folder


@pytest.fixture
def refresh(root: str, template: Path) -> Callable[..., Shelf]:
    """A refresh on a machine of its own work folder, in a few milliseconds."""

    def go(work: Path, name: str, *, region: str = "demo", tier: str = "provisional",
           keep: int = 3) -> Shelf:
        shelf = Shelf(work / region / "cropland")
        with mirrored(root, region, "cropland", shelf, keep, 0) as mirror:
            mirror.catch_up()
            if name:
                made(shelf, template, name, region, tier)
        return shelf

    return go


def made(shelf: Shelf, template: Path, name: str, region: str = "demo",
         tier: str = "provisional") -> None:
    """A version, promoted as a refresh does it."""
    stage = shelf.open_stage(name)
    for path in template.rglob("*"):
        if path.is_file():
            target = stage / path.relative_to(template)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    told = result(region=region, version=name, previous=shelf.current(), tier=tier)
    (stage / "report.json").write_text(json.dumps(told.to_json()))
    shelf.promote(stage, told)


def read(root: str, region: str = "demo") -> tuple[str, list[str]]:
    """What a reader finds: the published version and the names of its files."""
    found = Bucket(f"{root}/{region}/cropland")
    name = found.get_json(POINTER).get("version", "")
    prefix = f"versions/{name}/"
    return name, [k.removeprefix(prefix) for k in found.keys(prefix.rstrip("/"))] if name else []


def test_published_whole_and_continued_on_another_machine(
    root: str, refresh: Callable[..., Shelf], tmp_path: Path
) -> None:
    first = refresh(tmp_path / "a", IDS[0])
    assert read(root) == (IDS[0], sorted(
        k for k, _ in buckets.below(first.version(IDS[0]))))
    assert ".run/store.zarr/c/0" in read(root)[1]
    second = Shelf(tmp_path / "b" / "demo" / "cropland")
    with mirrored(root, "demo", "cropland", second, 3, 0) as mirror:
        assert mirror.away()
        mirror.catch_up()
        assert not mirror.away()
        assert second.current() == IDS[0]  # what it will carry tiles over from
        for key, path in buckets.below(first.version(IDS[0])):
            assert (second.version(IDS[0]) / key).read_bytes() == path.read_bytes()
    refresh(tmp_path / "b", IDS[1])
    assert read(root)[0] == IDS[1]
    refresh(tmp_path / "a", "")
    assert first.current() == IDS[1]
    assert [r.version for r in first.history()] == IDS[:2]
    assert not Bucket(root).exists("demo/cropland/lease.json")


@pytest.mark.parametrize("part", ["map.tif", "report.json", "history.jsonl", POINTER])
def test_an_upload_that_is_cut_short_changes_nothing(
    root: str, refresh: Callable[..., Shelf], template: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, part: str,
) -> None:
    """Whatever object is the last: readers see the old version, and the next refresh mends it."""
    refresh(tmp_path / "a", IDS[0])
    writes = {"put": Bucket.put, "claim": Bucket.claim}

    def failing(name: str) -> Callable[..., object]:
        def write(self: Bucket, key: str, *more: object) -> object:
            if key.endswith(part):
                raise DataTrouble("the network is away")
            return writes[name](self, key, *more)

        return write

    for name in writes:
        monkeypatch.setattr(Bucket, name, failing(name))
    with pytest.raises(DataTrouble, match="away"):
        refresh(tmp_path / "a", IDS[1])
    for name, write in writes.items():
        monkeypatch.setattr(Bucket, name, write)
    assert read(root)[0] == IDS[0]
    if part in ("history.jsonl", POINTER):  # it had got there: any machine publishes it
        refresh(tmp_path / ("b" if part == POINTER else "a"), "")
        assert read(root)[0] == IDS[1]
    refresh(tmp_path / "b", IDS[2])
    assert read(root)[0] == IDS[2]
    assert set(remote.complete(Bucket(f"{root}/demo/cropland"))) <= set(IDS[:3])
    refresh(tmp_path / "b", IDS[3], keep=1)
    assert Bucket(f"{root}/demo/cropland").folders("versions") == [IDS[3]]


def test_a_pointer_that_was_not_written_makes_no_quiet_day(
    root: str, refresh: Callable[..., Shelf], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history tells of a version that readers do not see yet, and no tile of it was made, so
    that nothing is unfinished: who looks must fetch it, and publish it."""
    refresh(tmp_path / "a", IDS[0])
    claim = Bucket.claim
    with monkeypatch.context() as cut:
        cut.setattr(Bucket, "claim", lambda self, key, *more: (
            away() if key == POINTER else claim(self, key, *more)))
        with pytest.raises(DataTrouble, match="away"):
            refresh(tmp_path / "a", IDS[1])
    assert read(root)[0] == IDS[0]
    with mirrored(root, "demo", "cropland", Shelf(tmp_path / "b/demo/cropland"), 3, 0) as mirror:
        assert mirror.pointed == IDS[0]
        assert not mirror.away()
        mirror.catch_up()
    assert read(root)[0] == IDS[1]


def test_a_disk_that_stays_after_its_upload_was_cut_short(
    root: str, refresh: Callable[..., Shelf], template: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the bucket has unfinished of a version that this disk has whole is no leftover."""
    shelf, bucket = refresh(tmp_path / "a", IDS[0]), Bucket(f"{root}/demo/cropland")

    def cut_short() -> None:
        with mirrored(root, "demo", "cropland", shelf, 3, 0) as mirror:
            mirror.catch_up()
            bucket.put(f"{UNFINISHED}/{IDS[1]}/.run/{LOG}", b"of its tiles")
            made(shelf, template, IDS[1])
            cut.setattr(Bucket, "upload", away)

    with monkeypatch.context() as cut, pytest.raises(DataTrouble, match="away"):
        cut_short()
    for _ in range(2):
        with mirrored(root, "demo", "cropland", shelf, 3, 0) as mirror:
            shelf.tidy()
            mirror.catch_up()
        assert read(root)[0] == shelf.current() == IDS[1]
        assert shelf.leftovers() == ()
    with mirrored(root, "demo", "cropland", Shelf(tmp_path / "b/demo/cropland"), 3, 0) as mirror:
        assert mirror.away()  # and no reason to fetch it


def away(*args: object) -> str:
    raise DataTrouble("the network is away")


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


def test_a_reader_during_promotions_sees_whole_versions(
    root: str, refresh: Callable[..., Shelf], tmp_path: Path
) -> None:
    want = len(read(root, "demo")[1]) or len([*buckets.below(
        refresh(tmp_path / "a", IDS[0]).version(IDS[0]))])
    seen: list[tuple[str, int]] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            name, files = read(root)
            seen.append((name, len(files)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for name in IDS[1:5]:
            refresh(tmp_path / "a", name, keep=5)
    finally:
        stop.set()
        watcher.join()
    assert len(seen) > 3
    assert {count for _, count in seen} == {want}
    assert [name for name, _ in seen] == sorted(name for name, _ in seen)


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


def test_two_periods_of_one_refresh_are_both_published(
    root: str, template: Path, tmp_path: Path
) -> None:
    """The one that is made final, and the one that is begun."""
    shelf = Shelf(tmp_path / "a" / "demo" / "cropland")
    with mirrored(root, "demo", "cropland", shelf, 3, 0) as mirror:
        for name, tier in ((IDS[0], "final"), (IDS[1], "provisional")):
            made(shelf, template, name, tier=tier)
            mirror.finished()
            assert read(root)[0] == name
    assert list(remote.complete(Bucket(f"{root}/demo/cropland"))) == IDS[:2]


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


def test_retention(root: str, refresh: Callable[..., Shelf], tmp_path: Path) -> None:
    for k, name in enumerate(IDS[:5]):
        refresh(tmp_path / "a", name, keep=9, tier="final" if k in (0, 1) else "provisional")
    found = Bucket(f"{root}/demo/cropland")
    found.put("versions/20231101T000000Z/map.tif", b"half of an upload")
    assert prune(found, 2, 1) == ("20231101T000000Z", IDS[0], IDS[2])
    assert found.folders("versions") == [IDS[1], IDS[3], IDS[4]]
    assert [r.version for r in Shelf(tmp_path / "a" / "demo" / "cropland").history()] == IDS[:5]


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
