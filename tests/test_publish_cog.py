"""COGs: pixels, legend and grid survive; overviews are honest; nothing half-written is seen."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
import zarr
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from rio_cogeo.cogeo import cog_validate

import pipeline.publish.cog as cog_module
from pipeline.publish.cog import checksum, verify_cog, write_cog
from pipeline.spec.errors import BadRequest, DataTrouble
from pipeline.spec.layers import layers_of
from pipeline.spec.tasks import CROPLAND, LFMC

CLASSES, PERCENT, SENSOR, COUNT, QUALITY = layers_of(CROPLAND)
VALUES = layers_of(LFMC)[0]
TAGS = {"PERIOD": "2023-01:2023-12", "CARD_SHA256": "ab" * 32, "NAME": "Köln, 北京 = 1"}


def grid(shape: tuple[int, int], pixel: float = 10) -> GeoBox:
    return GeoBox(shape, Affine(pixel, 0, 600_000, 0, -pixel, 5_600_000), 32631)


def random_codes(layer, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    codes = [c.code for c in layer.classes] or range(0, layer.nodata)
    data = rng.choice(np.array([*codes]), shape).astype(layer.dtype)
    data[rng.random(shape) < 0.2] = layer.nodata
    return data


def write(path: Path, layer, shape: tuple[int, int] = (600, 600)) -> None:
    write_cog(path, random_codes(layer, shape), grid(shape), layer, {})


def inside(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*"))


def misjudged(shape: tuple[int, int]) -> bool:
    """rio-cogeo guesses from widths alone: a level one block wide but taller counts as untiled, and
    one pixel wide as an overview by 1. GDAL's own validator accepts these files."""
    height, width = shape
    while height > 512:
        if width in (1, 512):
            return True
        height, width = -(-height // 2), -(-width // 2)
    return False


sides = st.one_of(st.sampled_from([1, 2, 511, 512, 513, 1024, 1025]), st.integers(1, 1100))


@settings(max_examples=40, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=st.tuples(sides, sides),
       layer=st.sampled_from([CLASSES, VALUES, SENSOR, COUNT, QUALITY]),
       seed=st.integers(0, 999))
def test_what_is_written_is_read(tmp_path: Path, shape, layer, seed: int) -> None:
    data, path, box = random_codes(layer, shape, seed), tmp_path / "map.tif", grid(shape)
    write_cog(path, data, box, layer, TAGS)
    with rasterio.open(path) as found:
        np.testing.assert_array_equal(found.read(1), data)
        assert found.transform == box.affine
        assert found.crs.to_epsg() == 32631
        assert (found.nodata, found.dtypes) == (layer.nodata, (layer.dtype,))
        assert found.block_shapes == [(512, 512)]
        assert {k: found.tags()[k] for k in TAGS} == TAGS
        assert found.profile["compress"] in ("zstd", "deflate")
        assert found.descriptions == (layer.name,)
    if not misjudged(shape):
        valid, errors, _ = cog_validate(path, strict=True, quiet=True)
        assert valid, errors
    assert inside(tmp_path) == ["map.tif"]  # no side file, no temporary one


def test_class_legend_survives(tmp_path: Path) -> None:
    for layer in (CLASSES, SENSOR):
        write(tmp_path / "map.tif", layer)
        with rasterio.open(tmp_path / "map.tif") as found:
            table, names = found.colormap(1), found.tags(1)
            assert found.colorinterp == (rasterio.enums.ColorInterp.palette,)
        for c in layer.classes:
            assert table[c.code] == (*c.colour, 255)
            assert names[f"CLASS_{c.code}"] == c.name
        assert table[layer.nodata][3] == 0


def test_value_encoding_survives(tmp_path: Path) -> None:
    write(tmp_path / "map.tif", VALUES)
    with rasterio.open(tmp_path / "map.tif") as found:
        assert (found.scales, found.offsets, found.units) == ((0.1,), (0.0,), ("%",))


@pytest.mark.skipif(shutil.which("gdalinfo") is None, reason="gdalinfo is not installed")
def test_gdalinfo_reads_the_legend(tmp_path: Path) -> None:
    def info(layer) -> str:
        write(tmp_path / "map.tif", layer)
        done = subprocess.run(["gdalinfo", tmp_path / "map.tif"], capture_output=True, text=True,
                              check=True)
        return done.stdout

    classes, values = info(CLASSES), info(VALUES)
    assert "LAYOUT=COG" in classes
    assert "0: 214,206,190,255" in classes
    assert "1: 206,142,28,255" in classes
    assert "Scale:0.1" in values
    assert "Unit Type: %" in values


def overviews(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    with rasterio.open(path) as top:
        factors = top.overviews(1)
    assert factors
    for level, factor in enumerate(factors):
        with rasterio.open(path, overview_level=level) as found:
            yield factor, found.read(1)


def blocks(data: np.ndarray, factor: int) -> np.ndarray:
    h, w = data.shape
    cut = data.reshape(h // factor, factor, w // factor, factor)
    return cut.transpose(0, 2, 1, 3).reshape(h // factor, w // factor, -1)


def test_class_overviews_take_the_mode_and_never_invent_a_code(tmp_path: Path) -> None:
    data = random_codes(SENSOR, (1024, 2048))
    data[~np.isin(data, (0, 2, SENSOR.nodata))] = 3  # codes 0, 2, 3: an average would be a 1
    data[:256, :256] = SENSOR.nodata
    data[0, 0] = 2  # a single pixel wins over its nodata neighbours
    write_cog(tmp_path / "sensor.tif", data, grid(data.shape), SENSOR, {})
    (factor, first), *rest = overviews(tmp_path / "sensor.tif")
    assert factor == 2
    assert first[0, 0] == 2
    assert (first[1:128, 1:128] == SENSOR.nodata).all()
    cells = blocks(data, 2)
    votes = np.stack([(cells == code).sum(-1) for code in (0, 2, 3)])
    won = np.stack([first == code for code in (0, 2, 3)])
    assert (votes[won] == np.broadcast_to(votes.max(0), votes.shape)[won]).all()
    np.testing.assert_array_equal(first == SENSOR.nodata, votes.max(0) == 0)
    for _, level in rest:
        assert set(np.unique(level)) <= {0, 2, 3, SENSOR.nodata}


def test_value_overviews_average_what_is_there(tmp_path: Path) -> None:
    data = random_codes(VALUES, (1024, 1024))
    data[:256, :256] = VALUES.nodata
    write_cog(tmp_path / "map.tif", data, grid(data.shape), VALUES, {})
    factor, first = next(overviews(tmp_path / "map.tif"))
    fine = np.where(data == VALUES.nodata, np.nan, data)
    cells = blocks(fine, factor)
    empty = np.isnan(cells).all(-1)
    assert empty[:128, :128].all()
    np.testing.assert_array_equal(first == VALUES.nodata, empty)
    np.testing.assert_allclose(first[~empty], np.nanmean(cells[~empty], -1), atol=0.5001)


def test_a_sheet_without_any_value(tmp_path: Path) -> None:
    for layer in (CLASSES, VALUES):
        data = np.full((600, 600), layer.nodata, layer.dtype)
        write_cog(tmp_path / "map.tif", data, grid(data.shape), layer, {})
        for _, level in overviews(tmp_path / "map.tif"):
            assert (level == layer.nodata).all()


class Windows:
    """Array-like that remembers the largest window it was asked for."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.shape, self.dtype, self.largest = data, data.shape, data.dtype, 0

    def __getitem__(self, window) -> np.ndarray:
        part = self.data[window]
        self.largest = max(self.largest, part.size)
        return part


def test_reads_windows_only_and_takes_zarr(tmp_path: Path) -> None:
    data = random_codes(CLASSES, (2500, 4200))
    view = Windows(data)
    write_cog(tmp_path / "a.tif", view, grid(data.shape), CLASSES, {})
    assert view.largest == 2048 * 2048
    stored = zarr.create_array(tmp_path / "store.zarr", shape=data.shape, chunks=(1000, 1000),
                               dtype=data.dtype)
    stored[:] = data
    write_cog(tmp_path / "b.tif", stored, grid(data.shape), CLASSES, {})
    for name in ("a.tif", "b.tif"):
        with rasterio.open(tmp_path / name) as found:
            np.testing.assert_array_equal(found.read(1), data)


@pytest.mark.parametrize(
    "data",
    [np.zeros((3, 4), np.uint8), np.zeros((4, 3), np.uint16)],
    ids=["another shape", "another dtype"],
)
def test_data_of_another_shape_or_dtype_is_refused(tmp_path: Path, data: np.ndarray) -> None:
    with pytest.raises(ValueError, match="wanted uint8"):
        write_cog(tmp_path / "map.tif", data, grid((4, 3)), CLASSES, {})
    assert not inside(tmp_path)


def test_a_code_that_is_no_class_is_refused(tmp_path: Path) -> None:
    data = random_codes(CLASSES, (600, 600))
    data[599, 3] = 7
    with pytest.raises(DataTrouble, match=r"map\.tif.*got 7.*0 other, 1 cropland"):
        write_cog(tmp_path / "map.tif", data, grid(data.shape), CLASSES, {})
    assert not inside(tmp_path)


class Breaks(Windows):
    """Array-like whose second window cannot be read."""

    def __getitem__(self, window) -> np.ndarray:
        if window[1].start:
            raise KeyboardInterrupt
        return super().__getitem__(window)


@pytest.mark.parametrize("old", [None, b"the map before"])
def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "map.tif"
    if old is not None:
        path.write_bytes(old)
    data = Breaks(np.zeros((10, 3000), np.uint8))
    with pytest.raises(KeyboardInterrupt):
        write_cog(path, data, grid(data.shape), CLASSES, {})
    assert inside(tmp_path) == ([] if old is None else ["map.tif"])
    assert old is None or path.read_bytes() == old


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(BadRequest, match=r"cannot write .*out.*--out"):
        write(tmp_path / "out" / "map.tif", CLASSES)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size`` bytes: what a full disk looks like."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk(tmp_path: Path) -> None:
    """Whatever step the disk fills up in, the old map stays and the error says so."""
    path, data = tmp_path / "map.tif", random_codes(VALUES, (1100, 1100))
    write_cog(path, data, grid(data.shape), VALUES, {})
    before, size = path.read_bytes(), path.stat().st_size
    data[0, 0] = 5
    for share in (0.02, 0.5, 0.75, 0.9, 0.99):
        with file_size_limit(int(size * share)), pytest.raises(
            DataTrouble, match=r"map\.tif.*MB are free"
        ):
            write_cog(path, data, grid(data.shape), VALUES, {})
        assert path.read_bytes() == before
        assert inside(tmp_path) == ["map.tif"]


def test_a_copy_that_lost_pixels_is_never_shown(tmp_path: Path, monkeypatch) -> None:
    data, path = random_codes(CLASSES, (600, 600)), tmp_path / "map.tif"
    copy = cog_module.rasterio.shutil.copy

    def lossy(source, target, **options) -> None:
        with rasterio.open(source, "r+") as plain:
            changed = plain.read(1)
            changed[300, 300] ^= 1
            plain.write(changed, 1)
        copy(source, target, **options)

    data[300, 300] = 0
    monkeypatch.setattr(cog_module.rasterio.shutil, "copy", lossy)
    with pytest.raises(DataTrouble, match=r"could not write .*map\.tif; got 'other pixels'"):
        write_cog(path, data, grid(data.shape), CLASSES, {})
    assert not inside(tmp_path)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, np.ndarray, GeoBox]:
    data = random_codes(CLASSES, (600, 700))
    box = grid(data.shape)
    write_cog(tmp_path / "map.tif", data, box, CLASSES, TAGS)
    return tmp_path / "map.tif", data, box


def test_verify_accepts_what_was_written(written) -> None:
    path, data, box = written
    verify_cog(path, box, CLASSES, TAGS)
    verify_cog(path, box, CLASSES, TAGS, checksum(data))


def test_verify_names_the_difference(written) -> None:
    path, data, box = written
    for what, arguments in {
        r"shape \(600, 700\), not \(601, 700\)": (grid((601, 700)), CLASSES, TAGS),
        "transform": (grid((600, 700), 20), CLASSES, TAGS),
        "CRS 32631, not 32632": (GeoBox(box.shape, box.affine, 32632), CLASSES, TAGS),
        "description": (box, SENSOR, TAGS),
        "tags": (box, CLASSES, {**TAGS, "PERIOD": "2022-01:2022-12"}),
    }.items():
        with pytest.raises(DataTrouble, match=rf"map\.tif is not the map .*; got .{what}"):
            verify_cog(path, *arguments)
    other = data.copy()
    other[5, 5] ^= 1
    with pytest.raises(DataTrouble, match="other pixels"):
        verify_cog(path, box, CLASSES, TAGS, checksum(other))


def test_verify_refuses_a_plain_geotiff_and_a_cut_file(written, tmp_path: Path) -> None:
    path, _, box = written
    with rasterio.open(path) as source:
        profile = {**source.profile, "driver": "GTiff"}
        with rasterio.open(tmp_path / "plain.tif", "w", **profile) as out:
            out.write(source.read())
    with pytest.raises(DataTrouble, match=r"plain\.tif .*layout None, not COG"):
        verify_cog(tmp_path / "plain.tif", box, CLASSES, {})
    os.truncate(path, path.stat().st_size * 2 // 3)
    with pytest.raises(DataTrouble, match=r"map\.tif is not the map"):
        verify_cog(path, box, CLASSES, TAGS)
    with pytest.raises(DataTrouble, match=r"none\.tif .*No such file"):
        verify_cog(tmp_path / "none.tif", box, CLASSES, TAGS)
