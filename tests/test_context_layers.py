"""Elevation and land cover from the catalogue to the map: reading, sampling, mapping alike."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.warp import Resampling, reproject

from pipeline import cli, sample
from pipeline.data.checkpoints import load_checkpoint
from pipeline.data.extract import read_points
from pipeline.data.items import ItemSet
from pipeline.data.load import finer
from pipeline.data.places import find_places, mosaic, read_places
from pipeline.data.points import read_samples
from pipeline.data.search import search, to_item
from pipeline.data.sources import SOURCES, STORED_DTYPE, collections_of, rows_of
from pipeline.data.static_sources import STATIC_SOURCES
from pipeline.infer.plan import PlanRow
from pipeline.infer.predict import Predictor
from pipeline.infer.run import Reader
from pipeline.prep.features import model_input
from pipeline.prep.place import halo_px, place_rows
from pipeline.spec.card import CheckpointCard
from pipeline.spec.context import GROUPS, LAYERS
from pipeline.spec.errors import DataTrouble, NothingFound
from pipeline.spec.grid import sheets, window
from pipeline.spec.tasks import LFMC
from tests.support.placed import save_placed
from tests.support.stac_server import StacServer

NAMES = (*LFMC.static, "lon", "lat")


@pytest.fixture(scope="module")
def area(region_aoi: str) -> shapely.Geometry:
    return shapely.box(*map(float, region_aoi.split(",")))


@pytest.fixture(scope="module")
def layers(region: Path, area: shapely.Geometry) -> dict[str, ItemSet]:
    found, missing = find_places(str(region / "catalog.json"), NAMES, area)
    assert not missing
    return found


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_placed(tmp_path_factory.mktemp("placed"))


def card_of(folder: Path) -> CheckpointCard:
    return CheckpointCard.from_json(json.loads((folder / "card.json").read_text()))


def sheet_grid(area: shapely.Geometry, zone: int, pixel_m: int) -> GeoBox:
    return next(s for s in sheets(area, pixel_m) if s.zone == zone).geobox


# --- search and reading


def test_the_table_of_layers_is_whole() -> None:
    assert len({row.key for row in (*SOURCES, *STATIC_SOURCES)}) == len(SOURCES) + len(
        STATIC_SOURCES)
    for row in STATIC_SOURCES:
        assert row.sensor in LAYERS
        assert set(row.assets) == {row.sensor}
        np.dtype(STORED_DTYPE[row.unit]).type(row.nodata)  # fits
        item = {"type": "Feature", "stac_version": "1.0.0", "id": "one", "links": [],
                "collection": row.collection, "bbox": [0, 0, 0, 0], "assets": {},
                "geometry": {"type": "Point", "coordinates": [0, 0]},
                "properties": {"datetime": "2021-04-22T00:00:00Z"} | dict.fromkeys(row.present, 1)}
        assert rows_of(to_item(item), row.sensor) == (row,)
    assert collections_of("dem") == ("cop-dem-glo-30",)
    assert collections_of("landcover") == ("esa-worldcover",)


@pytest.mark.real
def test_the_recorded_collection_holds_what_the_row_says(shared: Path) -> None:
    raw = json.loads((shared / "stac_recorded/earth_search_v1/collections_q_sentinel.json")
                     .read_text())
    (found,) = (c for c in raw["collections"] if c["id"] == "cop-dem-glo-30")
    row = next(r for r in STATIC_SOURCES if r.key == "copernicus/cop-dem-glo-30")
    (band,) = found["item_assets"][row.assets["dem"]]["raster:bands"]
    assert (band["unit"], band["data_type"]) == ("meter", STORED_DTYPE[row.unit])
    assert found["summaries"]["storage:requester_pays"] == [False]


def test_layers_are_found_whatever_the_season_and_beyond_the_edge(region: Path, layers) -> None:
    assert [i.id[22:] for i in layers["dem"].items] == [
        "N43_00_E005_00_DEM", "N43_00_E006_00_DEM"]
    assert {s.key for s in layers["dem"].sources} == {"sandbox/cop-dem-glo-30"}
    years = [i.id.split("_")[3] for i in layers["landcover"].items]
    assert years == ["2020", "2020", "2021", "2021"]
    # an area that ends 20 m west of the next tile: slopes there need what lies behind
    edge = shapely.box(5.997, 43.899, 5.9998, 43.901)
    found, _ = find_places(str(region / "catalog.json"), ("slope",), edge)
    assert set(found) == {"dem"}
    assert len(found["dem"].items) == 2


def test_an_api_is_asked_without_dates_and_others_help_out(region, area, monkeypatch) -> None:
    with StacServer(region) as full, StacServer(region) as poor:
        del poor.collections["esa-worldcover"]
        with pytest.raises(NothingFound, match="no collection to map landcover from"):
            search(poor.url, "landcover", area, None)
        found, missing = find_places(poor.url, LFMC.static, area)
        assert set(found) == {"dem"}
        assert "esa-worldcover" in missing["landcover"]
        # public catalogues stand in for each other, an address of the user's own for none
        monkeypatch.setattr("pipeline.data.places.CATALOGS", {"poor": poor.url, "full": full.url})
        monkeypatch.setattr("pipeline.data.search.CATALOGS", {"poor": poor.url, "full": full.url})
        found, missing = find_places("poor", LFMC.static, area)
        assert not missing
        assert (found["dem"].catalog, found["landcover"].catalog) == (poor.url, full.url)
        poor.faults = [500] * 7
        monkeypatch.setattr("urllib3.Retry.sleep", lambda *_: None)
        with pytest.raises(DataTrouble, match="does not answer"):
            find_places("poor", ("slope",), area)


def test_degrees_are_read_at_the_pixel_centre(area, layers) -> None:
    """Against a look-up pixel by pixel, and against GDAL's warper."""
    grid = finer(sheet_grid(area, 31, 250).pad(1), 5)
    for layer in ("dem", "landcover"):
        got = mosaic(layers[layer], grid)
        assert np.isfinite(got).mean() > 0.5
        warped = np.full(grid.shape, np.nan, np.float32)
        items = layers[layer].items[-2:]  # the newest year, both tiles
        for item in items:
            (asset,) = item.assets.values()
            with rasterio.open(asset.href) as file:
                values = file.read(1).astype(np.float32)
                part = np.full(grid.shape, np.nan, np.float32)
                reproject(values, part, src_transform=file.transform, src_crs=file.crs,
                          dst_transform=grid.affine, dst_crs=str(grid.crs), dst_nodata=np.nan,
                          resampling=Resampling.nearest, tolerance=0)
                warped = np.where(np.isnan(warped), part, warped)
                to_file = Transformer.from_crs(str(grid.crs), 4326, always_xy=True)
                for row, col in ((0, 0), (7, 11), (grid.shape[0] - 1, grid.shape[1] - 1)):
                    t = grid.affine
                    r, c = file.index(*to_file.transform(t.c + t.a * (col + 0.5),
                                                         t.f + t.e * (row + 0.5)))
                    if 0 <= r < file.height and 0 <= c < file.width:
                        assert got[row, col] == values[r, c]
        assert (got == warped)[np.isfinite(got)].mean() > 0.999


