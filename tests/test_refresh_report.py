"""The report page: says what happened, needs nothing but itself, and takes no name for markup."""

from __future__ import annotations

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from pipeline.refresh.change import write_change
from pipeline.refresh.report import write_report
from pipeline.refresh.result import Check, TileCounts
from pipeline.spec.errors import DataTrouble
from tests.support.versions import result, write_version

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>"\'&amp;'
FIELDS = np.kron(np.random.default_rng(1).integers(0, 2, (6, 8)), np.ones((10, 10), int))


class Page(HTMLParser):
    """Elements with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text())
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """Two versions with a change between them; the folder of the second."""
    sure = np.full(FIELDS.shape, 97)
    old = write_version(tmp_path / "20231104T030000Z", FIELDS, sure)
    (old / "report.json").write_text(json.dumps(
        result(class_shares={"other": 0.7, "cropland": 0.3}).to_json()))
    later = FIELDS.copy()
    later[:10, :10] = 1 - later[:10, :10]
    new = write_version(tmp_path / ".staging-20231105T030000Z", later, sure)
    write_change(new, old)
    return new


def test_the_page_says_what_happened(versions: Path) -> None:
    path = write_report(versions, result())
    assert path == versions / "report.html"
    words = Page(path).text
    for expected in (
        "Temporary cropland: demo", "published", "provisional", "3 tiles have new scenes",
        "2022-11 to 2023-10", "5 November 2023, 03:00 UTC", "4 days after",
        "of 400", "397", "99.2%", "of about 400 MB", "98.0%", "12 s",
        "new scene 3", "coverage ok 98.0 % at least 95.0 %",
        "cropland 30.00% 40.00%", "other 70.00% 60.00%",
        "2.08% of the 48 ha", "100 1.0", "s1 120 ", "map.tif", "change.tif",
        "20231105T030000Z, before it 20231104T030000Z",
    ):
        assert expected in words, expected


def test_the_page_needs_nothing_but_itself(versions: Path) -> None:
    path = write_report(versions, result())
    made = Page(path)
    for tag, attributes in made.elements:
        assert tag not in ("script", "link", "iframe", "object"), tag
        assert not [name for name in attributes if name.startswith("on")]
        if source := attributes.get("src"):
            assert source.startswith("data:image/png;base64,")
        if href := attributes.get("href"):
            assert href.startswith("./")
            assert (versions / href).is_file()
    assert "url(" not in path.read_text()
    assert "@import" not in path.read_text()
    policy = [a["content"] for t, a in made.elements if t == "meta" and "content" in a]
    assert any("default-src 'none'" in str(p) for p in policy)


def test_the_picture_shows_the_change(versions: Path) -> None:
    made = Page(write_report(versions, result()))
    change = next(a for t, a in made.elements if t == "img" and a["alt"] == "Map of the change")
    png = base64.b64decode(str(change["src"]).partition(",")[2])
    rgb = (imread(io.BytesIO(png), format="png")[..., :3] * 255).round().astype(int)
    assert rgb.shape == (60, 80, 3)
    assert tuple(rgb[5, 5]) == ((0, 114, 178) if FIELDS[0, 0] == 0 else (213, 94, 0))
    assert tuple(rgb[30, 30]) == (222, 222, 222)


def test_hostile_names_stay_text(versions: Path) -> None:
    manifest = json.loads((versions / "manifest.json").read_text())
    manifest["card"]["name"] = manifest["request"]["catalog"] = HOSTILE
    manifest["refused"] = {HOSTILE: HOSTILE}
    (versions / "manifest.json").write_text(json.dumps(manifest))
    path = write_report(versions, result(
        region=HOSTILE, reason=HOSTILE, sensor=HOSTILE, items={HOSTILE: 1}, version=HOSTILE,
        tiles=TileCounts(1, 1, 0, 0, {HOSTILE: 1}), class_shares={HOSTILE: 1.0},
        checks=(Check(HOSTILE, False, HOSTILE, HOSTILE),)))
    made = Page(path)
    assert not [t for t, _ in made.elements if t == "script"]
    assert not [a for _, a in made.elements if "onerror" in a]
    assert sum(t == "img" for t, _ in made.elements) == 2  # of the change and the preview
    assert made.text.count('<script>alert("x")</script>') >= 10


def test_a_first_version_and_a_refused_one(tmp_path: Path) -> None:
    folder = write_version(tmp_path / "20231105T030000Z", FIELDS, np.full(FIELDS.shape, 97))
    words = Page(write_report(folder, result(previous=""))).text
    assert "What changed" not in words
    assert ", the first" in words
    assert "– 40.00%" in words
    refused = result(status="refused", tier="final", reason="coverage fell from 98 % to 60 %",
                     checks=(Check("coverage", False, "60 %", "at least 93 %"),))
    words = Page(write_report(folder, refused)).text
    assert "refused final Coverage fell" in words
    assert "not ok 60 % at least 93 %" in words
    assert "Provisional" not in words


def test_moisture_has_a_mean_instead_of_classes(tmp_path: Path) -> None:
    old = write_version(tmp_path / "20231104T030000Z", np.array([[1000, 1100]]),
                        np.array([[10, 10]]), task="lfmc")
    (old / "report.json").write_text(json.dumps(result(mean=105.0).to_json()))
    new = write_version(tmp_path / "20231105T030000Z", np.array([[1000, 1200]]),
                        np.array([[10, 10]]), task="lfmc")
    write_change(new, old)
    words = Page(write_report(new, result(task="lfmc", class_shares={}, mean=110.0))).text
    assert "105.0 % 110.0 %" in words
    assert "The mean changed by +5.00 %" in words
    assert "difference.tif" in words


def test_no_map_no_report(tmp_path: Path) -> None:
    with pytest.raises(DataTrouble, match="no finished map"):
        write_report(tmp_path, result())
