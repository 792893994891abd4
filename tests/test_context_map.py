"""Maps that use the place: what they are made from, and what happens where a layer is missing."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from pipeline import cli
from pipeline import map as map_command
from pipeline.spec.layers import UNLIKE
from pipeline.spec.tasks import CROPLAND
from tests.support.placed import save_placed

Run = Callable[..., tuple[int, dict]]


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_placed(tmp_path_factory.mktemp("placed"))


@pytest.fixture(scope="module")
def run(region: Path, region_aoi: str, placed: Path) -> Run:
    """``run(out, catalog=..., ...)`` -> exit code and the JSON report of a map."""

    def go(out: Path, *flags: str, **options: object) -> tuple[int, dict]:
        given = {"sensor": "l8", "tile_size": "16", "catalog": region / "catalog.json",
                 "checkpoint": placed, "task": "lfmc"} | options
        argv = ["--aoi", region_aoi, "--period", "2023-08", "--out", str(out),
                "--quiet", "--json", *flags]
        for key, value in given.items():
            argv += [f"--{key.replace('_', '-')}", str(value)]
        with contextlib.redirect_stdout(io.StringIO()) as said:
            code = cli.run(map_command.command, argv)
        return code, json.loads(said.getvalue() or "{}")

    return go


@pytest.fixture(scope="module")
def known(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """Folder and report of a map of the demo region with its layers."""
    out = tmp_path_factory.mktemp("known") / "map"
    code, report = run(out)
    assert code == 0
    return out, report


def values(out: Path, layer: str = "map") -> list[np.ndarray]:
    found = []
    for path in sorted(out.rglob(f"{layer}.tif")):
        if ".run" not in path.parts:
            with rasterio.open(path) as file:
                found.append(file.read(1))
    return found


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def bare(region: Path, tmp_path: Path) -> Path:
    """The demo region's catalogue without elevation."""
    folder = tmp_path / "bare"
    shutil.copytree(region, folder)
    catalog = json.loads((folder / "catalog.json").read_text())
    catalog["links"] = [k for k in catalog["links"] if "cop-dem" not in k["href"]]
    (folder / "catalog.json").write_text(json.dumps(catalog))
    return folder / "catalog.json"


def test_a_map_says_from_what_it_knows_the_place(known: tuple[Path, dict]) -> None:
    out, report = known
    assert report["unknown"] == {}
    assert report["items"]["dem"]["sources"] == ["sandbox/cop-dem-glo-30"]
    assert report["items"]["dem"]["count"] == 2
    assert len(report["items"]["landcover"]["fingerprint"]) == 64
    text = sorted(out.glob("*/item.json"))[0].read_text()
    assert "place features of sandbox/cop-dem-glo-30, sandbox/esa-worldcover" in text
    with rasterio.open(sorted(out.glob("*/map.tif"))[0]) as file:
        tags = file.tags()
    assert tags["SMOOTHING_PX"] == "l8 1"
    assert tags["SOURCES"] == ("sandbox/cop-dem-glo-30, sandbox/esa-worldcover, "
                               "sandbox/landsat-c2-l2")


def test_neither_tile_size_nor_a_resumed_run_changes_a_pixel(run, known, tmp_path) -> None:
    # cropland: its 10 m pixels make more than one tile of the region
    folder = save_placed(tmp_path / "cropland", CROPLAND)
    for size in ("32", "64"):
        code, _ = run(tmp_path / size, task="cropland", checkpoint=folder, tile_size=size)
        assert code == 0
    assert (tmp_path / "32/.run/tiles.jsonl").read_text().count("\n") > 4
    assert same(values(tmp_path / "32"), values(tmp_path / "64"))
    assert same(values(tmp_path / "32", "confidence"), values(tmp_path / "64", "confidence"))
    assert np.unique(values(tmp_path / "32", "confidence")[0]).size > 3
    before = values(known[0])
    lines = (known[0] / ".run/tiles.jsonl").read_text().count("\n")
    code, report = run(known[0], "--resume")
    assert (code, report["items"]["dem"]["count"]) == (0, 2)
    assert (known[0] / ".run/tiles.jsonl").read_text().count("\n") == lines
    assert same(values(known[0]), before)


