"""What was found by trying to break it: tables that unpack to far more than they say, addresses
that lead inside by another name, archives that mix, areas that share a pixel and not its images."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import pytest
import shapely
from rasterio.features import geometry_mask

from pipeline import cli, making, mapping
from pipeline.data import catalogs, signing, web
from pipeline.data.api import outlines
from pipeline.data.catalogs import from_parquet
from pipeline.data.extract import LabelPoints
from pipeline.data.items import ItemSet
from pipeline.data.load import open_composite
from pipeline.data.search import search
from pipeline.data.stacks import Loader
from pipeline.infer.levels import level_shift
from pipeline.inputs import of_one_radiometry
from pipeline.map import command
from pipeline.notebook import _inside, open_cube
from pipeline.spec.errors import BadRequest, DataTrouble, NothingFound
from pipeline.spec.grid import sheets, window
from pipeline.spec.timeline import parse_period
from tests.support.toy import sensor_card

YEAR = parse_period("2023-10", 12)
COLLECTION = ("sentinel-1-rtc",)


# ---------------------------------------------------------------- tables of items


def table(path: Path, column: pa.Array, *, schema: bool) -> Path:
    """A file of items with one more column."""
    rows = pa.table({"collection": pa.array(COLLECTION * len(column)), "more": column})
    pq.write_table(rows, path, store_schema=schema)
    return path


@pytest.mark.parametrize("schema", [True, False], ids=["as categories", "as text"])
def test_a_value_stored_once_and_repeated_in_every_row_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schema: bool
) -> None:
    """120 KB that unpacked to 15 GB: what the footer states is the size of the packed column."""
    monkeypatch.setattr(catalogs, "MAX_ITEM", 1 << 12)
    column = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(500, np.int32)), pa.array(["x" * (1 << 13)]))
    path = table(tmp_path / "t.parquet", column, schema=schema)
    assert path.stat().st_size < 1 << 14
    with pytest.raises(DataTrouble, match="unpack to more than items have"):
        from_parquet(path, COLLECTION)


def test_categories_inside_a_column_are_refused(tmp_path: Path) -> None:
    words = pa.array(["a"]).dictionary_encode()
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"collection": pa.array(COLLECTION),
                             "more": pa.StructArray.from_arrays([words], ["inner"])}), path)
    with pytest.raises(DataTrouble, match="a dictionary inside a column"):
        from_parquet(path, COLLECTION)


def test_a_table_moves_with_its_folder(region: Path, region_aoi: str, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(region, moved)
    west, south, east, north = map(float, region_aoi.split(","))
    found = search(str(moved / "items.parquet"), "s1", shapely.box(west, south, east, north), YEAR)
    hrefs = [asset.href for item in found.items for asset in item.assets.values()]
    assert hrefs
    assert all(Path(h).is_relative_to(moved) and Path(h).is_file() for h in hrefs)


# ---------------------------------------------------------------- addresses and tokens


@pytest.mark.parametrize("address", [
    "64:ff9b::a9fe:a9fe",  # translated by a gateway: 169.254.169.254
    "64:ff9b::7f00:1", "2002:7f00:1::", "::7f00:1", "::ffff:10.0.0.1",
    "168.63.129.16", "192.0.0.192",  # public numbers, the host inside a cloud
    "224.0.0.1", "100.64.0.1", "fe80::1%eth0", "0.0.0.0",
])
def test_an_address_by_another_name_is_still_private(address: str) -> None:
    assert web.is_private(address)
    assert not web.is_private("64:ff9b::808:808")  # 8.8.8.8, translated


def test_a_refused_token_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage may refuse a token before its stated end; asking again must bring another one."""
    tokens = signing.Tokens("https://mint.example", "")
    ends = datetime(2999, 1, 1, tzinfo=UTC)
    given = iter("abc")
    monkeypatch.setattr(tokens, "_ask", lambda place: (f"sig={next(given)}", ends))
    monkeypatch.setattr(signing, "_planetary_computer", lambda: tokens)
    href = "https://acc.blob.core.windows.net/box/a.tif"
    first = signing.signed(href, "planetary-computer")
    assert signing.signed(href, "planetary-computer") == first == f"{href}?sig=a"
    assert signing.renewed(href, "planetary-computer", first) == f"{href}?sig=b"
    assert signing.renewed(href, "", href) == href  # nothing was signed: nothing to renew