def test_the_newest_land_cover_wins(area, layers) -> None:
    grid = finer(sheet_grid(area, 32, 250), 5)
    items = layers["landcover"]
    alone = [mosaic(dataclasses.replace(items, items=items.items[a : a + 2]), grid)
             for a in (0, 2)]
    both = mosaic(items, grid)
    assert not np.array_equal(alone[0], alone[1], equal_nan=True)
    np.testing.assert_array_equal(both, alone[1])


def test_any_window_gives_the_same_place(area, layers) -> None:
    """Slopes at the edge of a tile see the terrain behind it, over the tiles of the product."""
    for zone in (31, 32):
        whole = sheet_grid(area, zone, 250).pad(1)
        want = read_places(layers, whole, NAMES, LFMC)
        assert set(want) == set(NAMES)
        assert np.isfinite(want["slope"]).all()
        assert want["slope"].std() > 0.1
        for rows, cols in ((slice(0, 1), slice(0, 1)), (slice(1, 3), slice(2, None)),
                           (slice(None), slice(1, 2))):
            part = read_places(layers, whole[rows, cols], NAMES, LFMC)
            for name in NAMES:
                np.testing.assert_array_equal(part[name], want[name][rows, cols])
        assert sum(want[g] for g in LFMC.static[2:]).max() <= 1


def test_a_missing_tile_is_unknown_only_where_it_is_missing(area, layers) -> None:
    grid = sheet_grid(area, 31, 250).pad(1)
    half = {"dem": dataclasses.replace(layers["dem"], items=layers["dem"].items[:1])}  # the west
    got = read_places(half, grid, NAMES, LFMC)
    assert set(got) == {"elevation", "slope", "lon", "lat"}
    east = got["lon"] > 6.002
    assert np.isnan(got["elevation"][east]).all()
    assert np.isfinite(got["elevation"][got["lon"] < 5.998]).all()


