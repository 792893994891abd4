"""The product catalogue: valid, whole after any crash, and read by the tools that people use."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pystac
import pystac_client
import pytest
import stac_geoparquet.arrow
from pystac.extensions.mlm import MLMExtension
from pystac_client.warnings import NoConformsTo

from pipeline.data.files import HIDDEN
from pipeline.refresh import catalogue
from pipeline.refresh.catalogue import update
from pipeline.refresh.change import write_change
from pipeline.refresh.lock import locked
from pipeline.refresh.versions import Shelf
from tests.support.stac_schemas import CLASSIFICATION, faults
from tests.support.versions import result, write_version

FIELDS = np.random.default_rng(1).integers(0, 2, (6, 8))
FIRST, SECOND = "20231104T030000Z", "20231105T030000Z"

# pystac warns of items that may be removed, as old versions will be
superseded = pytest.mark.filterwarnings("ignore::pystac.errors.DeprecatedWarning")


def publish(root: Path, name: str, region: str = "demo", task: str = "cropland",
            **options: Any) -> Path:
    """A version as a refresh leaves it."""
    shelf = Shelf(root / region / task)
    old = shelf.current()
    values = FIELDS if task == "cropland" else FIELDS * 900
    folder = shelf.version(name)
    if options or not old:
        write_version(folder, values, np.full(FIELDS.shape, 97), task=task, **options)
    else:
        shutil.copytree(shelf.version(old), folder)
    told = result(region=region, task=task, version=name, previous=old)
    (folder / "report.json").write_text(json.dumps(told.to_json()))
    write_change(folder, shelf.version(old) if old else None)
    (folder / "report.html").write_text("<!DOCTYPE html><title>A refresh</title>")
    shelf.point(name)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, untrained: dict[str, Path]) -> Path:
    """Two versions of one map, one of another; the checkpoint of the first is at hand."""
    root = tmp_path_factory.mktemp("catalogue") / "root"
    card = json.loads((untrained["cropland"] / "card.json").read_text())
    publish(root, FIRST, checkpoint=str(untrained["cropland"]), sha256=card["sha256"])
    publish(root, SECOND)
    publish(root, FIRST, region="other-region", task="lfmc")
    update(root)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of one's own."""
    return Path(shutil.copytree(made, tmp_path / "root", symlinks=True))


def documents(root: Path) -> dict[str, dict[str, Any]]:
    """Every STAC document of the catalogue by its path."""
    paths = [root / "catalog.json", *root.glob("*/*/collection.json"),
             *root.glob("_models/*.json"), *root.glob("*/*/items/*.json"),
             *root.glob("_models/*/item.json")]
    return {str(p.relative_to(root)): json.loads(p.read_text()) for p in paths}


def hrefs(document: dict[str, Any]) -> Iterator[str]:
    for link in document["links"]:
        yield link["href"]
    for asset in document.get("assets", {}).values():
        yield asset["href"]


def check_whole(root: Path) -> None:
    """Every document is valid, every relative link leads to a file, and nothing is left over."""
    found = documents(root)
    for path, document in found.items():
        assert faults(document) == [], path
        for href in hrefs(document):
            if not href.startswith("http"):
                assert not os.path.isabs(href)
                assert ((root / path).parent / href).is_file(), f"{path}: {href}"
    linked = {os.path.normpath((root / path).parent / link["href"])
              for path, document in found.items() for link in document["links"]
              if link["rel"] in ("item", "child")}
    every = {os.path.normpath(root / path) for path in found} - {str(root / "catalog.json")}
    assert linked == every
    assert not [*root.rglob(f"{HIDDEN}*")]


def test_valid_and_no_link_leads_nowhere(root: Path) -> None:
    check_whole(root)
    assert len(documents(root)) == 1 + 3 + 3 + 1  # catalogue, collections, items, a checkpoint


