"""A pixel's value is its own: whatever the area's shape, the tiles, the chunks, the reading
threads, the order of work, and whether the run was interrupted."""

from __future__ import annotations

import functools
import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from shapely.geometry.base import BaseGeometry

from pipeline import sandbox
from pipeline.data.load import load_cube
from pipeline.infer.predict import Predictor
from pipeline.infer.run import Reader, run_tiles
from pipeline.infer.store import RunStore
from pipeline.mapping import make_request, plan_map
from pipeline.spec.errors import BadRequest
from pipeline.spec.grid import sheets
from pipeline.spec.layers import layers_of
from pipeline.spec.tasks import CROPLAND
from tests.support.placed import save_placed

# enough for a value (three steps), few enough to read in a moment
MONTHS = ("2023-03", "2023-04", "2023-05", "2023-06")
SENSORS = ("s2,s1", "auto", "all")  # gaps filled from the next, chosen by cell, fused

Pixels = dict[tuple[str, int, int], tuple[int, ...]]  # (sheet, lattice row, column) -> layers


@dataclass(frozen=True)
class Way:
    """How an area is mapped: nothing in here may change a pixel.

    Attributes:
        tile_px: tile size.
        chunk_px: read pixels along a chunk's side.
        threads: reading threads.
        order: seed of the order of the tiles.
        stop: share of the tiles after which the run is ended and taken up again.
    """

    tile_px: int = 512
    chunk_px: int = 512
    threads: int = 1
    order: int = 0
    stop: float = 1.0


WAYS = st.builds(
    Way, tile_px=st.integers(16, 150), chunk_px=st.integers(5, 200), threads=st.integers(1, 6),
    order=st.integers(0, 9), stop=st.sampled_from([0.0, 0.4, 0.8, 1.0]),
)
UNIT = st.integers(3, 97).map(lambda k: k / 100)
POINTS = st.tuples(UNIT, UNIT)


@st.composite
def stars(draw: st.DrawFn) -> BaseGeometry:
    """A crooked polygon, often with a hole."""
    x, y = draw(POINTS)
    reach = draw(st.lists(st.sampled_from([0.05, 0.2, 0.35, 0.5]), min_size=5, max_size=8))
    angle = np.linspace(0, 2 * np.pi, len(reach), endpoint=False)
    ring = np.column_stack([x + reach * np.cos(angle), y + reach * np.sin(angle)])
    inner = (ring - (x, y)) * draw(st.sampled_from([0.3, 0.8])) + (x, y)
    return shapely.Polygon(ring, [inner] if draw(st.booleans()) else [])


@st.composite
def strips(draw: st.DrawFn) -> BaseGeometry:
    """A thin strip of one to three pixels."""
    line = shapely.LineString([draw(POINTS), draw(POINTS)])
    assume(line.length > 0.1)
    return line.buffer(draw(st.sampled_from([0.008, 0.02])), quad_segs=2)


