"""Tokens and passwords are never written, shown, or kept for longer than they hold."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely

from pipeline import cli
from pipeline.data import web
from pipeline.data.hrefs import scrubbed, shown
from pipeline.data.items import ItemSet, freeze, thaw
from pipeline.data.rasters import ImageFile, read_image
from pipeline.data.search import search
from pipeline.data.signing import Tokens
from pipeline.map import command
from pipeline.spec.errors import DataTrouble
from pipeline.spec.timeline import parse_period
from tests.support.fault_server import Fault, FaultServer
from tests.support.foreign import only, untrusting

SPRING = parse_period("2023-04", 2)
SECRET = "s3cr3t"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    untrusting(monkeypatch)


@pytest.fixture
def items(region: Path, area: shapely.Geometry) -> ItemSet:
    return search(str(region / "catalog.json"), "s1", area, SPRING)


def test_addresses_are_written_without_what_may_be_a_token() -> None:
    for href in (f"https://e.org/x.tif?token={SECRET}", f"https://me:{SECRET}@e.org/x.tif",
                 f"https://e.org/x.tif?a=1&X-Goog-Signature={SECRET}", f"s3://b/x?k={SECRET}"):
        assert SECRET not in shown(href)
        assert SECRET not in json.dumps(scrubbed({"a": [f"see '{href}' there"], href: (href,)}))
    assert scrubbed({"a": [1, None, "plain text? yes", 0.5]}) == {
        "a": [1, None, "plain text? yes", 0.5]}


def test_items_that_need_a_token_are_searched_anew(tmp_path: Path, items: ItemSet) -> None:
    freeze(tmp_path / "plain.json", items)
    assert thaw(tmp_path / "plain.json").fingerprint == items.fingerprint
    signed = only(items, f"https://e.org/x.tif?token={SECRET}")
    freeze(tmp_path / "signed.json", signed)
    assert SECRET not in (tmp_path / "signed.json").read_text()
    assert thaw(tmp_path / "signed.json") is None
    other = only(items, "https://e.org/x.tif?token=another")
    assert other.fingerprint == signed.fingerprint  # a token is not what the image is


def test_a_run_writes_no_token_anywhere(
    region: Path, region_aoi: str, untrained: dict[str, Path], tmp_path: Path,
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:
    """Tokens in hrefs, links and other fields of the items, and a password in the catalogue's
    address; a run with failures, and its completion."""
    caplog.set_level(logging.DEBUG)
    out = tmp_path / "out"
    with FaultServer(region) as server:
        for item in server.items:
            item["links"] = [{"rel": "self", "href": f"{server.url}/i?token={SECRET}"}]
            item["properties"]["note"] = f"signed as https://e.org/x.tif?sig={SECRET}"
            for asset in item["assets"].values():
                asset["alternate"] = {"s3": {"href": f"s3://b/x.tif?sig={SECRET}"}}
                asset["href"] += f"?token={SECRET}"
        server.token = SECRET
        server.lifetime = 10**9
        argv = ["--aoi", region_aoi, "--sensor", "s1", "--period", "2023-10", "--catalog",
                server.url.replace("://", f"://me:{SECRET}@"), "--checkpoint",
                str(untrained["cropland"]), "--out", str(out), "--tile-size", "33", "--json"]
        server.wrong = [Fault("404", after=60, times=40), Fault("reset", times=2)]
        assert cli.run(command, argv) == 4
        report = json.loads(capfd.readouterr().out)
        server.wrong = []
        broken = str(tmp_path / "broken")
        assert cli.run(command, [*argv[:-5], "--out", broken, "--json"]) == 0
        assert cli.run(command, [*argv, "--resume"]) == 0
    captured = capfd.readouterr()
    assert report["exit_code"] == 4
    written = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert len(written) > 20
    assert [str(p) for p, content in written.items() if SECRET.encode() in content] == []
    assert SECRET not in captured.out + captured.err + json.dumps(report)
    assert SECRET not in caplog.text
    assert b"127.0.0.1" in written[out / ".run" / "items" / "s1.json"]  # it is said where from
    for path in out.rglob("*.tif"):
        twin = Path(broken) / path.relative_to(out)
        assert path.read_bytes()[:4] == twin.read_bytes()[:4]
        with rasterio.open(path) as one, rasterio.open(twin) as two:
            np.testing.assert_array_equal(one.read(), two.read())


def test_tokens_stay_in_memory_until_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = iter(["2000-01-01T00:00:00Z", "2190-01-01T00:00:00Z", "2190-01-01T00:00:00Z"])
    asked: list[str] = []

    class Answer:
        status_code = 200

        def raise_for_status(self) -> None:
            """It is fine."""

        def json(self) -> dict[str, str]:
            return {"token": f"sig={len(asked)}", "msft:expiry": next(ends)}

    class Session:
        def get(self, url: str, headers: dict[str, str]) -> Answer:
            asked.append(url)
            return Answer()

    monkeypatch.setattr(web, "session", lambda _: Session())
    tokens = Tokens("https://mint.example", "")
    href = "https://acc.blob.core.windows.net/box/a/b.tif"
    assert tokens.sign(href) == f"{href}?sig=1"  # ended before it came
    assert tokens.sign(href) == f"{href}?sig=2"
    assert tokens.sign(href) == f"{href}?sig=2"
    tokens.forget(f"{href}?sig=2")  # refused, although it should have held
    assert tokens.sign(href) == f"{href}?sig=3"
    assert asked == ["https://mint.example/acc/box"] * 3


def test_an_error_never_shows_a_token(area: shapely.Geometry) -> None:
    image = ImageFile(f"https://127.0.0.1:9/x.tif?token={SECRET}", "one")
    for trusted in (frozenset(), frozenset({"127.0.0.1"})):
        with pytest.raises(DataTrouble) as caught, contextlib.ExitStack():
            read_image(dataclasses.replace(image, trusted=trusted), lambda file: None)
        assert SECRET not in str(caught.value)
        assert "x.tif" in str(caught.value)
