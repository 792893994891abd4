"""Previews: every pixel a real one, zones side by side, no data told from outside."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from matplotlib.image import imread
from pyproj import Transformer

from pipeline.publish.cog import write_cog
from pipeline.publish.mosaic import mosaic, picture_of
from pipeline.publish.preview import SheetPreview, _limits, write_preview
from pipeline.spec.errors import BadRequest
from pipeline.spec.grid import Sheet, sheets
from pipeline.spec.layers import layers_of
from pipeline.spec.tasks import CROPLAND, LFMC, MapClass, Task

ACROSS = shapely.box(5.98, 50.01, 6.02, 50.03)  # UTM zones 31 and 32
ONE_ZONE = shapely.box(5.90, 50.01, 5.93, 50.03)


def centres(crs: object, grid: Affine, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """[Y, X] longitude and latitude of the pixel centres."""
    cols, rows = np.meshgrid(*(np.arange(n) + 0.5 for n in shape[::-1]))
    to_lonlat = Transformer.from_crs(crs, 4326, always_xy=True)
    return to_lonlat.transform(grid.c + grid.a * cols, grid.f + grid.e * rows)


def write_sheet(folder: Path, sheet: Sheet, task: Task, *, hole: bool) -> SheetPreview:
    """Fields of 150 m by longitude and latitude, alike in both zones; a hole without data."""
    lon, lat = centres(sheet.epsg, sheet.geobox.affine, sheet.geobox.shape)
    field = (np.floor(lon * 500) + np.floor(lat * 700)).astype(int) % 2
    inside = sheet.inside(sheet.geobox)
    sensor = np.where(lon < 6, 2, 1)
    if hole:
        sensor[(np.abs(lon - lon.mean()) < 0.003) & (np.abs(lat - 50.02) < 0.003)] = 0
    sensor[~inside] = 255
    missing = (sensor == 0) | (sensor == 255)
    values = field if task.classes else 500 + 900 * field
    quality = np.where(lat < 50.02, 4, 1)  # the south lies outside the training domain
    quality[missing] = sensor[missing]
    arrays = {"map": values, "confidence": 60 + 30 * field, "sensor": sensor, "quality": quality}
    for layer in layers_of(task):
        if layer.name not in arrays:
            continue
        codes = arrays[layer.name].astype(layer.dtype)
        if layer.name not in ("sensor", "quality"):
            codes[missing] = layer.nodata
        write_cog(folder / sheet.name / f"{layer.name}.tif", codes, sheet.geobox, layer, {})
    return SheetPreview(folder / sheet.name)


def made(folder: Path, task: Task, area: shapely.Polygon, hole: bool = True) -> list[SheetPreview]:
    return [write_sheet(folder, s, task, hole=hole) for s in sheets(area, task.pixel_m)]


def test_one_zone_shows_the_pixels_as_they_are(tmp_path: Path) -> None:
    (sheet,) = made(tmp_path, CROPLAND, ONE_ZONE)
    path = sheet.folder / "map.tif"
    picture = picture_of([path], 1000)
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(mosaic([path], layers_of(CROPLAND)[0], picture),
                                      source.read(1))
        assert picture.transform == source.transform
    assert picture.extent == (0, 10 * picture.shape[1], 0, 10 * picture.shape[0])


def test_two_zones_lie_side_by_side_without_a_seam(tmp_path: Path) -> None:
    found = made(tmp_path, CROPLAND, ACROSS, hole=False)
    assert len(found) == 2
    paths = [s.folder / "map.tif" for s in found]
    layer = layers_of(CROPLAND)[0]
    picture = picture_of(paths, 1000)
    codes = mosaic(paths, layer, picture)
    # the truth at each picture pixel, from its longitude and latitude alone
    lon, lat = centres(picture.crs, picture.transform, picture.shape)
    margin = 0.0004
    inside = (lon > 5.98 + margin) & (lon < 6.02 - margin)
    inside &= (lat > 50.01 + margin) & (lat < 50.03 - margin)
    assert not (codes[inside] == layer.nodata).any()
    truth = (np.floor(lon * 500) + np.floor(lat * 700)).astype(int) % 2
    near_edge = np.zeros(codes.shape, bool)  # a nearest pixel may fall on the field next door
    for step, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        near_edge |= np.roll(truth, step, axis) != truth
    clear = inside & ~near_edge
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(codes[clear], truth[clear])
    outside = (lon < 5.98 - margin) | (lon > 6.02 + margin) | (lat > 50.03 + margin)
    assert (codes[outside] == layer.nodata).all()


def test_zones_across_the_antimeridian_are_neighbours(tmp_path: Path) -> None:
    area = shapely.MultiPolygon([shapely.box(179.98, -17.02, 180, -17),
                                 shapely.box(-180, -17.02, -179.98, -17)])
    found = made(tmp_path, CROPLAND, area, hole=False)
    picture = picture_of([s.folder / "map.tif" for s in found], 1000)
    assert picture.extent[1] == pytest.approx(4260, abs=150)  # 0.04 degrees at 17 S
    assert picture.extent[3] == pytest.approx(2214, abs=150)


def test_a_large_sheet_is_read_decimated(tmp_path: Path) -> None:
    (sheet,) = made(tmp_path, CROPLAND, shapely.box(5.5, 50.0, 5.66, 50.1))
    path = sheet.folder / "map.tif"
    picture = picture_of([path], 300)
    codes = mosaic([path], layers_of(CROPLAND)[0], picture)
    assert max(codes.shape) == 300
    with rasterio.open(path) as source:
        full = source.read(1)
        assert picture.pixel_m * 300 == pytest.approx(10 * max(source.shape), rel=0.01)
    assert set(np.unique(codes)) == {0, 1, 255}
    assert (codes == 1).mean() == pytest.approx((full == 1).mean(), abs=0.02)


def pixels(path: Path) -> np.ndarray:
    return (imread(path)[..., :3] * 255).round().astype(int)


def share(image: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((np.abs(image - colour).max(-1) <= 1).mean())


def test_the_picture_has_the_colours_of_the_legend(tmp_path: Path) -> None:
    found = made(tmp_path, CROPLAND, ACROSS)
    write_preview(tmp_path / "p.png", found, CROPLAND, "Cropland", "2023 · s1, s2")
    image = pixels(tmp_path / "p.png")
    assert 1000 < image.shape[1] < 2500
    other, cropland = (share(image, c.colour) for c in CROPLAND.classes)
    assert other > 0.1
    assert other == pytest.approx(cropland, rel=0.25)
    for c in layers_of(CROPLAND)[2].classes:
        seen = share(image, c.colour)
        assert (seen > 0.012) == (c.name in ("s1", "s2")), c.name
    for c in layers_of(CROPLAND)[4].classes:
        seen = share(image, c.colour)
        assert (seen > 0.01) == (c.code in (1, 4)), c.name
    hatched = share(image, (230, 230, 230))
    write_preview(tmp_path / "q.png", made(tmp_path / "full", CROPLAND, ACROSS, hole=False),
                  CROPLAND, "Cropland", "2023 · s1, s2")
    assert hatched > 0.004 > share(pixels(tmp_path / "q.png"), (230, 230, 230))


def test_the_picture_of_a_value_is_neither_blank_nor_smoothed(tmp_path: Path) -> None:
    found = made(tmp_path, LFMC, shapely.box(5.5, 50.0, 5.6, 50.2))
    write_preview(tmp_path / "p.png", found, LFMC, "Fuel moisture", "2023")
    image = pixels(tmp_path / "p.png")
    # two values only: the ends of the colour scale, with nothing in between but the colour bar
    dry, moist = share(image, (165, 0, 38)), share(image, (49, 54, 149))
    assert dry > 0.08
    assert moist > 0.08
    assert share(image, (255, 254, 190)) < 0.01


def test_a_map_without_any_value_and_a_tiny_one(tmp_path: Path) -> None:
    layers = {layer.name: layer for layer in layers_of(LFMC)}
    (sheet,) = sheets(shapely.box(5.5, 50.0, 5.501, 50.001), LFMC.pixel_m)
    for name, code in {"map": 65535, "confidence": 65535, "sensor": 0, "quality": 0}.items():
        data = np.full(sheet.geobox.shape, code, layers[name].dtype)
        write_cog(tmp_path / f"{name}.tif", data, sheet.geobox, layers[name], {})
    write_preview(tmp_path / "p.png", [SheetPreview(tmp_path)], LFMC, "Empty", "")
    assert share(pixels(tmp_path / "p.png"), (230, 230, 230)) > 0.1


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (np.linspace(0, 100, 101), 2, 98),
        (np.array([100.0, 100.1, 100.2]), 95.095, 105.105),  # flat: a tenth of the middle value
        (np.full(5, 60.0), 57, 63),
        (np.zeros(5), -0.5, 0.5),
        (np.zeros(0), 0, 1),
    ],
)
def test_limits_of_the_colour_scale(values: np.ndarray, low: float, high: float) -> None:
    limits = _limits(values)
    assert (limits.vmin, limits.vmax) == pytest.approx((low, high))


def test_titles_are_taken_as_they_are(tmp_path: Path) -> None:
    """Dollar signs are no formula, and a script without glyphs is no warning."""
    found = made(tmp_path, CROPLAND, shapely.box(5.5, 50.0, 5.503, 50.003))
    write_preview(tmp_path / "p.png", found, CROPLAND, r"a_$\frac{$ 北京", "50 $ and 100 $")
    assert pixels(tmp_path / "p.png").size


def test_many_classes_and_a_wide_area(tmp_path: Path) -> None:
    classes = (*CROPLAND.classes, *(MapClass(k, f"crop {k}", (k, 9 * k, 200)) for k in range(2, 9)))
    task = dataclasses.replace(CROPLAND, classes=classes)
    found = made(tmp_path, task, shapely.box(5.5, 50.0, 5.54, 50.005))
    write_preview(tmp_path / "p.png", found, task, "Crops", "2023")
    height, width, _ = pixels(tmp_path / "p.png").shape
    assert width > height
    assert share(pixels(tmp_path / "p.png"), (8, 72, 200)) > 0  # the last class has its entry


def test_a_preview_that_cannot_be_written(tmp_path: Path) -> None:
    found = made(tmp_path, CROPLAND, shapely.box(5.5, 50.0, 5.503, 50.003))
    (tmp_path / "out").write_text("a file")
    with pytest.raises(BadRequest, match=r"cannot write .*out"):
        write_preview(tmp_path / "out" / "p.png", found, CROPLAND, "t", "s")
