"""Pixels: windows, tiles and zones, metadata that lies, and what the notebook gets."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import dask
import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  registers the .rio accessor
import shapely
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.warp import reproject

from pipeline.data.aoi import read_aoi
from pipeline.data.block_store import Grid
from pipeline.data.items import ItemSet, when
from pipeline.data.load import finer, load_cube, open_composite, open_scenes
from pipeline.data.reader import centres, nearest
from pipeline.data.search import search
from pipeline.spec.errors import DataTrouble
from pipeline.spec.grid import sheets
from pipeline.spec.sensors import SENSORS
from pipeline.spec.timeline import parse_period

YEAR = parse_period("2023-10", 12)


@pytest.fixture(scope="module")
def found(region: Path, region_aoi: str) -> dict[str, ItemSet]:
    """Per sensor, what the sandbox has for the year."""
    geometry = read_aoi(region_aoi).geometry
    catalog = str(region / "catalog.json")
    return {key: search(catalog, key, geometry, YEAR) for key in SENSORS}


# --- windows, tiles, chunks


def picked(file: rasterio.DatasetReader, window: GeoBox, fill: np.generic) -> np.ndarray:
    """The first band of an opened file."""
    return nearest(Grid.of(file), lambda part: file.read(1, window=part), window, fill)


def test_nearest_against_gdal(found: dict[str, ItemSet]) -> None:
    """Into the other zone: the exact place, where GDAL's warper stays within 1/8 pixel of it."""
    item = next(i for i in found["s2"].items if i.properties["proj:code"] == "EPSG:32631")
    with rasterio.open(item.assets["B04"].href) as file:
        inner = file.bounds
        grid = GeoBox((40, 50), Affine(10, 0, inner.left, 0, -10, inner.top), 32631)
        same = picked(file, grid, np.uint16(0))
        np.testing.assert_array_equal(same[:file.height, :file.width],
                                      file.read(1)[:40, :50])
        x, y = (float(v) for v in np.ravel(rasterio.warp.transform(
            file.crs, "EPSG:32632", [(inner.left + inner.right) / 2],
            [(inner.top + inner.bottom) / 2])))
        other = GeoBox((30, 30), Affine(10, 0, round(x, -1), 0, -10, round(y, -1)), 32632)
        mine = picked(file, other, np.uint16(0))
        gdal = np.zeros((30, 30), np.uint16)
        reproject(rasterio.band(file, 1), gdal, dst_transform=other.affine, dst_crs="EPSG:32632",
                  resampling=Resampling.nearest, src_nodata=0, tolerance=0)
    assert (mine > 0).mean() > 0.3
    assert (mine == gdal).mean() > 0.99


