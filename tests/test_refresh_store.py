"""Taking tiles over from another run's store: bit-identical, linked, and never by halves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely

from pipeline.infer.store import STORE, RunStore, finished_tiles
from pipeline.spec.grid import sheets
from pipeline.spec.layers import NO_SENSOR, layers_of
from pipeline.spec.manifest import TileRecord
from pipeline.spec.tasks import CROPLAND

PX = 16
(SHEET,) = sheets(shapely.box(4.30, 50.60, 4.304, 50.603), 10)
TILES = tuple(SHEET.tiles(PX))


def store(root: Path, tile_px: int = PX) -> RunStore:
    root.mkdir(parents=True, exist_ok=True)
    return RunStore.open(root, {"run": root.name}, (SHEET,), layers_of(CROPLAND), tile_px, False)


def written(root: Path, status: str = "mapped") -> RunStore:
    """A store with all tiles; each holds its own number, the last one nothing."""
    made = store(root)
    for k, tile in enumerate(TILES):
        shape, empty = tile.geobox.shape, k == len(TILES) - 1
        arrays = {layer.name: np.full(shape, layer.nodata, layer.dtype) for layer in made.layers}
        if not empty:
            codes = {"map": k % 2, "sensor": 2, "confidence": 50 + k}
            arrays |= {name: np.full(shape, code, np.uint8) for name, code in codes.items()}
        area = 0 if empty else shape[0] * shape[1]
        made.write(tile, arrays, TileRecord(SHEET.name, tile.name, status, "s2", "", area,  # type: ignore[arg-type]
                                            mapped_px={} if empty else {"s2": area}))
    return made


def pairs(root: Path) -> list:
    records = finished_tiles(root)
    return [(tile, records[f"{SHEET.name}/{tile.name}"]) for tile in TILES]


def whole(made: RunStore, layer: str) -> np.ndarray:
    return made.view(SHEET.name, layer)[:, :]


def test_adopted_tiles_are_the_same_files_and_the_same_records(tmp_path: Path) -> None:
    assert len(TILES) >= 4
    old = written(tmp_path / "old")
    new = store(tmp_path / "new")
    taken = new.adopt(tmp_path / "old", pairs(tmp_path / "old"))
    assert [r.tile for r in taken] == [t.name for t in TILES]
    assert new.done() == old.done()
    for layer in new.layers:
        np.testing.assert_array_equal(whole(new, layer.name), whole(old, layer.name))
    chunks = sorted((tmp_path / "new" / STORE).rglob("map/c/*/*"))
    assert len(chunks) == len(TILES) - 1  # a chunk of nothing but fill has no file
    assert all(p.stat().st_nlink == 2 for p in chunks)


def test_neither_store_can_change_the_other(tmp_path: Path) -> None:
    old = written(tmp_path / "old")
    before = whole(old, "confidence").copy()
    new = store(tmp_path / "new")
    new.adopt(tmp_path / "old", pairs(tmp_path / "old"))
    tile, record = pairs(tmp_path / "old")[0]
    new.write(tile, {"confidence": np.full(tile.geobox.shape, 7, np.uint8)}, record)
    assert (whole(new, "confidence")[tile.rows, tile.cols] == 7).all()
    np.testing.assert_array_equal(whole(old, "confidence"), before)
    store(tmp_path / "old")  # emptied
    np.testing.assert_array_equal(whole(new, "confidence")[TILES[1].rows, TILES[1].cols],
                                  before[TILES[1].rows, TILES[1].cols])


@pytest.mark.parametrize("harm", ["cut", "gone", "other pixels"])
def test_a_damaged_tile_is_left_out_whole(tmp_path: Path, harm: str) -> None:
    old = written(tmp_path / "old")
    chunk = sorted((tmp_path / "old" / STORE).rglob("map/c/*/*"))[0]
    if harm == "cut":
        chunk.write_bytes(chunk.read_bytes()[:2])
    elif harm == "gone":
        chunk.unlink()
    else:
        tile, _ = pairs(tmp_path / "old")[0]
        old.put(tile, {"sensor": np.zeros(tile.geobox.shape, np.uint8)}, SHEET.name)
    new = store(tmp_path / "new")
    taken = new.adopt(tmp_path / "old", pairs(tmp_path / "old"))
    assert len(taken) == len(TILES) - 1
    (lost,) = {t.name for t in TILES} - {r.tile for r in taken}
    tile = next(t for t in TILES if t.name == lost)
    for layer in new.layers:
        assert (whole(new, layer.name)[tile.rows, tile.cols] == layer.nodata).all()


def test_gaps_are_not_taken_for_what_lies_outside(tmp_path: Path) -> None:
    """A tile within the area without one pixel mapped, whose chunk of sensors is lost."""
    old = store(tmp_path / "old")
    tile = TILES[0]
    area = tile.geobox.shape[0] * tile.geobox.shape[1]
    record = TileRecord(SHEET.name, tile.name, "nodata", None, "", area)
    gaps = np.full(tile.geobox.shape, NO_SENSOR, np.uint8)
    old.write(tile, {"sensor": gaps}, record)
    assert store(tmp_path / "a").adopt(old.root, [(tile, record)]) == [record]
    (chunk,) = (tmp_path / "old" / STORE).rglob("sensor/c/*/*")
    chunk.unlink()
    assert store(tmp_path / "b").adopt(old.root, [(tile, record)]) == []


def test_what_cannot_be_taken(tmp_path: Path) -> None:
    written(tmp_path / "failed", status="failed")
    assert finished_tiles(tmp_path / "failed") == {}
    old = written(tmp_path / "old")
    found = pairs(tmp_path / "old")
    assert store(tmp_path / "coarser", 32).adopt(tmp_path / "old", found) == []
    assert store(tmp_path / "new").adopt(tmp_path / "nowhere", found) == []
    assert old.done()
