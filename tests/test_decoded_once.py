"""A whole map decodes each block of an image once, whichever sensors fill it and however little
memory there is: what has no room lies on disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio

from pipeline.data.block_store import SHARED, BlockStore
from pipeline.map import command


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[object]:
    """How often each block was decoded."""
    count: Counter[object] = Counter()
    plain = BlockStore.keep_block

    def keep_block(self: BlockStore, key: object, *more: object) -> None:
        count[key] += 1
        plain(self, key, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(BlockStore, "keep_block", keep_block)
    return count


@pytest.mark.parametrize("sensor", ["all", "auto"])
def test_a_map_decodes_each_block_once(
    region: Path, region_aoi: str, untrained: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, decoded: Counter[object], sensor: str,
) -> None:
    maps = []
    for limit in (SHARED._limit, 200_000):
        SHARED.clear()
        decoded.clear()
        monkeypatch.setattr(SHARED, "_limit", limit)
        out = tmp_path / str(limit)
        assert command(["--aoi", region_aoi, "--sensor", sensor, "--period", "2023-10", "--catalog",
                        str(region / "catalog.json"), "--checkpoint", str(untrained["cropland"]),
                        "--out", str(out), "--tile-size", "16", "--quiet"]) in (0, 4)
        assert decoded
        assert set(decoded.values()) == {1}
        maps.append([rasterio.open(p).read() for p in sorted(out.rglob("map*.tif"))])
    for one, other in zip(*maps, strict=True):
        np.testing.assert_array_equal(one, other)
