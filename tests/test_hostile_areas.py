"""Areas that are made to do harm: files that are programs, outlines that never end to be mended."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from shapely.geometry import mapping

from pipeline.data.aoi import read_aoi
from pipeline.data.extract import read_points
from pipeline.data.outline import mended
from pipeline.spec.errors import BadRequest
from pipeline.spec.tasks import task

SQUARE = shapely.box(5, 50, 5.1, 50.1)
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"


def geopackage(path: Path, *statements: str) -> str:
    """A GeoPackage of one square, changed by SQL."""
    gpd.GeoDataFrame({"n": [1]}, geometry=[SQUARE], crs=4326).to_file(path, layer="area")
    with sqlite3.connect(path) as database:
        for name in ("IsEmpty", "MinX", "MaxX", "MinY", "MaxY"):  # its triggers call them
            database.create_function(f"ST_{name}", 1, lambda _: 0)
        for statement in statements:
            database.execute(statement)
    database.close()
    return str(path)


# --- files


@pytest.mark.parametrize("view", [
    f"{ENDLESS} SELECT r.fid, geom, n FROM rows r, c",
    f"{ENDLESS} SELECT fid, geom, (SELECT count(*) FROM c) AS n FROM rows",
    "SELECT fid, geom, load_extension('/tmp/x') AS n FROM rows",
    "SELECT fid, geom, gdal_get_pixel_value('/vsicurl/http://127.0.0.1:9/a', 1, 'pixel', 0, 0) n "
    "FROM rows",
])
def test_a_geopackage_is_tables_and_no_program(tmp_path: Path, view: str) -> None:
    """Read as a layer, the second of these takes for ever, and the last one asks a server."""
    path = geopackage(tmp_path / "a.gpkg", "ALTER TABLE area RENAME TO rows",
                      f"CREATE VIEW area AS {view}")
    with pytest.raises(BadRequest, match="a view in a table's place"):
        read_aoi(path)
    with pytest.raises(BadRequest, match="a view in a table's place"):
        read_points(path, "n", task("cropland"), "2023-10")


def test_triggers_do_not_matter_to_a_reader(tmp_path: Path) -> None:
    path = geopackage(tmp_path / "a.gpkg", "CREATE TRIGGER t AFTER INSERT ON area BEGIN "
                                           "SELECT load_extension('/tmp/x'); END")
    before = Path(path).read_bytes()
    assert read_aoi(path).geometry.equals(SQUARE)
    assert Path(path).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.gpkg"]


@pytest.mark.parametrize("source", ["{here}/other.geojson", "/vsicurl/http://127.0.0.1:9/x.json"])
@pytest.mark.parametrize("name", ["a.gpkg", "a.vrt", "a.xml"])
def test_a_virtual_file_reads_no_other_one(tmp_path: Path, source: str, name: str) -> None:
    (tmp_path / "other.geojson").write_text(json.dumps(mapping(SQUARE)))
    path = tmp_path / name
    path.write_text("<OGRVRTDataSource><OGRVRTLayer name='other'><SrcDataSource>"
                    f"{source.format(here=tmp_path)}</SrcDataSource></OGRVRTLayer>"
                    "</OGRVRTDataSource>")
    with pytest.raises(BadRequest, match=r"cannot be read.*GeoJSON or GeoPackage"):
        read_aoi(str(path))


def test_damaged_geopackages_are_said_to_be(tmp_path: Path) -> None:
    path = Path(geopackage(tmp_path / "a.gpkg"))
    whole = path.read_bytes()
    for size in (16, 100, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(BadRequest, match="cannot be read"):
            read_aoi(str(path))
    path.write_bytes(whole)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE gpkg_contents SET srs_id = -1")
        database.execute("UPDATE gpkg_geometry_columns SET srs_id = -1")
    database.close()
    with pytest.raises(BadRequest, match=r"cannot be brought to degrees|declares no CRS"):
        read_aoi(str(path))


@pytest.mark.parametrize("text", [
    "x" * 5000, json.dumps(mapping(SQUARE)) * 20, "a\0b.geojson", "a/" * 3000 + "b.gpkg",
])
def test_a_text_that_no_file_can_be_named_by(text: str) -> None:
    with pytest.raises(BadRequest, match="no such AOI file") as error:
        read_aoi(text)
    assert len(str(error.value)) < 1000


# --- numbers and words


def polygon(number: str) -> str:
    return f'{{"type": "Polygon", "coordinates": [[[{number}, 50], [5.1, 50], [5.1, 51]]]}}'


@pytest.mark.parametrize(("text", "says"), [
    (polygon("9" * 400), "malformed"),
    (polygon("9" * 5000), "not readable JSON"),
    (polygon("1e999"), "malformed|not degrees"),
    (polygon("[" * 100_000), "not readable JSON"),
    (json.dumps({"type": "Feature", "properties": {"catalog": "\ud800"},
                 "geometry": mapping(SQUARE)}), "catalog is not text of one line"),
    (json.dumps({"type": "Feature", "properties": {"checkpoint": "a\nb"},
                 "geometry": mapping(SQUARE)}), "checkpoint is not text of one line"),
    *((json.dumps(mapping(SQUARE) | {"crs": {"properties": {"name": crs}}}), says)
      for crs, says in (("EPSG:5773", "EGM96 height does not say where"),
                        ("EPSG:4978", "does not say where"),
                        ('LOCAL_CS["here",UNIT["m",1]]', "cannot be brought to degrees"),
                        ("+proj=pipeline +step +proj=hgridshift +grids=/etc/passwd",
                         "crs member"))),
])
def test_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(BadRequest, match=says):
        read_aoi(str(path))


# --- outlines


def scribble(vertices: int) -> shapely.Polygon:
    return shapely.Polygon(np.random.default_rng(0).random((vertices, 2)) * 0.1 + (5, 50))


@pytest.mark.parametrize("vertices", [3000, 100_000])
def test_what_crosses_itself_everywhere_is_not_looked_into(vertices: int) -> None:
    """A repair would take hours, and all of the memory: its crossings are in the millions."""
    with pytest.raises(BadRequest, match="crosses itself everywhere"):
        mended(scribble(vertices), "a.geojson")
    with pytest.raises(BadRequest, match=r"crosses itself \("):
        mended(scribble(6), "a.geojson")


def test_long_outlines_and_those_that_touch_themselves_are_taken() -> None:
    angle = np.linspace(0, 2 * np.pi, 200_000, endpoint=False)
    radius = 0.02 * (1 + 0.3 * np.sin(500 * angle))
    star = shapely.Polygon(np.column_stack([5 + radius * np.cos(angle), 50 + radius *
                                            np.sin(angle)]))
    assert mended(star, "a.geojson").equals(star)
    # pixels as a program traces them: the outline comes back to every corner of a checkerboard
    cells = [shapely.box(x, y, x + 1, y + 1) for x in range(40) for y in range(40) if (x + y) % 2]
    shell = shapely.Polygon([(-1, -1), (41, -1), (41, 41), (-1, 41)],
                            [cell.exterior.coords for cell in cells])
    got = mended(shell, "a.geojson")
    assert got.area == pytest.approx(42 * 42 - len(cells))
