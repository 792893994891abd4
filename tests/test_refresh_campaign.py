"""Six days of a growing archive: the map of the last one is the map of its archive, bit for bit."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.refresh.versions import Shelf
from tests.campaigns import one_scene
from tests.campaigns.refresh import Campaign, Day, differing, row, summary
from tests.support.archive import Archive


def campaign_of(region: Path, aoi: str, checkpoint: Path, work: Path) -> Campaign:
    """Day 1: a part of a scene comes. 2: no catalogue. 3: a scene is reprocessed, and the refresh
    killed. 4: a scene is withdrawn. 5: nothing."""
    shutil.copytree(region, work / "archive")
    archive = Archive(work / "archive")
    start = datetime(2023, 11, 1, 3, tzinfo=UTC)
    days = [start + timedelta(days=k) for k in range(6)]
    scenes = sorted((e for e in archive.entries.values()
                     if e.collection == "sentinel-2-l2a" and e.seen > start - timedelta(days=300)),
                    key=lambda e: (e.seen, e.id))
    new = next(e for e in reversed(scenes) if not e.again and "T31" in e.id)
    archive.crop(new.id, (0, 1), (0, 0.35))
    archive.comes(new.id, days[1])
    archive.comes(next(e for e in scenes if e.again and "T32" in e.id).id, days[3])
    archive.goes(next(e for e in scenes if not e.again and "T31" in e.id).id, days[4])
    campaign = Campaign(work, archive, days, broken=frozenset({2}), kills=(3,))
    campaign.write_schedule(aoi, str(checkpoint), "s2", 32, period="2023-10")
    return campaign


def test_six_days(region: Path, region_aoi: str, untrained: dict[str, Path], tmp_path: Path
                  ) -> None:
    campaign = campaign_of(region, region_aoi, untrained["cropland"], tmp_path / "w")
    days = campaign.run()
    shelf = Shelf(campaign.shelf)
    outcome = [d.result.status if d.result else "killed" for d in days]
    assert outcome[:3] == ["published", "published", "failed"]
    assert outcome[3] == "killed"
    assert outcome[5] == "unchanged"
    first, second, third, _, fifth, last = (d.result for d in days)
    assert first and second and third and fifth and last  # noqa: PT018 - for the type checker
    total = first.tiles.total
    assert first.tiles.why == {"first": total}
    assert second.tiles.why == {"new scene": second.tiles.recomputed}
    assert 0 < second.tiles.recomputed < total
    assert third.exit_code == 3
    # what the killed day should have done is done with the next one's own, or was done
    assert fifth.status == "published"
    assert fifth.tiles.why["withdrawn scene"] > 0
    assert fifth.tiles.why.get("reprocessed scene", 0) > 0 or "had ended" in days[3].event
    assert last.tiles.carried == total
    assert last.bytes.read == 0 < last.bytes.saved
    published = [r.version for r in shelf.history() if r.status == "published"]
    assert published == sorted(set(published))
    assert shelf.current() == published[-1]
    assert not shelf.leftovers()
    assert differing(campaign, tmp_path / "scratch") == []
    assert "quiet days 1: 100% of the bytes saved at least" in summary(days)
    assert "| killed |" in row(days[3])


def test_one_scene_makes_its_own_tiles_again_and_no_other(tmp_path: Path) -> None:
    """The campaign of 400 tiles with 25: a scene across three of them."""
    found = one_scene.refreshed(tmp_path, 5)
    assert not found.wrong
    assert found.after.reason == "new scene (3 tiles)"
    tiles = found.after.tiles
    assert (tiles.total, tiles.recomputed, tiles.carried, tiles.failed) == (25, 3, 22, 0)
    assert found.made == found.expected == {(1, 1), (1, 2), (1, 3)}
    assert found.linked == found.chunks - 3 * 5  # by inode: of every other tile all five layers
    assert 0.8 < found.after.bytes.saved_share < 22 / 25


def test_the_table_tells_each_outcome() -> None:
    now = datetime(2023, 11, 1, tzinfo=UTC)
    assert row(Day(now, 3, "", None)).startswith("| 2023-11-01 | 3 | - | killed |")