def test_coarse_pixels_are_repeated_and_fine_ones_picked(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    with rasterio.open(path, "w", driver="GTiff", width=4, height=4, count=1, dtype="uint16",
                       crs="EPSG:32631", transform=Affine(20, 0, 500000, 0, -20, 5600000)) as file:
        file.write(np.arange(16, dtype=np.uint16).reshape(4, 4), 1)
    with rasterio.open(path) as file:
        fine = GeoBox((8, 8), Affine(10, 0, 500000, 0, -10, 5600000), 32631)
        wanted = np.arange(16).reshape(4, 4).repeat(2, 0).repeat(2, 1)
        np.testing.assert_array_equal(picked(file, fine, np.uint16(99)), wanted)
        shifted = GeoBox((2, 3), Affine(20, 0, 499980, 0, -20, 5600020), 32631)
        np.testing.assert_array_equal(picked(file, shifted, np.uint16(99)),
                                      [[99, 99, 99], [99, 0, 1]])
        away = GeoBox((2, 2), Affine(20, 0, 600000, 0, -20, 5600000), 32631)
        assert (picked(file, away, np.uint16(99)) == 99).all()


def test_tiles_equal_the_whole(found: dict[str, ItemSet], area: shapely.Geometry) -> None:
    """Own zone and warped: any window gives the pixels that the whole gives."""
    for key, sheet in zip(("s2", "l8"), sheets(area, 10), strict=True):
        items, bands = found[key], SENSORS[key].band_names[-1:]
        whole = load_cube(items, sheet.geobox, bands, YEAR)
        for tile in sheet.tiles(23):
            part = load_cube(items, tile.geobox, bands, YEAR)
            np.testing.assert_array_equal(part.x, whole.x[..., tile.rows, tile.cols])
            np.testing.assert_array_equal(part.count, whole.count[..., tile.rows, tile.cols])


def test_chunks_do_not_matter(found: dict[str, ItemSet], area: shapely.Geometry) -> None:
    grid = sheets(area, 20)[0].geobox
    for aggregate in (1, 2):
        one, two = (
            open_composite(found["s1"], grid, ("vv",), YEAR, aggregate=aggregate, chunk_px=px)
            for px in (11, 500)
        )
        assert one["value"].data.numblocks != two["value"].data.numblocks
        xr.testing.assert_identical(one.compute(), two.compute())


def test_overlapping_tiles_of_a_pass_count_once(
    found: dict[str, ItemSet], area: shapely.Geometry
) -> None:
    """Each overflight is delivered in two tiles, one a zone, that overlap at the boundary."""
    items = found["s2"]
    scenes = len(items.items)
    passes = len(set(items.passes))
    assert passes < scenes
    grid = sheets(area, 10)[0].geobox
    cube = load_cube(items, grid, ("B04",), YEAR)
    each = [sum(1 for n in set(items.passes) if YEAR.step_of(
        when(items.items[items.passes.index(n)])) == t) for t in range(12)]
    assert (cube.count.max((1, 2)) <= each).all()


def test_sheets_meet_in_value(found: dict[str, ItemSet], area: shapely.Geometry) -> None:
    """Where the two tiles of an overflight overlap, the warped one shows the same fields."""
    items = found["s2"]
    by_zone = {
        (number, item.properties["proj:code"]): item
        for item, number in zip(items.items, items.passes, strict=True)
    }
    grid = sheets(area, 10)[0].geobox
    likeness = []
    for number in set(items.passes):
        own, other = (by_zone.get((number, f"EPSG:326{zone}")) for zone in (31, 32))
        if own is None or other is None:
            continue
        here, there = (
            open_scenes(dataclasses.replace(items, items=(i,)), grid, ("B08",)).compute()["value"]
            for i in (own, other)
        )
        if not (here.size and there.size):
            continue
        both = np.isfinite(here.values) & np.isfinite(there.values)
        if both.sum() > 50:
            likeness.append(np.corrcoef(here.values[both], there.values[both])[0, 1])
    assert len(likeness) > 3
    assert np.median(likeness) > 0.7


def test_aggregate_reads_finer(found: dict[str, ItemSet], area: shapely.Geometry) -> None:
    coarse = sheets(area, 50)[0].geobox
    assert finer(coarse, 5).affine == Affine(10, 0, coarse.affine.c, 0, -10, coarse.affine.f)
    one = load_cube(found["s1"], coarse, ("vv",), YEAR, aggregate=5)
    fine = load_cube(found["s1"], finer(coarse, 5), ("vv",), YEAR)
    t, b, h, w = one.x.shape
    power = 10 ** (fine.x.astype(float) / 10)
    blocks = np.nanmean(power.reshape(t, b, h, 5, w, 5), axis=(3, 5))
    np.testing.assert_allclose(one.x, 10 * np.log10(blocks), atol=1e-4)
    np.testing.assert_array_equal(one.count, fine.count.reshape(t, h, 5, w, 5).max((2, 4)))


def test_centres_of_another_zone_are_computed_once(area: shapely.Geometry) -> None:
    grid = sheets(area, 10)[0].geobox
    x, y = centres(grid, "EPSG:32631")
    assert (x.shape, y.shape) == ((1, grid.shape[1]), (grid.shape[0], 1))
    x, y = centres(grid, "EPSG:32632")
    assert x.shape == y.shape == grid.shape
    assert centres(grid, "EPSG:32632")[0] is x


# --- baselines, metadata that lies, missing things


def test_each_item_its_own_offset(found: dict[str, ItemSet], area: shapely.Geometry) -> None:
    items = found["s2"]
    grid = sheets(area, 10)[0].geobox
    baselines = {i.properties["s2:processing_baseline"] for i in items.items}
    assert any(b < "04.00" for b in baselines)
    assert any(b >= "04.00" for b in baselines)
    scenes = open_scenes(items, grid, ("B04",)).compute()
    for k, item in enumerate(i for i in items.items if i.id in scenes["item"].values):
        if item.properties["proj:code"] != "EPSG:32631":
            continue
        with rasterio.open(item.assets["B04"].href) as file:
            dn = picked(file, grid, np.uint16(0)).astype(float)
        offset = 0 if item.properties["s2:processing_baseline"] < "04.00" else -0.1
        got = scenes["value"].values[k, 0]
        seen = np.isfinite(got)
        np.testing.assert_allclose(got[seen], (dn * 1e-4 + offset)[seen], atol=2e-7)


def test_stated_grids_and_outlines_are_not_believed(
    found: dict[str, ItemSet], area: shapely.Geometry
) -> None:
    """A shape that is too small (old RTC items swap width and height), an outline cut short."""
    grid = sheets(area, 10)[0].geobox
    right = load_cube(found["s1"], grid, ("vv",), YEAR)
    for lie in ("grid", "outline", "both"):
        wrong = []
        for item in found["s1"].items:
            twin = item.clone()
            places = (twin.properties, *(a.extra_fields for a in twin.assets.values()))
            for place in places if lie != "outline" else ():
                if "proj:shape" in place:
                    place["proj:shape"] = [1, 1]
            if lie != "grid":
                ring = twin.geometry["coordinates"][0]
                twin.geometry = {"type": "Polygon", "coordinates": [[*ring[:3], ring[0]]]}
            wrong.append(twin)
        items = dataclasses.replace(found["s1"], items=tuple(wrong))
        np.testing.assert_array_equal(load_cube(items, grid, ("vv",), YEAR).x, right.x)


def test_swapped_width_and_height(found: dict[str, ItemSet]) -> None:
    """The strip that the swapped shape leaves out is still read."""
    item = found["s1"].items[0].clone()
    height, width = item.properties["proj:shape"]
    assert height > width
    a, _, c, _, e, f = item.properties["proj:transform"][:6]
    lowest = Affine(a, 0, c, 0, e, f + (height - 2) * e)
    strip = GeoBox((2, width), lowest, item.properties["proj:code"])
    item.properties["proj:shape"] = [width, height]
    assert dataclasses.replace(found["s1"], items=(item,)).touching(strip) == (0,)


def test_nothing_touches(found: dict[str, ItemSet]) -> None:
    away = GeoBox((5, 6), Affine(10, 0, 500000, 0, -10, 4000000), 32631)
    cube = load_cube(found["s2"], away, ("B04", "B08"), YEAR)
    assert np.isnan(cube.x).all()
    assert not cube.count.any()
    scenes = open_scenes(found["s2"], away, ("B04",)).compute()
    assert scenes["value"].shape == (0, 1, 5, 6)


def test_missing_scaling_names_the_item(found: dict[str, ItemSet], area: shapely.Geometry) -> None:
    twin = found["s2"].items[0].clone()
    twin.properties["s2:processing_baseline"] = "unknown"
    items = dataclasses.replace(found["s2"], items=(twin,))
    with pytest.raises(DataTrouble, match=f"item {twin.id} cannot be scaled.*NN.NN"):
        open_composite(items, sheets(area, 10)[0].geobox, ("B04",), YEAR)


def test_items_without_a_band_are_left_out(
    found: dict[str, ItemSet], area: shapely.Geometry
) -> None:
    grid = sheets(area, 10)[0].geobox
    items = dataclasses.replace(found["s2"], items=tuple(i.clone() for i in found["s2"].items))
    del items.items[0].assets["B04"]
    rest = dataclasses.replace(items, items=items.items[1:])
    np.testing.assert_array_equal(load_cube(items, grid, ("B04",), YEAR).x,
                                  load_cube(rest, grid, ("B04",), YEAR).x)


# --- what the notebook gets


def test_dataset_is_lazy_and_described(found: dict[str, ItemSet], area: shapely.Geometry) -> None:
    sheet = sheets(area, 10)[0]
    with dask.config.set(scheduler=_forbidden):
        data = open_composite(found["s2"], sheet.geobox, ("B04", "B08"), YEAR)
        assert data["value"].dims == ("time", "band", "y", "x")
        assert data["value"].dtype == np.float32
        assert data["count"].dtype == np.uint8
    assert data["time"].values[0] == np.datetime64("2022-11-01")
    assert data["band"].values.tolist() == ["B04", "B08"]
    assert data.rio.crs.to_epsg() == sheet.epsg
    assert data["value"].odc.geobox == sheet.geobox
    assert data["value"].attrs["units"] == "1"
    assert data["value"].attrs["cell_methods"] == "time: median"
    assert data.attrs["sensor"] == "s2"
    assert data.attrs["sources"] == "sandbox/sentinel-2-l2a"
    assert data.attrs["items"] == len(found["s2"].items)
    radar = open_composite(found["s1"], sheet.geobox, ("vv",), YEAR)
    assert radar["value"].attrs["units"] == "dB"
    json.dumps(data.attrs)  # so that it can be written to netCDF or Zarr


def _forbidden(*_: object, **__: object) -> None:
    raise AssertionError("opening must not compute")


def test_scenes_are_what_composites_are_made_of(
    found: dict[str, ItemSet], area: shapely.Geometry
) -> None:
    grid = sheets(area, 10)[0].geobox
    scenes = open_scenes(found["l8"], grid, ("nir",)).compute()
    assert scenes["item"].values.tolist() == [i.id for i in found["l8"].items]
    april = scenes["value"].sel(time=slice("2023-04-01", "2023-04-30"))
    assert len(set(found["l8"].passes)) == len(found["l8"].items)  # so that a median is a median
    cube = load_cube(found["l8"], grid, ("nir",), YEAR)
    step = YEAR.step_of(when(next(i for i in found["l8"].items if when(i).month == 4)))
    assert step is not None
    np.testing.assert_allclose(cube.x[step, 0], april.median("time", skipna=True).values[0],
                               rtol=1e-6)