# several parts, which may overlap; each is a feature of the AOI's file
AREAS = st.lists(st.one_of(stars(), strips()), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def thinned(region: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny region with a few dates."""
    folder = tmp_path_factory.mktemp("thinned") / "region"
    shutil.copytree(region, folder)
    for page in folder.glob("*/collection.json"):
        record = json.loads(page.read_text())
        if record["id"].startswith(("sentinel", "landsat")):
            record["links"] = [k for k in record["links"] if k["rel"] != "item" or json.loads(
                (page.parent / k["href"]).read_text())["properties"]["datetime"][:7] in MONTHS]
            page.write_text(json.dumps(record))
    return folder / "catalog.json"


class Mapper:
    """Maps areas of the tiny region with an untrained checkpoint, up to the run store."""

    def __init__(self, catalog: Path, checkpoint: Path) -> None:
        self.catalog, self.checkpoint = str(catalog), str(checkpoint)
        self.bounds = sandbox.SandboxParams.tiny().bounds
        self.known: dict[tuple[str, str], Pixels] = {}

    def whole(self, task: str, sensor: str) -> Pixels:
        """Pixels of the whole region in one tile a zone: what all others are compared with."""
        if (task, sensor) not in self.known:
            area = [shapely.box(0.0, 0.0, 1.0, 1.0)]
            self.known[task, sensor] = self(task, sensor, area, Way())
        return self.known[task, sensor]

    def __call__(self, task: str, sensor: str, parts: list[BaseGeometry], way: Way) -> Pixels:
        """Map an area given in shares of the region."""
        west, south, east, north = self.bounds
        scale = np.array([east - west, north - south])
        shapes = [shapely.transform(shapely.intersection(p, shapely.box(0, 0, 1, 1)),
                                    lambda xy: xy * scale + (west, south)) for p in parts]
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            aoi = Path(folder) / "area.geojson"
            aoi.write_text(json.dumps({"type": "FeatureCollection", "features": [
                {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(s)}
                for s in shapes]}))
            patch.setattr("pipeline.data.load._CHUNK_READ_PX", way.chunk_px)
            patch.setattr("pipeline.infer.run.load_cube",
                          functools.partial(load_cube, num_workers=way.threads))
            return self._map(task, sensor, aoi, way)

    def _map(self, task: str, sensor: str, aoi: Path, way: Way) -> Pixels:
        request = make_request(
            str(aoi), sensor, task=task, period="2023-10" if task == "cropland" else "2023-08",
            catalog=self.catalog, checkpoint=self.checkpoint, out=str(aoi.parent / "out"),
            tile_px=way.tile_px, device="cpu", speed="exact" if task == "lfmc" else "default",
        )
        made = plan_map(request)
        reader = Reader(made.items, made.card.sensors, request.timeline, request.task, made.layers)
        predictor = Predictor(request.task, made.card, made.arrays, "cpu", request.speed)
        rows = list(made.rows)
        random.Random(way.order).shuffle(rows)
        for resume, todo in ((False, rows[: int(len(rows) * way.stop)]), (True, rows)):
            store = RunStore.open(aoi.parent, {"request": "one"}, made.sheets,
                                  layers_of(request.task), way.tile_px, resume)
            records = run_tiles(todo, reader, predictor, store, lambda _: None)
            assert "failed" not in {r.status for r in records}
        return dict(pixels(made.sheets, store))


def pixels(parts: tuple, store: RunStore) -> Iterator[tuple]:
    """Every pixel of the area with the codes of all layers; nothing may stand outside of it."""
    for sheet in parts:
        codes = np.stack([store.view(sheet.name, lay.name)[:, :].astype(int)
                          for lay in store.layers], axis=-1)
        inside = sheet.inside(sheet.geobox)
        assert (codes[~inside] == [layer.nodata for layer in store.layers]).all()
        row0, col0 = sheet.lattice_origin
        for row, col in np.argwhere(inside):
            yield (sheet.name, row0 + int(row), col0 + int(col)), tuple(codes[row, col].tolist())


@pytest.fixture(scope="module")
def mapper(thinned: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapper:
    return Mapper(thinned, save_placed(tmp_path_factory.mktemp("placed"), CROPLAND))


@settings(max_examples=8, deadline=None, derandomize=True, database=None,
          phases=[Phase.generate])  # a smaller failing example would take minutes to find
@given(area=AREAS, way=WAYS, sensor=st.sampled_from(SENSORS))
def test_a_pixel_is_the_same_in_any_area_and_tiling(
    mapper: Mapper, area: list[BaseGeometry], way: Way, sensor: str
) -> None:
    whole = mapper.whole("cropland", sensor)
    try:
        part = mapper("cropland", sensor, area, way)
    except BadRequest:  # smaller than a pixel, or touching itself
        assume(False)
    assert part
    assert {at: whole[at] for at in part} == part


def test_the_comparison_is_of_something(mapper: Mapper) -> None:
    """Both zones, several values and sensors, gaps; and every pixel of the area once."""
    west, south, east, north = mapper.bounds
    made = {}
    for sensor in SENSORS:
        whole = mapper.whole("cropland", sensor)
        assert {name for name, _, _ in whole} == {"utm31n", "utm32n"}
        codes = np.array(list(whole.values()))
        names = [layer.name for layer in layers_of(CROPLAND)]
        assert len(np.unique(codes[:, names.index("confidence")])) > 5
        made[sensor] = set(codes[:, names.index("sensor")].tolist())
        expected = sum(int(s.inside(s.geobox).sum())
                       for s in sheets(shapely.box(west, south, east, north), 10))
        assert len(whole) == expected
    assert {1, 2} <= made["s2,s1"]
    assert len(made["all"]) > 1
    assert made["s2,s1"] != made["all"]


def test_coarse_pixels_are_the_same_in_any_area_and_tiling(
    region: Path, tmp_path: Path
) -> None:
    """Fuel moisture: pixels of 250 m, made of finer ones that are read in chunks."""
    mapper = Mapper(region / "catalog.json", save_placed(tmp_path))
    triangle = shapely.Polygon([(0, 0), (1, 0.1), (0.5, 1)])
    whole = mapper.whole("lfmc", "l8")
    assert len(set(whole.values())) > 2
    for chunk_px, threads in ((60, 3), (200, 1)):
        part = mapper("lfmc", "l8", [triangle], Way(16, chunk_px, threads))
        assert part
        assert {at: whole[at] for at in part} == part