def test_without_elevation_the_map_is_that_of_an_unknown_place(
    run, bare, known, tmp_path, monkeypatch
) -> None:
    code, report = run(tmp_path / "out", catalog=bare)
    assert code == 0
    assert "no usable dem image" in report["unknown"]["dem"]
    # all or nothing: land cover alone is not used either
    assert set(report["items"]) == {"l8"}
    assert json.loads((tmp_path / "out/manifest.json").read_text())["unknown"] == report["unknown"]
    again = run(tmp_path / "out", "--resume", catalog=bare)[1]["unknown"]
    assert set(again.values()) == {"not found when the run began"}
    unknown = values(tmp_path / "out")
    assert not same(unknown, values(known[0]))
    monkeypatch.setattr("pipeline.infer.predict.place_rows",
                        lambda place, names, n: np.full((n, len(names)), np.nan, np.float32))
    assert run(tmp_path / "nan")[0] == 0
    assert same(values(tmp_path / "nan"), unknown)


def test_a_network_that_always_knew_the_place_is_not_trusted_where_it_is_unknown(
    run, bare, placed, tmp_path
) -> None:
    needy = tmp_path / "needy"
    shutil.copytree(placed, needy)
    raw = json.loads((needy / "card.json").read_text())
    for entry in raw["sensors"].values():
        entry["place_needed"] = True
    (needy / "card.json").write_text(json.dumps(raw))
    quality = {}
    for name, options in {"needy": {"checkpoint": needy, "catalog": bare},
                          "easy": {"catalog": bare}, "known": {"checkpoint": needy}}.items():
        assert run(tmp_path / name, **options)[0] == 0
        quality[name] = np.concatenate([q.ravel() for q in values(tmp_path / name, "quality")])
    made = quality["easy"] != 0
    assert (quality["needy"][made] == UNLIKE).all()
    assert (quality["easy"] != UNLIKE).all()
    assert (quality["known"] != UNLIKE).all()
    assert same(values(tmp_path / "needy"), values(tmp_path / "easy"))  # said, not changed
    rules = {name: json.loads((tmp_path / name / "manifest.json").read_text())["rules"]
             for name in ("needy", "easy")}
    assert "place unknown, for l8" in rules["needy"]["outside the training domain"]
    assert "place" not in rules["easy"]["outside the training domain"]


def test_what_is_unknown_is_printed(run, bare, placed, tmp_path, capsys) -> None:
    other = tmp_path / "other"
    shutil.copytree(placed, other)
    raw = json.loads((other / "card.json").read_text())
    for entry in raw["sensors"].values():
        entry["static"][1] = "canopy_height"
    (other / "card.json").write_text(json.dumps(raw))
    code, plan = run(tmp_path / "a", "--dry-run", checkpoint=other)
    assert code == 0
    assert plan["unknown"] == {"canopy_height": "no layer of a map gives it"}
    assert run(tmp_path / "b", "--dry-run")[1]["items"] == {"l8": 10, "dem": 2, "landcover": 4}
    argv = ["--aoi", "5.998,43.899,5.9995,43.901", "--task", "lfmc", "--period", "2023-08",
            "--sensor", "l8", "--catalog", str(bare), "--checkpoint", str(placed), "--out",
            str(tmp_path / "c"), "--quiet"]
    assert cli.run(map_command.command, argv) == 0
    said = capsys.readouterr().out
    assert "unknown  dem: " in said
    assert "mapped without place features" in said
    assert cli.run(map_command.command, [*argv, "--dry-run"]) == 0
    assert "unknown dem: " in capsys.readouterr().out


def test_an_unreadable_layer_fails_its_tiles(run, region, tmp_path, capsys) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(region, broken)
    for path in broken.glob("cop-dem-glo-30/*/*.tif"):
        path.write_bytes(b"no TIFF")
    assert run(tmp_path / "out", catalog=broken / "catalog.json")[0] == 3
    assert "Copernicus_DSM_COG_10" in capsys.readouterr().err