@pytest.mark.parametrize("loader", ["odc", "stackstac"])
def test_what_a_dashboard_shows_of_a_task_has_no_token(
    region: Path, region_aoi: str, loader: Loader
) -> None:
    """Workers log the arguments of a task that fails, and the dashboard shows their logs."""
    west, south, east, north = map(float, region_aoi.split(","))
    area = shapely.box(west, south, east, north)
    found = search(str(region / "catalog.json"), "s1", area, YEAR)
    one = found.items[0].clone()
    for asset in one.assets.values():
        asset.href = "https://user:s3cr3t@example.org/x.tif?token=s3cr3t"
    items = dataclasses.replace(found, items=(one,))
    lazy = open_composite(items, sheets(area, 10)[0].geobox, ("vv",), YEAR, loader=loader)
    graph = dict(lazy["value"].data.__dask_graph__())
    assert len(graph) > 1
    assert not [key for key, task in graph.items() if "s3cr3t" in f"{key!r} {task!r}"]
    assert "s3cr3t" not in repr(items.file(0, "vv"))


# ---------------------------------------------------------------- radiometry


def radar(name: str, collection: str) -> pystac.Item:
    item = pystac.Item(name, shapely.geometry.mapping(shapely.box(4, 50, 6, 52)), [4, 50, 6, 52],
                       datetime(2023, 5, 1, tzinfo=UTC), {"platform": "sentinel-1a"},
                       collection=collection)
    for band in ("vv", "vh"):
        item.add_asset(band, pystac.Asset(f"https://example.org/{name}-{band}.tif"))
    return item


def test_archives_of_two_radiometries_do_not_meet_in_one_series() -> None:
    """Both are accepted by themselves; mixed, the months of a pixel would step by a decibel."""
    mixed = ItemSet("s1", "c", (
        radar("a", "sentinel-1-grd-sigma0"), radar("b", "sentinel-1-rtc"),
        radar("c", "sentinel-1-grd-sigma0"), radar("d", "sentinel-1-monthly")), (("z", "cloudy"),))
    for accepts, kept in ((("gamma0-rtc", "sigma0"), ["b"]), (("sigma0", "gamma0-rtc"),
                                                            ["a", "c", "d"])):
        chosen = of_one_radiometry(mixed, accepts)
        assert [i.id for i in chosen.items] == kept
        assert {s.radiometry for s in chosen.sources} == {accepts[0]}
        reasons = dict(chosen.skipped)
        assert reasons.pop("z") == "cloudy"
        assert set(reasons) == {i.id for i in mixed.items} - set(kept)
        assert all(f"not mixed with {accepts[0]}" in why for why in reasons.values())
    assert of_one_radiometry(mixed, ("gamma0-ntc",)) is mixed  # refused, with all that there is
    assert of_one_radiometry(chosen, ("sigma0",)) is chosen


def test_adapt_where_the_checkpoint_knows_no_level_of_a_band() -> None:
    """A feature of bands that are none themselves: what is not shifted may not pass for shifted."""
    card = dataclasses.replace(
        sensor_card(mapping.task_of("cropland"), "s1"), features=("vh_vv",), mean=(-7.0,),
        std=(3.0,))
    items = ItemSet("s1", "c", (radar("a", "sentinel-1-grd-sigma0"),))
    with pytest.raises(DataTrouble, match="knows no level of s1 vv, vh"):
        level_shift(items, card, (), mapping.task_of("cropland"), YEAR)


# ---------------------------------------------------------------- which images an area finds


def test_areas_that_share_a_cell_find_the_same_images_for_it(
    region: Path, region_aoi: str, tmp_path: Path
) -> None:
    """An image that touches the cell and not the small area: the large one ranked its sensors by
    it, the small one did not, and a pixel of both could be made from two sensors."""
    live = tmp_path / "live"
    shutil.copytree(region, live)
    west, south, east, north = map(float, region_aoi.split(","))
    third = (east - west) / 3
    small = shapely.box(west, south, west + third, north)
    for page in live.glob("sentinel-1-rtc/*/*.json"):
        record = json.loads(page.read_text())
        half = shapely.box(west + 2 * third, south, east, north)  # the cell's other end
        record |= {"geometry": shapely.geometry.mapping(half), "bbox": list(half.bounds)}
        page.write_text(json.dumps(record))
    whole = shapely.box(west, south, east, north)
    found = [search(str(live / "catalog.json"), "s1", area, YEAR) for area in (small, whole)]
    assert len(found[0].items) > 10
    assert found[0].fingerprint == found[1].fingerprint


