"""The demo, as `make map` and the quickstart notebook run it, with fewer dates."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from pathlib import Path

import nbformat
import numpy as np
import pytest
import shapely
from nbclient import NotebookClient
from pyproj import Transformer
from rasterio.features import geometry_mask

from pipeline import cli, map, sample, sandbox, train
from pipeline.data.aoi import read_aoi
from pipeline.data.checkpoints import load_checkpoint
from pipeline.data.items import thaw
from pipeline.data.load import load_cube
from pipeline.data.points import read_samples
from pipeline.prep.features import cube_planes, input_planes, model_input
from pipeline.sandbox import __main__ as sandbox_cli
from pipeline.spec.grid import Tile, sheets
from pipeline.spec.tasks import CROPLAND
from pipeline.spec.timeline import Timeline

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.xdist_group("demo")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out like the checkout after `make map`, made by the same commands."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "aoi", home / "aoi")
    shutil.copytree(ROOT / "notebooks", home / "notebooks")
    params = dataclasses.replace(sandbox.SandboxParams.demo(), s1_days=24, s2_days=20, l8_days=24,
                                 cropland_points=600)
    region = home / "build" / "demo"
    sandbox.write(region, params)
    assert cli.run(sample.command, [
        "--points", str(region / "truth/points_cropland.geojson"), "--label-column", "cropland",
        "--catalog", str(region / "catalog.json"), "--period", "2023-10", "--quiet",
        "--out", str(region / "samples/cropland"),
    ]) == 0
    assert cli.run(train.command, [
        "--task", "cropland", "--samples", str(region / "samples/cropland"), "--fast", "--quiet",
        "--threads", "1", "--out", str(region / "checkpoints/cropland"),
    ]) == 0
    return home


@pytest.fixture
def here(demo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(demo)
    return demo


def score(folder: Path, capsys) -> dict:
    capsys.readouterr()
    argv = ["--score", str(folder), "--truth", "build/demo", "--json", "--quiet"]
    assert cli.run(sandbox_cli.command, argv) == 0
    (found,) = json.loads(capsys.readouterr().out)
    return found["metrics"]


def test_the_readme_command_maps_the_demo(here: Path, capsys) -> None:
    argv = ["--aoi", "aoi/demo.geojson", "--sensor", "s1"]
    assert cli.run(map.command, [*argv, "--quiet"]) == 0
    folder = here / "maps/demo-cropland-s1-2023-10"
    found = score(folder, capsys)
    assert found["accuracy"] > 0.8  # other is 57 % of the area
    share = json.loads((folder / "manifest.json").read_text())["totals"]["mapped_share"]
    assert 0.85 < share < 0.99  # the east end has no Sentinel-1


def test_auto_maps_all_of_it(here: Path, capsys) -> None:
    argv = ["--aoi", "aoi/demo.geojson", "--sensor", "auto", "--quiet", "--tile-size", "64"]
    assert cli.run(map.command, argv) == 0
    folder = here / "maps/demo-cropland-auto-2023-10"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["totals"]["mapped_share"] > 0.999
    assert {t["sensor"] for t in manifest["tiles"] if t["sensor"]} >= {"l8"}
    assert score(folder, capsys)["accuracy"] > 0.85


def test_a_sampled_pixel_is_the_mapped_pixel_to_the_bit(here: Path) -> None:
    samples = read_samples(here / "build/demo/samples/cropland", CROPLAND)
    card, _ = load_checkpoint(here / "build/demo/checkpoints/cropland")
    sheet = sheets(read_aoi("aoi/demo.geojson").geometry, CROPLAND.pixel_m)[0]
    to_utm = Transformer.from_crs(4326, sheet.epsg, always_xy=True)
    x, y = to_utm.transform(samples.lon, samples.lat)

    def held(tile: Tile) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of the samples in a tile, and their pixels."""
        to_pixel, (h, w) = ~tile.geobox.affine, tile.geobox.shape
        col = np.floor(to_pixel.a * x + to_pixel.c).astype(int)
        row = np.floor(to_pixel.e * y + to_pixel.f).astype(int)
        own = np.flatnonzero((row >= 0) & (row < h) & (col >= 0) & (col < w))
        return own, row[own], col[own]

    tile = max(sheet.tiles(64), key=lambda t: held(t)[0].size)
    own, row, col = held(tile)
    assert own.size > 5
    for key in ("s1", "s2", "l8"):
        items = thaw(here / f"build/demo/samples/cropland/items/{key}.json")
        bands = samples.bands[key]
        timeline = Timeline(int(samples.months[own[0], 0]), 12)
        cube = load_cube(items, tile.geobox, bands, timeline)
        mapped = input_planes(*cube_planes(cube), np.array(cube.timeline.months), bands,
                              card.sensors[key])
        x_s, valid = samples.series[key]
        sampled = model_input(x_s[own], valid[own], samples.months[own], bands,
                              card.sensors[key])
        at = row * tile.geobox.shape.x + col
        np.testing.assert_array_equal(mapped[..., at].transpose(2, 0, 1), sampled)


def test_a_month_of_a_cube_is_the_median_of_its_scenes(here: Path) -> None:
    import pipeline as pl

    period, bands = "2023-03:2023-06", ("B04",)
    months = pl.open_cube("aoi/demo.geojson", "s2", period, bands=bands)
    scenes = pl.open_cube("aoi/demo.geojson", "s2", period, bands=bands, monthly=False)
    assert months.value.chunks
    assert scenes.value.chunks
    assert months.rio.crs == scenes.rio.crs
    # away from the zones' overlap: a pass is one scene there
    single = scenes.value.sel(band="B04")[:, :, :120].load()
    found = months.value.sel(band="B04")[:, :, :120].load()
    assert np.isfinite(found.values).any()
    for k, month in enumerate(("2023-03", "2023-04", "2023-05", "2023-06")):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice")
            expected = np.nanmedian(single.sel(time=month).values, axis=0)
        np.testing.assert_allclose(found[k].values, expected, rtol=1e-6)


def test_map_area_joins_the_sheets_without_a_gap(here: Path) -> None:
    import pipeline as pl

    maps = pl.map_area("aoi/demo.geojson", "auto", out="maps/joined", progress=False)
    assert maps["map"].chunks is not None
    assert maps.rio.crs.to_epsg() in (32631, 32632)
    to_utm = Transformer.from_crs(4326, maps.rio.crs, always_xy=True).transform
    outline = shapely.transform(
        shapely.segmentize(read_aoi("aoi/demo.geojson").geometry, 0.001), to_utm, interleaved=False
    )
    inside = geometry_mask([outline.buffer(-10)], maps["map"].shape, maps.rio.transform(),
                           invert=True)
    values = maps["sensor"].values
    assert inside.sum() > 50_000
    assert (values[inside] != 255).all()
    assert (maps["map"].values[inside] != 255).mean() > 0.999
    assert maps.attrs["failed_tiles"] == 0


def test_the_notebook_runs_and_shows_its_map(here: Path) -> None:
    path = here / "notebooks/01_quickstart.ipynb"
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = []  # what is asserted below comes from this run
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [o for c in book.cells if c.cell_type == "code" for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 2
    text = "".join(o.get("text", "") for o in outputs)
    assert "% of the area mapped" in text
