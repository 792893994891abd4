"""The offline demo region as files: a catalogue and COGs that outsiders read as we mean them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from rio_cogeo import cog_validate

from pipeline.data.sources import source_of
from pipeline.prep.masks import landsat_c2_clear, scl_clear
from pipeline.prep.radiometry import scaling, to_physical
from pipeline.sandbox import SandboxParams, write
from pipeline.sandbox.acquire import simulate, stage
from pipeline.sandbox.canopy import canopy
from pipeline.sandbox.cogs import write_cog
from pipeline.sandbox.geo import transformer
from pipeline.sandbox.schedule import products, zones
from pipeline.sandbox.spectra import surface
from pipeline.spec.errors import BadRequest

TINY = SandboxParams.tiny()
IMAGES = {"sentinel-1-rtc": "s1", "sentinel-2-l2a": "s2", "landsat-c2-l2": "l8"}
SENSOR = IMAGES | {"cop-dem-glo-30": "dem", "esa-worldcover": "landcover"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("sandbox") / "tiny", TINY).parent


@pytest.fixture(scope="module")
def items(tiny: Path) -> list[dict[str, Any]]:
    """Item JSONs with an extra key ``folder``."""
    return [json.loads(p.read_text()) | {"folder": p.parent}
            for p in sorted(tiny.glob("*/*/*.json"))]


def pixels(item: dict[str, Any], asset: str) -> tuple[np.ndarray, rasterio.Affine]:
    with rasterio.open(item["folder"] / item["assets"][asset]["href"]) as file:
        return file.read(1), file.transform


def of(items: list[dict[str, Any]], collection: str) -> list[dict[str, Any]]:
    return [i for i in items if i["collection"] == collection]


def test_pystac_walks_the_catalogue_and_finds_every_asset(tiny: Path) -> None:
    catalog = pystac.Catalog.from_file(tiny / "catalog.json")
    found = list(catalog.get_items(recursive=True))
    expected = sum(len(products(TINY, s, z)) for s in ("s1", "s2", "l8") for z in zones(TINY))
    # elevation and land cover (two years of it) in the tiles on either side of 6 degrees east
    assert len(found) == len({i.id for i in found}) == expected + 2 + 4
    for item in found:
        for asset in item.assets.values():
            assert Path(asset.get_absolute_href()).is_file()


def test_items_are_read_by_the_sandbox_rows_and_landsat_7_by_none(tiny: Path) -> None:
    for item in pystac.Catalog.from_file(tiny / "catalog.json").get_items(recursive=True):
        source = source_of(item, SENSOR[item.collection_id])
        if item.properties.get("platform") == "landsat-7":
            assert source is None
        else:
            assert source is not None
            assert source.key == f"sandbox/{item.collection_id}"


def test_every_file_is_a_valid_cog_and_matches_its_item(
    tiny: Path, items: list[dict[str, Any]]
) -> None:
    picked = [of(items, c)[k] for c in SENSOR for k in (0, -1)]
    for item in picked:
        for key, asset in item["assets"].items():
            path = item["folder"] / asset["href"]
            assert cog_validate(path, strict=True) == (True, [], [])
            where = asset if "proj:shape" in asset else item["properties"]
            with rasterio.open(path) as file:
                assert list(file.shape) == where["proj:shape"], key
                assert list(file.transform)[:6] == where["proj:transform"][:6]
                assert file.crs.to_epsg() == item["properties"]["proj:epsg"]
                assert file.transform.b == file.transform.d == 0  # north up
    for path in (tiny / "truth").glob("*.tif"):
        assert cog_validate(path, strict=True)[0]


def test_large_rasters_get_overviews(tmp_path: Path) -> None:
    data = np.arange(700 * 700, dtype=np.float32).reshape(700, 700)
    grid = rasterio.Affine(10, 0, 7e5, 0, -10, 49e5)
    write_cog(tmp_path / "big.tif", data, grid, rasterio.CRS.from_epsg(32631), -1)
    assert cog_validate(tmp_path / "big.tif", strict=True)[0]
    with rasterio.open(tmp_path / "big.tif") as file:
        assert file.overviews(1) == [2]
        np.testing.assert_array_equal(file.read(1), data)


def test_landsat_edges_are_odd_multiples_of_15_m(items: list[dict[str, Any]]) -> None:
    for item in of(items, "landsat-c2-l2"):
        t = item["properties"]["proj:transform"]
        assert t[2] % 30 == t[5] % 30 == 15


def test_shape_is_that_of_recorded_items(shared: Path, items: list[dict[str, Any]]) -> None:
    recorded: dict[str, list[dict[str, Any]]] = {c: [] for c in IMAGES}
    for path in (shared / "stac_recorded" / "planetary_computer").glob("*.json"):
        if path.stem.endswith("_raster_ext"):
            continue  # not what the API gives: another tool added fields to it
        raw = json.loads(path.read_text())
        for feature in raw.get("features", [raw]):
            if feature.get("collection") in recorded:
                recorded[feature["collection"]].append(feature)
    for item in (i for i in items if i["collection"] in IMAGES):
        real = recorded[item["collection"]]
        assert set(item) - {"folder"} in [set(r) for r in real]
        properties = dict(item["properties"])
        assert properties.pop("sandbox:seed") == TINY.seed
        twin = next(r for r in real if set(r["properties"]) == set(properties))
        for key, value in properties.items():
            other = twin["properties"][key]
            same = type(value) is type(other) or {type(value), type(other)} <= {int, float}
            assert same, f"{key}: {value!r} is not of the kind of {other!r}"
        for key, asset in item["assets"].items():
            fields = set(twin["assets"][key]) - {"file:size", "file:checksum", "gsd"}
            assert set(asset) - {"gsd"} >= fields - {"description"}, key
            assert set(asset) <= fields | {"gsd", "description"}, key
        assert any(set(item["stac_extensions"]) <= set(r["stac_extensions"]) for r in real)
        assert len(item["id"].split("_")) == len(twin["id"].split("_"))


def test_item_table_holds_the_same_items_and_moves_with_its_folder(
    tiny: Path, items: list[dict[str, Any]]
) -> None:
    import pyarrow.parquet
    import stac_geoparquet.arrow

    table = pyarrow.parquet.read_table(tiny / "items.parquet")
    rows = list(stac_geoparquet.arrow.stac_table_to_items(table))
    assert {r["id"] for r in rows} == {i["id"] for i in items}
    hrefs = [a["href"] for r in rows for a in r["assets"].values() if a]
    assert all(h.startswith("./") and (tiny / h).is_file() for h in hrefs)


@pytest.mark.parametrize("sensor", ["s2", "l8"])
def test_decoded_reflectance_is_the_simulators(sensor: str, tiny: Path) -> None:
    at = stage(TINY, sensor, 31)
    todo = {p.baseline: p for p in products(TINY, sensor, 31) if p.platform != "landsat-7"}
    catalog = pystac.Catalog.from_file(tiny / "catalog.json")
    named = {(i.datetime, i.properties.get("s2:processing_baseline", "")): i
             for i in catalog.get_items(recursive=True)
             if SENSOR[i.collection_id] == sensor and i.ext.proj.epsg == 32631}
    for baseline, p in todo.items():
        item = named[p.when, baseline]
        source = source_of(item, sensor)
        assert source is not None
        layers = {x.asset: x for x in simulate(at, p)[0]}
        band = "B04" if sensor == "s2" else "red"
        layer = layers[source.assets[band]]
        asset = item.assets[source.assets[band]].to_dict()
        value = to_physical(layer.dn, source, *scaling(source, item.properties, asset))
        clear = (scl_clear if sensor == "s2" else landsat_c2_clear)(layers[source.mask_asset].dn)
        true = surface(at.ground, canopy(TINY.seed, at.ground, p.when.date()), sensor, band)
        if sensor == "s2":
            clear = clear.repeat(2, 0).repeat(2, 1)
        else:
            h, w = true.shape
            true = true.reshape(h // 3, 3, w // 3, 3).mean((1, 3))
        if clear.mean() > 0.5:
            # missed shadow and haze are there; an offset of 0.1 would not pass
            error = np.abs(value[clear] - true[clear])
            assert np.median(error) < 0.025, baseline
            assert np.quantile(error, 0.9) < 0.06, baseline


def test_reprocessed_twins_differ_by_the_offset_only(items: list[dict[str, Any]]) -> None:
    twins: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for i in of(items, "sentinel-2-l2a"):
        p = i["properties"]
        twins.setdefault((p["datetime"], p["s2:mgrs_tile"]), {})[p["s2:processing_baseline"]] = i
    pairs = [t for t in twins.values() if len(t) == 2]
    assert pairs
    before = after = 0
    for pair in pairs:
        new, old = pair.pop("05.10"), next(iter(pair.values()))
        assert new["properties"]["s2:generation_time"] > old["properties"]["s2:generation_time"]
        assert new["id"] != old["id"]
        assert new["id"].rpartition("_")[0] == old["id"].rpartition("_")[0]
        gap = pixels(new, "B04")[0].astype(int) - pixels(old, "B04")[0]
        if old["properties"]["s2:processing_baseline"] < "04.00":
            # + 1000 of the offset - 120 of the older processor's haze
            assert abs(np.median(gap) - 880) <= 1
            before += 1
            assert (old["properties"]["eo:cloud_cover"] <= new["properties"]["eo:cloud_cover"])
        else:
            assert not gap.any()
            after += 1
    assert before
    assert after


def test_stated_cloud_cover_is_that_of_the_quality_band(items: list[dict[str, Any]]) -> None:
    covers = []
    for item in of(items, "sentinel-2-l2a"):
        scl, _ = pixels(item, "SCL")
        assert set(np.unique(scl)) <= {3, 4, 5, 6, 7, 8, 9, 10}
        covers.append(item["properties"]["eo:cloud_cover"])
        assert covers[-1] == pytest.approx(np.isin(scl, (8, 9, 10)).mean() * 100, abs=1e-4)
    assert min(covers) < 15
    assert max(covers) > 50
    for item in of(items, "landsat-c2-l2"):
        qa, _ = pixels(item, "qa_pixel")
        clear = qa[landsat_c2_clear(qa)]
        assert set(np.unique(clear)) <= {21824, 21952}  # USGS LSDS-1619: clear land, clear water
        assert (pixels(item, "red")[0] == 0).sum() == (qa == 1).sum()


def test_what_is_opaque_is_flagged() -> None:
    from pipeline.sandbox.optical import veil
    from pipeline.sandbox.weather import sky

    flagged = opaque = 0
    for zone in zones(TINY):
        for sensor, code, coarse in (("s2", 2, 2), ("l8", 3, 3)):
            at = stage(TINY, sensor, zone)
            for p in products(TINY, sensor, zone):
                if p.platform == "landsat-7" or p.before_offset:
                    continue
                over = veil(sky(TINY, code, p.when), at.ground.x, at.ground.y, at.gap)
                h, w = over.opacity.shape
                thick = over.opacity.reshape(h // coarse, coarse, w // coarse, coarse)
                thick = thick.mean((1, 3)) > 0.2
                qa = simulate(at, p)[0][-1].dn
                clear = (scl_clear if sensor == "s2" else landsat_c2_clear)(qa)
                opaque += int(thick.sum())
                flagged += int((thick & ~clear).sum())
    assert opaque > 1000
    assert flagged / opaque > 0.99


def test_the_gaps_are_where_the_truth_says(tiny: Path, items: list[dict[str, Any]]) -> None:
    about = json.loads((tiny / "truth" / "truth.json").read_text())
    no_s2 = shapely.geometry.shape(about["no_clear_sentinel_2"])
    no_s1 = shapely.geometry.shape(about["no_sentinel_1"])
    west, south, east, north = TINY.bounds
    assert shapely.box(*no_s2.bounds).distance(shapely.Point(west, north)) < 1e-4
    for item in of(items, "sentinel-2-l2a"):
        scl, t = pixels(item, "SCL")
        x, y = _lonlat(t, scl.shape, item["properties"]["proj:epsg"])
        inside = shapely.contains_xy(no_s2, x, y)
        assert not scl_clear(scl)[inside].any()
    for item in of(items, "sentinel-1-rtc"):
        vv, t = pixels(item, "vv")
        x, y = _lonlat(t, vv.shape, item["properties"]["proj:epsg"])
        # the scene ends on a pixel edge of its own zone, within its 60 m lattice
        assert not shapely.contains_xy(no_s1.buffer(-1e-3), x, y).any()
        assert shapely.geometry.shape(item["geometry"]).bounds[2] < east
    covered = shapely.union_all([shapely.geometry.shape(i["geometry"])
                                 for i in of(items, "sentinel-2-l2a")])
    assert covered.buffer(1e-6).covers(shapely.box(west, south, east, north))


def _lonlat(t: rasterio.Affine, shape: tuple[int, int], epsg: int) -> tuple[Any, Any]:
    e = t.c + t.a * (np.arange(shape[1]) + 0.5)
    n = t.f + t.e * (np.arange(shape[0]) + 0.5)
    return transformer(epsg, 4326).transform(*np.meshgrid(e, n))


def test_radar_has_borders_of_zeros_two_orbits_and_plausible_power(
    items: list[dict[str, Any]]
) -> None:
    scenes = of(items, "sentinel-1-rtc")
    assert {i["properties"]["sat:orbit_state"] for i in scenes} == {"ascending", "descending"}
    zeros = 0
    for item in scenes:
        vv, vh = pixels(item, "vv")[0], pixels(item, "vh")[0]
        assert vv.dtype == np.float32
        zeros += int((vv == 0).any())
        good = vv > 0
        assert (vv[good].mean(dtype=float) > vh[good].mean(dtype=float))
        assert -16 < 10 * np.log10(vv[good].mean(dtype=float)) < -5
        p = item["properties"]
        assert (p["sat:absolute_orbit"] - 73) % 175 + 1 == p["sat:relative_orbit"]
    assert 0 < zeros < len(scenes)


def test_same_seed_same_bytes_other_seed_other_bytes(tiny: Path, tmp_path: Path) -> None:
    short = dataclasses.replace(TINY, first="2023-07", lfmc_months=1)

    def digest(out: Path) -> str:
        sums = [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.rglob("*"))
                if p.is_file()]
        return hashlib.sha256("".join(sums).encode()).hexdigest()

    a = write(tmp_path / "a", short).parent
    b = write(tmp_path / "b", dataclasses.replace(short, workers=1)).parent
    c = write(tmp_path / "c", dataclasses.replace(short, seed=21)).parent
    assert digest(a) == digest(b) != digest(c)


def test_finished_sandbox_is_reused_and_strangers_are_left_alone(
    tiny: Path, tmp_path: Path
) -> None:
    stamp = (tiny / "catalog.json").stat().st_mtime_ns
    assert write(tiny, TINY) == tiny / "catalog.json"
    assert (tiny / "catalog.json").stat().st_mtime_ns == stamp
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(BadRequest, match="not a sandbox"):
        write(tmp_path, TINY)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.sandbox.acquire.write_cog", full)
    with pytest.raises(BadRequest, match="No space"):
        write(tmp_path / "x", TINY)
    assert list(tmp_path.iterdir()) == []