def test_the_classes_are_what_their_extension_demands(root: Path) -> None:
    """Its schema is in no package: the check of it is shown to find what it should."""
    path = next(p for p in sorted(root.rglob("items/*.json")) if "change" in p.read_text())
    item = json.loads(path.read_text())
    assert CLASSIFICATION in item["stac_extensions"]
    assert faults(item) == []
    classes = item["assets"]["map"]["classification:classes"]
    for wrong in ({"value": "1"}, {"name": "two words"}, {"name": None}, {"color_hint": "#00FF00"},
                  {"color_hint": "00ff00"}, {"value": classes[1]["value"]}, {"nodata": "yes"}):
        item["assets"]["map"]["classification:classes"] = [classes[0] | wrong, *classes[1:]]
        assert len(faults(item)) == 1, wrong
    item["assets"]["map"]["classification:classes"] = []
    assert len(faults(item)) == 1
    item["assets"]["map"]["classification:classes"] = classes
    item["stac_extensions"].remove(CLASSIFICATION)
    assert len(faults(item)) == 1


@superseded
@pytest.mark.filterwarnings("ignore::pystac_client.warnings.FallbackToPystac")
def test_people_s_tools_walk_it(root: Path) -> None:
    with pytest.warns(NoConformsTo):  # a static catalogue is no API
        client = pystac_client.Client.open(str(root / "catalog.json"))
    for opened in (client, pystac.Catalog.from_file(str(root / "catalog.json"))):
        items = {item.id: item for item in opened.get_items(recursive=True)}
        assert {i for i in items if not i.startswith("cropland-")} == {
            f"demo-cropland-{FIRST}-utm31n", f"demo-cropland-{SECOND}-utm31n",
            f"other-region-lfmc-{FIRST}-utm31n"}
        item = items[f"demo-cropland-{SECOND}-utm31n"]
        assert Path(item.assets["map"].get_absolute_href()).is_file()
        assert item.get_collection().id == "demo-cropland"
        assert item.get_root().id == "wallmap"


def test_versions_know_each_other(root: Path) -> None:
    items = documents(root)
    first, second = (items[f"demo/cropland/items/{v}-utm31n.json"] for v in (FIRST, SECOND))
    links = {link["rel"]: link["href"] for link in first["links"]}
    assert links["successor-version"] == links["latest-version"] == f"./{SECOND}-utm31n.json"
    assert "predecessor-version" not in links
    links = {link["rel"]: link["href"] for link in second["links"]}
    assert links["predecessor-version"] == f"./{FIRST}-utm31n.json"
    assert "latest-version" not in links
    assert [i["properties"]["deprecated"] for i in (first, second)] == [True, False]
    properties = second["properties"]
    assert (properties["version"], properties["wallmap:tier"]) == (SECOND, "provisional")
    assert properties["wallmap:changed_share"] == 0
    assert properties["proj:code"] == "EPSG:32631"
    assert properties["processing:lineage"] == "s1 composites"
    derived = [link["href"] for link in second["links"] if link["rel"] == "derived_from"]
    assert derived[-1] == "https://example.com/items/a"
    model = json.loads((root / "demo/cropland/items" / derived[0]).read_text())
    assert model["properties"]["mlm:name"] == "toy-cropland"
    assert items["demo/cropland/collection.json"]["version"] == SECOND


def test_files_are_described_and_the_models_kept(root: Path) -> None:
    for path, item in documents(root).items():
        if item["type"] != "Feature":
            continue
        for name, asset in item["assets"].items():
            if name not in ("report", "record"):
                file = (root / path).parent / asset["href"]
                assert asset["file:size"] == file.stat().st_size, f"{path} {name}"
    item = documents(root)[f"demo/cropland/items/{SECOND}-utm31n.json"]
    assert {c["value"] for c in item["assets"]["change"]["classification:classes"]} == {
        0, 1, 2, 3, 254, 255}
    assert "change" not in documents(root)[f"demo/cropland/items/{FIRST}-utm31n.json"]["assets"]
    model = MLMExtension.ext(
        pystac.Item.from_file(str(next(root.glob("_models/*/item.json")))))
    assert model.tasks == ["classification"]
    assert {i.name for i in model.input} == {"s1", "s2", "l8"}


def test_the_index_holds_the_same_items(root: Path) -> None:
    table = pq.read_table(root / "index.parquet")
    found = {i["id"]: i for i in stac_geoparquet.arrow.stac_table_to_items(table)}
    items = [i for p, i in documents(root).items() if "/items/" in p]
    assert set(found) == {i["id"] for i in items}
    for item in items:
        row = found[item["id"]]
        assert row["properties"]["version"] == item["properties"]["version"]
        assert (root / row["assets"]["map"]["href"]).is_file()
        assert [link["href"] for link in row["links"]]