def test_far_apart_points_are_searched_for_one_cluster_at_a_time() -> None:
    lon = np.array([4.0, 4.3, 4.9, -100.0, 179.99, -179.99, 25.0])
    lat = np.array([50.0, 50.4, 50.2, 40.0, 10.0, 10.0, 83.99])
    points = LabelPoints(lon, lon, lat, lon, lon, ())
    clusters = outlines(points.area)
    assert len(clusters) == 5
    for x, y in zip(lon, lat, strict=True):
        (mine,) = [c for c in clusters if c.contains(shapely.Point(x, y))]
        dx = 550 / (111_320 * np.cos(np.radians(y)))  # two pixels of 250 m and more
        assert mine.contains(shapely.box(x - dx, y - 0.0049, min(x + dx, 180), y + 0.0049).
                             intersection(shapely.box(-180, -90, 180, 90)))
    near = max(clusters, key=lambda c: len(shapely.get_parts(c)))
    assert near.area < 0.001  # three boxes, not what lies between them


# ---------------------------------------------------------------- runs and command lines


def test_items_of_an_earlier_run_do_not_enter_a_resumed_one(
    region: Path, region_aoi: str, untrained: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    """Run A found s1 and s2. Run B, into the same folder, found s1 alone, and was stopped: with
    --resume it took A's s2 for its own, and was refused as another run."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    bare = tmp_path / "bare"
    shutil.copytree(region, bare)
    catalog = json.loads((bare / "catalog.json").read_text())
    catalog["links"] = [k for k in catalog["links"] if "sentinel-2" not in k["href"]]
    west, south, _, north = map(float, region_aoi.split(","))

    def run(*options: str) -> int:
        return cli.run(command, [
            "--aoi", f"{west},{south},{west + 0.0012},{north}", "--sensor", "s1,s2", "--period",
            "2023-10", "--catalog", str(bare / "catalog.json"), "--checkpoint",
            str(untrained["cropland"]), "--out", str(tmp_path / "out"), "--quiet", *options])

    with monkeypatch.context() as patch:
        patch.setattr(making, "run_tiles", stop)
        assert run() == cli.INTERRUPTED
        (bare / "catalog.json").write_text(json.dumps(catalog))
        assert run() == cli.INTERRUPTED
    assert run("--resume") == 0, capsys.readouterr().err


def test_results_may_be_read_by_head() -> None:
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

        def fileno(self) -> int:
            return spare.fileno()

    def talk(_: object) -> int:
        print("much")
        raise BrokenPipeError

    with Path("/dev/null").open("w") as spare, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", Closed())
        assert cli.run(talk, []) == cli.CLOSED
    with pytest.raises(BrokenPipeError):  # another pipe: not to be taken for that
        cli.run(talk, [])


# ---------------------------------------------------------------- notebooks


@pytest.mark.parametrize(("change", "says"), [
    ({"bands": ("zz",)}, "not bands of s1"), ({"bands": ()}, "not bands of s1"),
    ({"bands": ("vv", "vv")}, "not bands of s1"), ({"resolution": 0}, "whole number of metres"),
    ({"resolution": -10}, "whole number of metres"), ({"resolution": 2.5}, "whole number"),
    ({"loader": "zz"}, "unknown loader"), ({"period": None}, "not a month"),
], ids=str)
def test_a_cube_of_nonsense_is_refused(
    region: Path, region_aoi: str, change: dict[str, object], says: str
) -> None:
    """They gave bands of gaps, or a traceback."""
    wanted = {"period": "2023-10", "catalog": region / "catalog.json"} | change
    period = wanted.pop("period")
    with pytest.raises(BadRequest, match=says):
        open_cube(region_aoi, "s1", period, **wanted)  # type: ignore[arg-type]


def test_one_band_by_its_name_is_that_band(region: Path, region_aoi: str) -> None:
    cube = open_cube(region_aoi, "s1", "2023-10", catalog=region / "catalog.json", bands="vv")
    assert cube.band.values.tolist() == ["vv"]
    assert np.isfinite(cube["value"]).any()


def test_a_band_that_no_image_has_is_not_a_cube_of_gaps(
    shared: Path,
) -> None:
    scene = shared / "scenes" / "hesbaye_2021"
    with pytest.raises(NothingFound, match="has all of these bands"):
        open_cube(scene / "aoi.geojson", "s2", "2021-10", catalog=scene / "catalog.json",
                  bands=("B8A",))


def test_where_sheets_are_joined_is_told_chunk_by_chunk() -> None:
    """The mask of a large area was held whole while everything around it was lazy."""
    area = shapely.Point(506_500, 5_503_500).buffer(3400).difference(
        shapely.Point(506_000, 5_503_000).buffer(900))
    grid = window((500_000, 5_500_000, 513_000, 5_507_000), 32631, 10)
    mask = _inside(area, grid)
    assert mask.shape == (700, 1300)
    assert max(max(sizes) for sizes in mask.chunks) <= 512
    whole = geometry_mask([area], out_shape=grid.shape, transform=grid.affine, invert=True)
    assert 0 < whole.sum() < whole.size
    np.testing.assert_array_equal(mask.compute(scheduler="sync"), whole)
