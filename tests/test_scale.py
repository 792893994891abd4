"""Planning many tiles at once, and what is refused before."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pystac
import pytest
import shapely

from pipeline import cli
from pipeline.data.items import ItemSet
from pipeline.infer.coverage import Cells, coverage
from pipeline.infer.plan import plan
from pipeline.map import command
from pipeline.spec.grid import sheets
from pipeline.spec.tasks import CROPLAND
from pipeline.spec.timeline import Timeline
from tests.support.toy import sensor_card, toy_card

YEAR = Timeline(2023 * 12, 12)


def image(name: str, day: int, outline: shapely.Geometry, cloud: float) -> pystac.Item:
    return pystac.Item(name, shapely.geometry.mapping(outline), list(outline.bounds),
                       datetime(2023, 1 + day % 12, 1 + day // 12, day % 24, tzinfo=UTC),
                       {"eo:cloud_cover": cloud, "platform": f"p{day % 3}"})


def crooked(rng: np.random.Generator) -> shapely.Geometry:
    """A slanted frame of any size somewhere about the area."""
    x, y = rng.uniform(2.9, 3.5), rng.uniform(50.5, 51.0)
    size = rng.uniform(0.01, 0.16)
    frame = shapely.box(x - size / 2, y - size / 3, x + size / 2, y + size / 3)
    return shapely.affinity.rotate(frame, float(rng.uniform(0, 90)))


def test_coverage_is_that_of_every_cell_asked_about_every_image() -> None:
    rng = np.random.default_rng(3)
    items = ItemSet("s2", "c", tuple(
        image(f"i{k}", k, crooked(rng), float(rng.uniform(0, 100))) for k in range(60)))
    (sheet,) = sheets(shapely.box(3.0, 50.6, 3.3, 50.8), 10)
    cells = Cells(sheet, 128)
    counts, steps, seen = coverage(items, cells, YEAR)

    outlines = [shapely.geometry.shape(i.geometry) for i in items.items]
    clear = [1 - i.properties["eo:cloud_cover"] / 100 for i in items.items]
    month = [i.datetime.month - 1 for i in items.items]
    assert len(cells.boxes) == np.prod(cells.shape) > 200
    for k in range(0, len(cells.boxes), 7):
        box = cells.boxes[k]
        touch = [m for m, o in enumerate(outlines) if o.intersects(box)]
        share = {m: outlines[m].intersection(box).area / box.area for m in touch}
        missed, expected = np.ones(12), np.zeros(12)
        for m in touch:
            missed[month[m]] *= 1 - clear[m] * share[m]
        for one in {(month[m], items.passes[m]) for m in touch}:
            frames = [m for m in touch if (month[m], items.passes[m]) == one]
            expected[one[0]] += min(sum(clear[m] * share[m] for m in frames), 1)
        assert counts[k] == len(touch)
        assert steps[k] == pytest.approx((1 - missed).sum(), abs=1e-9)
        np.testing.assert_allclose(seen[k], expected, atol=1e-9)
    assert 0 in counts
    assert counts.max() > 3


def test_cells_of_a_tile_are_made_when_asked_for_and_shared_by_kind() -> None:
    (sheet,) = sheets(shapely.box(3.0, 50.6, 3.3, 50.8), 10)
    rng = np.random.default_rng(5)
    items = {"s2": ItemSet("s2", "c", tuple(
        image(f"i{k}", k, crooked(rng), 50.0) for k in range(12)))}
    rows = plan([sheet], 512, items, toy_card(CROPLAND, {"s2": sensor_card(CROPLAND, "s2")}),
                YEAR, ())
    pixels = np.zeros(sheet.geobox.shape, int)
    kinds = set()
    for row in rows:
        assert len(row.cells) == len(tuple(row.cells))
        assert row.cells[0] == next(iter(row.cells))
        assert row.cells[-1] == tuple(row.cells)[-1]
        assert row.cells[:2] == tuple(row.cells)[:2]
        for cell in row.cells:
            pixels[row.tile.rows, row.tile.cols][cell.rows, cell.cols] += 1
            kinds.add(id(cell.choices))
            assert row.reason_of(cell)
    assert (pixels == 1).all()
    assert len(kinds) < sum(len(row.cells) for row in rows)


def test_windows_are_compared_with_outlines_all_at_once() -> None:
    rng = np.random.default_rng(4)
    items = ItemSet("s2", "c", tuple(image(f"i{k}", k, crooked(rng), 0.0) for k in range(30)))
    windows = [tile.geobox for sheet in sheets(shapely.box(3.0, 50.6, 6.2, 50.62), 10)
               for tile in sheet.tiles(512)]
    together = items.touching_each(windows)
    assert together == [items.touching(window) for window in windows]
    assert len({len(one) for one in together}) > 1
    assert items.touching_each([]) == []


@pytest.mark.parametrize(("option", "value"), [
    ("--workers", "0"), ("--workers", "999"), ("--price", "-1"), ("--price", "nan"),
    ("--scheduler", "remote"),
])
def test_options_out_of_range_are_refused_before_anything_is_done(
    option: str, value: str, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "map"
    code = cli.run(command, ["--aoi", "4,50,4.1,50.1", "--out", str(out), option, value])
    assert code == 2
    said = capsys.readouterr().err
    assert "allowed" in said
    assert len(said.splitlines()) == 1
    assert not out.exists()