def test_it_is_made_again_from_the_versions_alone(root: Path) -> None:
    before = documents(root)
    stamps = {p: p.stat().st_mtime_ns for p in root.rglob("*.json")}
    update(root)
    assert documents(root) == before
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*.json")} == stamps  # nothing rewritten
    for path in (*root.glob("*/*/items"), root / "_models"):
        shutil.rmtree(path)
    for path in (root / "catalog.json", root / "index.parquet",
                 root / "demo" / "cropland" / "collection.json"):
        path.unlink()
    update(root)
    assert documents(root) == before


def test_pruned_and_rolled_back_versions(root: Path) -> None:
    shelf = Shelf(root / "demo" / "cropland")
    shelf.point(FIRST)
    update(root)
    items = documents(root)
    assert items[f"demo/cropland/items/{SECOND}-utm31n.json"]["properties"]["deprecated"]
    assert items["demo/cropland/collection.json"]["version"] == FIRST
    check_whole(root)
    shelf.discard(shelf.version(SECOND))
    shutil.rmtree(root / "other-region")
    update(root)
    check_whole(root)
    assert [p for p in documents(root) if "/items/" in p] == [
        f"demo/cropland/items/{FIRST}-utm31n.json"]


def test_unfinished_refused_and_damaged_versions_are_not_in_it(root: Path) -> None:
    shelf = Shelf(root / "demo" / "cropland")
    for name in (".staging-20231106T030000Z", ".refused-20231106T030000Z"):
        shutil.copytree(shelf.version(SECOND), shelf.folder / name)
    (shelf.version(FIRST) / "report.json").write_text("{")
    (root / "demo" / "lfmc" / "versions").mkdir(parents=True)
    update(root)
    check_whole(root)
    assert [p for p in documents(root) if p.startswith("demo/cropland/items")] == [
        f"demo/cropland/items/{SECOND}-utm31n.json"]


@superseded
@pytest.mark.parametrize("stop_at", [1, 3, 4, 6, 8])
def test_a_crash_leaves_links_that_lead_somewhere(
    root: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Whichever write is the last: what is linked is there, and the next update mends the rest."""
    publish(root, "20231106T030000Z")
    shutil.copytree(root / "demo", root / "third", symlinks=True)
    written = []
    real = catalogue._put

    def put(path: Path, entry: dict) -> None:
        if len(written) == stop_at:
            raise KeyboardInterrupt
        written.append(path)
        real(path, entry)

    monkeypatch.setattr(catalogue, "_put", put)
    with pytest.raises(KeyboardInterrupt):
        update(root)
    for item in pystac.Catalog.from_file(str(root / "catalog.json")).get_items(recursive=True):
        assert Path(item.self_href).is_file()
    monkeypatch.undo()
    update(root)
    check_whole(root)


def test_regions_refreshed_at_the_same_time_lose_nothing(root: Path) -> None:
    """As rounds do it: publish, then update under the root's lock; the last one sees all."""
    names = ["east", "north", "south"]

    def one(name: str) -> None:
        shutil.copytree(root / "demo", root / name, symlinks=True)
        with locked(root / ".catalogue", wait_s=60):
            update(root)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(one, names))
    check_whole(root)
    children = {p for p in documents(root) if p.endswith("cropland/collection.json")}
    assert children == {f"{n}/cropland/collection.json" for n in ("demo", *names)}


def test_an_empty_root(tmp_path: Path) -> None:
    update(tmp_path)
    assert faults(json.loads((tmp_path / "catalog.json").read_text())) == []
    assert not (tmp_path / "index.parquet").exists()


def test_a_checkpoint_that_was_replaced_is_not_taken_for_the_old_one(
    tmp_path: Path, untrained: dict[str, Path]
) -> None:
    publish(tmp_path, FIRST, checkpoint=str(untrained["cropland"]), sha256="cd" * 32)
    update(tmp_path)
    assert not (tmp_path / "_models").exists()
    check_whole(tmp_path)