def test_slope_of_the_simulated_terrain(area, layers) -> None:
    """Horn's formula over block means of the tile's own pixels, taken another way."""
    pixel = sheet_grid(area, 31, 250)[0:1, 0:1]
    fine = mosaic(layers["dem"], finer(pixel.pad(halo_px(LFMC)), LFMC.aggregate))
    mid, side = fine.shape[0] // 2, 19
    z = [[fine[mid + i * side - 9 : mid + i * side + 10, mid + j * side - 9 : mid + j * side + 10]
          .mean(dtype=np.float64) for j in (-1, 0, 1)] for i in (-1, 0, 1)]
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    rise = np.hypot((np.array(z) * kernel).sum(), (np.array(z) * kernel.T).sum()) / (8 * 950)
    got = read_places(layers, pixel, ("slope",), LFMC)["slope"][0, 0]
    assert got == pytest.approx(np.degrees(np.arctan(rise)), rel=1e-6)


def test_the_demo_regions_layers_are_those_of_its_truth(region: Path, area, layers) -> None:
    legend = json.loads((region / "truth/truth.json").read_text())["cover"]
    path = region / "truth/cover_utm31n.tif"
    with rasterio.open(path) as file:
        cover = file.read(1)
        grid = GeoBox(cover.shape, file.transform, file.crs.to_epsg())
    code = mosaic(layers["landcover"], grid)
    known = np.isfinite(code)
    for name, want in (("water", 80), ("maize", 40), ("evergreen forest", 10)):
        here = known & (cover == next(int(k) for k, v in legend.items() if v == name))
        if here.sum() > 50:
            assert (code[here] == want).mean() > 0.7, name
    crops = np.isin(cover, list(range(5)))  # winter cereal to alfalfa
    assert 0.75 < (code[crops & known] == 40).mean() < 1


# --- samples and maps


def test_a_sampled_pixel_and_the_same_pixel_mapped_get_the_same_input(
    region, placed, tmp_path, layers, monkeypatch
) -> None:
    made = json.loads((region / "truth/points_lfmc.geojson").read_text())
    made["features"] = [f for f in made["features"] if f["properties"]["period"] == "2023-10"
                        and f["geometry"]["coordinates"][0] < 6]
    points = tmp_path / "points.geojson"
    points.write_text(json.dumps(made))
    out = tmp_path / "samples"
    code = cli.run(sample.command, [
        "--points", str(points), "--label-column", "lfmc_percent", "--task", "lfmc", "--catalog",
        str(region / "catalog.json"), "--sensors", "l8", "--out", str(out), "--quiet"])
    assert code == 0
    assert (out / "items/dem.json").is_file()
    got, card = read_samples(out, LFMC), card_of(placed)
    assert tuple(got.context) == LFMC.static
    entry, (x, valid) = card.sensors["l8"], got.series["l8"]
    place = np.stack([got.context[n] for n in entry.static], 1)
    assert np.isfinite(place).all()
    sampled = model_input(x, valid, got.months, got.bands["l8"], entry, place)

    read = read_points(points, "lfmc_percent", LFMC, None)
    items = search(str(region / "catalog.json"), "l8", read.area, read.span)
    reader = Reader({"l8": items}, card.sensors, read.span, LFMC, layers)
    predictor = Predictor(LFMC, card, load_checkpoint(str(placed))[1], "cpu")
    seen: list[np.ndarray] = []
    run = predictor.run
    monkeypatch.setattr(predictor, "run",
                        lambda sensor, inputs: seen.append(inputs) or run(sensor, inputs))
    (sheet, *_) = sheets(read.area, LFMC.pixel_m)
    to_utm = Transformer.from_crs(4326, sheet.epsg, always_xy=True)
    east, north = to_utm.transform(got.lon, got.lat)
    checked = 0
    for tile in sheet.tiles(2):
        cube, _ = reader(PlanRow(sheet, tile, (), ""), "l8")
        (h, w), t = tile.geobox.shape, tile.geobox.affine
        rows, cols = ((t.f - north) // 250).astype(int), ((east - t.c) // 250).astype(int)
        for k in np.flatnonzero((rows >= 0) & (rows < h) & (cols >= 0) & (cols < w)):
            wanted = np.zeros((h, w), bool)
            wanted[rows[k], cols[k]] = True
            predictor("l8", cube, wanted)
            np.testing.assert_array_equal(seen.pop()[0], sampled[k])
            checked += 1
    assert checked == len(got.ids) > 3


def test_groups_and_grids_of_place_rows(layers) -> None:
    grid = window((274000, 4864000, 274250, 4864250), 32632, 250)
    got = read_places(layers, grid, GROUPS, LFMC)
    assert set(got) == set(GROUPS)
    assert place_rows(got, GROUPS, 1).shape == (1, len(GROUPS))
    assert place_rows(got, GROUPS, 1).sum() == pytest.approx(1) or np.isnan(got["tree"]).all()
