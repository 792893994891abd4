"""Versions in a bucket, against a real S3 server: whole ones or none, from any machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.infer.store import LOG
from pipeline.refresh import bucket as buckets
from pipeline.refresh import remote
from pipeline.refresh.bucket import Bucket
from pipeline.refresh.remote import POINTER, mirrored, prune
from pipeline.refresh.saved import UNFINISHED
from pipeline.refresh.versions import Shelf
from pipeline.spec.errors import DataTrouble
from tests.support import s3_server
from tests.support.buckets import IDS, made, read, refresher, unnamed

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


def test_retention(root: str, refresh: Callable[..., Shelf], tmp_path: Path) -> None:
    for k, name in enumerate(IDS[:5]):
        refresh(tmp_path / "a", name, keep=9, tier="final" if k in (0, 1) else "provisional")
    found = Bucket(f"{root}/demo/cropland")
    found.put("versions/20231101T000000Z/map.tif", b"half of an upload")
    assert prune(found, 2, 1) == ("20231101T000000Z", IDS[0], IDS[2])
    assert found.folders("versions") == [IDS[1], IDS[3], IDS[4]]
    assert [r.version for r in Shelf(tmp_path / "a" / "demo" / "cropland").history()] == IDS[:5]
