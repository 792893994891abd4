"""The radiometry contract on real data: trained on points of one archive, mapping a scene of
another. The points are real, and so are the scenes; what is simulated is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio

from pipeline import cli
from pipeline.map import command
from pipeline.train import command as train

SETS = ("flanders_2021", "france_2022_corsica", "global_b")
# gamma0 of flat ground is sigma0 / cos(incidence): the sets are sigma0, and no set of the other
# radiometry is at hand
GAMMA_DB = -10 * np.log10(np.cos(np.radians(38.5)))  # 1.06

Map = Callable[..., tuple[int, str]]


def layer(folder: Path, name: str) -> np.ndarray:
    with rasterio.open(folder / f"{name}.tif") as file:
        return file.read(1)


def trained(out: Path, task: str, sensor: str, sets: list[Path]) -> Path:
    """A small checkpoint without level jitter: it accepts what it was trained on, and no more."""
    samples = [word for folder in sets for word in ("--samples", str(folder))]
    assert cli.run(train, ["--task", task, "--sensors", sensor, "--row", "mdico+gaps+season",
                           "--fast", "--epochs", "8", "--no-evaluate", "--threads", "1", "--quiet",
                           "--out", str(out), *samples]) == 0
    return out


@pytest.fixture(scope="module")
def by_radiometry(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints trained on the same points, as they are and as gamma0 of flat ground."""
    folder = tmp_path_factory.mktemp("archives")
    found = {}
    for kind, shift in (("sigma0", 0.0), ("gamma0-rtc", GAMMA_DB)):
        sets = []
        for name in SETS:
            own = folder / kind / name
            own.mkdir(parents=True)
            sets.append(own)
            for table in ("samples", "series"):
                rows = pd.read_parquet(shared / "points" / name / f"{table}.parquet")
                if table == "series":
                    rows[["vv", "vh"]] += np.float32(shift)
                rows.to_parquet(own / f"{table}.parquet", index=False)
            (own / "dataset.json").write_text(json.dumps({
                "name": name, "licence": "as the source states", "radiometry": {"s1": kind},
                "feature_path": "1", "task": "cropland", "label_column": "cropland", "steps": 12}))
        found[kind] = trained(folder / f"{kind}-checkpoint", "cropland", "s1", sets)
    return found


@pytest.fixture
def mapped(shared: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Map:
    """Map a scene: exit code, and what was said."""

    def go(out: str, checkpoint: Path | str, *options: str, scene: str = "hesbaye_2021",
           sensor: str = "s1", period: str = "2021-10", task: str = "cropland") -> tuple[int, str]:
        place = shared / "scenes" / scene
        capfd.readouterr()
        code = cli.run(command, [
            "--aoi", str(place / "aoi.geojson"), "--catalog", str(place / "catalog.json"),
            "--period", period, "--sensor", sensor, "--task", task, "--checkpoint",
            str(checkpoint), "--out", str(tmp_path / out), "--workers", "1", "--quiet", *options])
        said = capfd.readouterr()
        return code, said.out + said.err

    return go


def test_a_scene_of_another_archive_is_refused_or_adapted(
    by_radiometry: dict[str, Path], mapped: Map, tmp_path: Path
) -> None:
    gamma, sigma = by_radiometry["gamma0-rtc"], by_radiometry["sigma0"]
    code, said = mapped("refused", gamma)
    assert code == 2
    for word in ("gamma0-rtc", "sigma0", "another source (--catalog)", "pipeline.sample",
                 "--adapt"):
        assert word in said
    assert not (tmp_path / "refused" / "map.tif").exists()

    code, said = mapped("adapted", gamma, "--adapt")
    assert code == 0
    assert "adapted  s1: sigma0 to gamma0-rtc, vv +" in said
    stated = json.loads((tmp_path / "adapted/manifest.json").read_text())["adapted"]["s1"]
    item = json.loads((tmp_path / "adapted/item.json").read_text())
    assert item["properties"]["wallmap:adapted"]["s1"] == stated
    with rasterio.open(tmp_path / "adapted/map.tif") as file:
        assert f"vv {stated['amount']['vv']:+.2f}" in file.tags()["ADAPTED"]

    # the known shift, and by how much the area's land cover differs from that of the points
    assert stated["amount"] == pytest.approx({"vv": GAMMA_DB, "vh": GAMMA_DB}, abs=1.0)

    # forced, without a shift, by a card that claims what is not so
    card = json.loads((gamma / "card.json").read_text())
    card["sensors"]["s1"]["accepts"].append("sigma0")
    forced = tmp_path / "forced-checkpoint"
    forced.mkdir()
    (forced / "card.json").write_text(json.dumps(card))
    (forced / "model.safetensors").write_bytes((gamma / "model.safetensors").read_bytes())
    assert mapped("forced", forced)[0] == mapped("plain", sigma)[0] == 0
    assert mapped("shipped", "cropland")[0] == 0
    maps = {name: layer(tmp_path / name, "map") for name in ("adapted", "forced", "plain",
                                                             "shipped")}
    assert (maps["adapted"] != 255).all()
    agree = {k: float((m == maps["adapted"]).mean()) for k, m in maps.items()}
    print(f"known {GAMMA_DB:.2f} dB, found {stated['amount']}; agreement with the unshifted: "
          f"adapted {agree['plain']:.3f}, forced {(maps['forced'] == maps['plain']).mean():.3f}")
    assert agree["plain"] > float((maps["forced"] == maps["plain"]).mean()) + 0.01
    assert agree["plain"] > 0.95  # 0.97, forced 0.94
    assert agree["shipped"] > 0.8  # of other points, many more of them: 0.90


def test_top_of_atmosphere_is_no_matter_of_level(
    shared: Path, mapped: Map, tmp_path: Path
) -> None:
    """Real points of Level-1C, a real scene of Level-2A: the haze in blue is beyond any bound."""
    haze = trained(tmp_path / "haze", "lfmc", "s2", [shared / "points" / "lfmc"])
    scene = {"scene": "flanders_2018", "sensor": "s2", "period": "2018-08", "task": "lfmc"}
    code, said = mapped("refused", haze, **scene)
    assert code == 2
    assert "l1c" in said
    assert "--adapt" in said
    code, said = mapped("adapted", haze, "--adapt", **scene)
    assert code == 3
    assert "s2 B02 by more than radiometries differ" in said
    assert "0.8 to 1.25 times" in said
    assert not list((tmp_path / "adapted").glob("*.tif"))
