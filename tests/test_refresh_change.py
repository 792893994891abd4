"""The change layer: hand-worked pixels, redrawn areas, and the summary that people read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

from pipeline.refresh.change import (
    GAINED,
    LOST,
    NONE,
    ONE_ONLY,
    SAME,
    UNSURE,
    significance,
    write_change,
)
from pipeline.refresh.product import Product
from pipeline.spec.errors import DataTrouble
from pipeline.spec.tasks import CROPLAND
from tests.support.versions import write_version


def grid(*values: int) -> np.ndarray:
    return np.array([values])


def codes(path: Path) -> list[int]:
    with rasterio.open(path) as src:
        return src.read(1).ravel().tolist()


def test_cropland_pixel_by_pixel(tmp_path: Path) -> None:
    # same, gained surely (0.95 x 0.95 = 0.9025), lost surely, gained unsurely (0.95 x 0.94 = 0.89),
    # only then, only now, never
    old = write_version(tmp_path / "a", grid(1, 0, 1, 0, 1, 255, 255),
                        grid(60, 95, 95, 95, 99, 0, 0))
    new = write_version(tmp_path / "b", grid(1, 1, 0, 1, 255, 0, 255),
                        grid(55, 95, 96, 94, 0, 99, 0))
    made = write_change(new, old)
    assert codes(new / "change.tif") == [SAME, GAINED, LOST, UNSURE, ONE_ONLY, ONE_ONLY, NONE]
    assert made["compared_px"] == 4
    assert made["compared_ha"] == 0.04  # 4 x 100 m2
    assert made["changed_share"] == 3 / 4
    assert made["significant_share"] == 2 / 4
    assert made["kinds"]["became cropland"] == {"px": 1, "ha": 0.01}
    assert made["kinds"]["mapped in one version only"]["px"] == 2
    assert made["before"] == "a"
    assert json.loads((new / "change.json").read_text()) == made


def test_moisture_pixel_by_pixel(tmp_path: Path) -> None:
    # half-widths 3 and 4 make 5: a difference of 5.0 is within it, 5.1 is not
    old = write_version(tmp_path / "a", grid(1000, 1000, 1000, 1000, 65535),
                        grid(40, 40, 40, 40, 0), task="lfmc")
    new = write_version(tmp_path / "b", grid(1000, 1050, 1051, 949, 900),
                        grid(30, 30, 30, 30, 30), task="lfmc")
    made = write_change(new, old)
    assert codes(new / "change.tif") == [SAME, UNSURE, GAINED, LOST, ONE_ONLY]
    with rasterio.open(new / "difference.tif") as src:
        stored = src.read(1)[0]
        assert stored[-1] == src.nodata == 65535
        difference = stored[:-1] * src.scales[0] + src.offsets[0]
        assert src.units == ("%",)
    np.testing.assert_allclose(difference, [0, 5, 5.1, -5.1], atol=1e-9)
    assert made["mean_change"] == pytest.approx((0 + 5 + 5.1 - 5.1) / 4)
    assert made["mean_absolute_change"] == pytest.approx((5 + 5.1 + 5.1) / 4)
    assert made["kinds"]["more"] == {"px": 1, "ha": 6.25}
    assert made["significant_share"] == 0.5


def test_both_files_are_cogs_with_legend_and_rule(tmp_path: Path) -> None:
    old = write_version(tmp_path / "a", grid(1000, 1), grid(1, 1), task="lfmc")
    new = write_version(tmp_path / "b", grid(999, 1), grid(1, 1), task="lfmc")
    write_change(new, old)
    for name in ("change.tif", "difference.tif"):
        assert cog_validate(new / name)[0]
        with rasterio.open(new / name) as src:
            assert src.tags()["BEFORE"] == "a"
            assert "90%" in src.tags()["RULE"]
    with rasterio.open(new / "change.tif") as src:
        assert src.tags(1)["CLASS_3"] == "changed within the uncertainty"
        assert src.nodata == NONE


def test_a_first_version_has_no_change(tmp_path: Path) -> None:
    new = write_version(tmp_path / "b", grid(1), grid(99))
    assert write_change(new, None) == {}
    assert not [*new.glob("change*")]


def test_a_redrawn_area_is_compared_where_both_lie(tmp_path: Path) -> None:
    """The new sheet starts one pixel further north and west and ends one earlier."""
    old = write_version(tmp_path / "a", np.array([[0, 1], [1, 0]]), np.full((2, 2), 99))
    new = write_version(tmp_path / "b", np.array([[1, 1, 1], [1, 1, 1]]), np.full((2, 3), 99),
                        origin=(599_990, 5_600_010))
    write_change(new, old)
    with rasterio.open(new / "change.tif") as src:
        np.testing.assert_array_equal(
            src.read(1), [[ONE_ONLY] * 3, [ONE_ONLY, GAINED, SAME]])


def test_another_lattice_and_another_task_are_refused(tmp_path: Path) -> None:
    old = write_version(tmp_path / "a", grid(1), grid(99))
    off = write_version(tmp_path / "b", grid(1), grid(99), origin=(600_003, 5_600_000))
    with pytest.raises(DataTrouble, match="different lattices"):
        write_change(off, old)
    other = write_version(tmp_path / "c", grid(1), grid(99), task="lfmc")
    with pytest.raises(DataTrouble, match="different tasks"):
        write_change(other, old)
    assert not [*tmp_path.glob("*/change*")]


def test_windows_make_no_difference(tmp_path: Path) -> None:
    """Two windows high: the files equal what whole arrays give."""
    rng = np.random.default_rng(0)
    shape = (2060, 3)
    pairs = [(rng.choice([0, 1, 255], shape), rng.integers(50, 101, shape)) for _ in range(2)]
    old, new = (write_version(tmp_path / n, *p) for n, p in zip("ab", pairs, strict=True))
    made = write_change(new, old)
    (a, sure_a), (b, sure_b) = pairs
    sure = significance(CROPLAND, b, sure_b, a, sure_a)
    both, either = (a != 255) & (b != 255), (a != 255) | (b != 255)
    want = np.select([~either, ~both, a == b, ~sure, b > a], [NONE, ONE_ONLY, SAME, UNSURE, GAINED],
                     LOST)
    with rasterio.open(new / "change.tif") as src:
        np.testing.assert_array_equal(src.read(1), want)
    assert made["compared_px"] == both.sum()
    assert made["significant_share"] == (both & (a != b) & sure).sum() / both.sum()


def test_an_unfinished_map_is_no_version(tmp_path: Path) -> None:
    folder = write_version(tmp_path / "a", grid(1), grid(99))
    (folder / "map.tif").unlink()
    with pytest.raises(DataTrouble, match="no finished map"):
        Product.open(folder)
    with pytest.raises(DataTrouble, match="no finished map"):
        Product.open(tmp_path / "nowhere")
