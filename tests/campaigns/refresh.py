"""A month in the life of a schedule: ``python -m tests.campaigns.refresh --days 30``.

Every day at three the map is refreshed. Scenes come in as they are taken, some cover a part of the
region, some are reprocessed, one is withdrawn; the catalogue is broken on two days, and the
process is killed (SIGKILL) on three. At the end the map is made once more from nothing: it must be
the same, bit for bit. With ``--real DIR`` an archive of real scenes is replayed month by month.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import rasterio

from pipeline import sandbox
from pipeline.mapping import make_map
from pipeline.refresh.job import jobs_of, read_schedule
from pipeline.refresh.result import RefreshResult
from pipeline.refresh.rounds import run_round
from pipeline.refresh.run import plan_refresh
from pipeline.spec.layers import layers_of
from pipeline.spec.timeline import Timeline, parse_month, parse_period
from tests.support.archive import Archive, names
from tests.support.toy import save_untrained

REGION = "field"


@dataclass(frozen=True)
class Day:
    """What happened on one day: what the archive did, and what the refresh."""

    now: datetime
    scenes: int
    event: str
    result: RefreshResult | None  # None: killed


@dataclass(frozen=True)
class Campaign:
    """What is replayed.

    Attributes:
        work: folder of schedule, checkpoint and maps.
        archive: whose days they are.
        days: times of the refreshes.
        broken: of these, days (from 0) without a catalogue.
        kills: the refresh is killed on the first day from each of these on that has work to do.
    """

    work: Path
    archive: Archive
    days: Sequence[datetime]
    broken: frozenset[int] = frozenset()
    kills: tuple[int, ...] = ()

    @property
    def schedule(self) -> Path:
        return self.work / "schedule.toml"

    @property
    def shelf(self) -> Path:
        return self.work / "root" / REGION / "cropland"

    def write_schedule(self, aoi: str, checkpoint: str, sensor: str, tile_px: int,
                       period: str = "rolling") -> None:
        """The schedule that all days follow."""
        self.work.mkdir(parents=True, exist_ok=True)
        self.schedule.write_text(f"""root = "root"
catalog = "{self.archive.folder / 'today.json'}"
[regions.{REGION}]
aoi = "{aoi}"
tasks = ["cropland"]
[tasks.cropland]
sensor = "{sensor}"
period = "{period}"
checkpoint = "{checkpoint}"
tile_px = {tile_px}
[bounds]
coverage_drop = 0.3
class_drift = 0.5
[retention]
versions = 3
finals = 3
""")

    def run(self, told: Callable[[Day], None] = lambda day: None) -> list[Day]:
        """All days, one after the other."""
        found: list[Day] = []
        there: set[str] = set()
        killed = 0
        for k, now in enumerate(self.days):
            broken = k in self.broken
            self.archive.view(now, broken)
            listed = names(self.archive.there(now))
            came, went, there = listed - there, there - listed, listed
            event = ", ".join(filter(None, [
                f"+{len(came)}" if came else "", f"-{len(went)}" if went else "",
                "catalogue broken" if broken else "",
                "after a kill" if found and found[-1].result is None else ""]))
            due = killed < len(self.kills) and k >= self.kills[killed] and not broken
            if due and any(plan.changed for job in self.jobs() for plan in plan_refresh(job, now)):
                stage = self._killed(now, killed)
                killed += 1
                news = [Day(now, len(listed), f"{event}; killed {stage}", None)]
            else:
                period = next((d.result.period for d in reversed(found)
                               if d.result and d.result.period), "")
                news = [Day(now, len(listed), event if not period or r.period in (period, "") else
                            f"{event}, another month".lstrip(", "), r)
                        for r in run_round(self.jobs(), now, progress=False, every=True)]
            for day in news:
                told(day)
            found += news
        return found

    def jobs(self) -> list:
        return jobs_of(read_schedule(self.schedule), self.work)

    def _killed(self, now: datetime, turn: int) -> str:
        """Start a refresh in a process of its own and kill it at one of three moments."""
        before = self._lines()
        moments: list[tuple[str, Callable[[], bool]]] = [
            ("after a tile", lambda: any(p.stat().st_size for p in self.shelf.glob(
                "versions/.staging-*/.run/tiles.jsonl"))),
            ("when verified", lambda: any(self.shelf.glob("versions/.staging-*/report.json"))),
            ("in its promotion", lambda: self._lines() > before),
        ]
        name, reached = moments[turn % 3]
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.refresh", "--config", str(self.schedule), "--quiet",
             "--all", "--now", now.isoformat()], stdout=subprocess.DEVNULL)
        while process.poll() is None and not reached():
            time.sleep(0.002)
        ended = process.poll() is not None
        process.kill()
        process.wait()
        return f"{name} (had ended)" if ended else name

    def _lines(self) -> int:
        try:
            return (self.shelf / "history.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0


def differing(campaign: Campaign, scratch: Path) -> list[str]:
    """Layers in which the published map and one made from nothing differ; empty when none do."""
    (job,) = campaign.jobs()
    shown = campaign.shelf / "current"
    told = json.loads((shown / "manifest.json").read_text())
    timeline = parse_period(told["request"]["period"], None)
    manifest = make_map(job.request(timeline, scratch), progress=False)
    wrong = []
    for name in manifest.files:
        if name.endswith(".tif"):
            with rasterio.open(scratch / name) as a, rasterio.open(shown / name) as b:
                if a.profile != b.profile or not np.array_equal(a.read(), b.read()):
                    wrong.append(name)
    assert len([n for n in manifest.files if n.endswith(".tif")]) >= len(layers_of(job.task))
    return wrong


def prepare(work: Path, archive: Archive, start: datetime, days: int) -> Campaign:
    """The simulated month: which scenes are parts, come again, or go."""
    when = [start + timedelta(days=k) for k in range(days)]
    fresh = [e for e in archive.entries.values()
             if when[0] < e.comes <= when[-1] and not e.again]
    for k, entry in enumerate(sorted(fresh, key=lambda e: e.comes)):
        if k % 3:  # a swath's edge crosses the region
            archive.crop(entry.id, ((0, 0.35), (0.6, 1))[k % 2])
    known = [e for e in archive.entries.values() if e.comes <= when[0] and not e.again]
    again = [e for e in archive.entries.values()
             if e.again and when[0] - timedelta(days=300) < e.seen < when[0]]
    for k, entry in enumerate(again[-3:]):
        archive.comes(entry.id, when[(2 * k + 1) * days // 7])
    seen = sorted((e for e in known if e.collection == "sentinel-2-l2a"), key=lambda e: e.seen)
    archive.goes(seen[-3].id, when[days * 3 // 5])
    broken = frozenset({days // 3, days // 3 + 1})
    return Campaign(work, archive, when, broken, (days // 10, days // 2, days * 2 // 3))


def row(day: Day) -> str:
    """A day as a line of the table."""
    head = f"| {day.now:%Y-%m-%d} | {day.scenes} | {day.event or '-'} |"
    if day.result is None:
        return f"{head} killed | - | - | - | - |"
    r, t = day.result, day.result.tiles
    if r.status == "failed":
        return f"{head} failed ({r.exit_code}) | - | - | - | {r.reason[:50]} |"
    return (f"{head} {r.status}, {r.tier} | {t.recomputed} | {t.carried} | "
            f"{r.bytes.saved_share:.0%} | {r.reason[:70]} |")


HEAD = ("| day | scenes | archive | refresh | tiles made | carried | bytes saved | why |\n"
        "|---|---|---|---|---|---|---|---|")


def summary(days: Sequence[Day]) -> str:
    """The campaign in a few lines."""
    done = [d.result for d in days if d.result and d.result.status in ("published", "unchanged")]
    quiet = [d.result for d in days if d.result in done and d.result and not d.event]
    read, saved = sum(r.bytes.read for r in done), sum(r.bytes.saved for r in done)
    share = [r.bytes.saved_share for r in quiet]
    return "\n".join([
        f"refreshes {len(days)}: {sum(r.status == 'published' for r in done)} published, "
        f"{sum(r.status == 'unchanged' for r in done)} unchanged, "
        f"{sum(d.result is None for d in days)} killed, "
        f"{sum(d.result is not None and d.result.status == 'failed' for d in days)} failed",
        f"quiet days {len(quiet)}: {min(share, default=1):.0%} of the bytes saved at least",
        f"all days: {saved / max(read + saved, 1):.0%} of the bytes of full recomputes saved",
    ])


def real(work: Path, source: Path, checkpoint: str, daily: str) -> Campaign:
    """The real archive of 2018, refreshed on the 21st of every month: the period before is final
    then, and the next is begun. Or every day of the month that ``daily`` (``YYYY-MM``) is mapped
    to, from the 11th on, when the month before is final."""
    shutil.copytree(source, work / "archive", dirs_exist_ok=True)
    archive = Archive(work / "archive")
    when = [datetime(2018, month, 21, 3, tzinfo=UTC) for month in range(1, 13)]
    if daily:
        first = Timeline(parse_month(daily), 1).start + timedelta(days=11, hours=3)
        when = [first + timedelta(days=k) for k in range(28)]
    campaign = Campaign(work, archive, when)
    campaign.write_schedule(str(work / "archive" / "aoi.geojson"), checkpoint, "auto", 32)
    return campaign


def simulated(work: Path, days: int) -> Campaign:
    """The simulated region: two by one kilometres on both sides of a zone's border."""
    params = replace(sandbox.SandboxParams.demo(), width_km=1.9, height_km=1.3, s2_days=12,
                     l8_days=32, grain_m=300.0, cropland_points=200, lfmc_sites=12, s1_gap=0,
                     s2_gap=0)
    if not (work / "archive").exists():
        sandbox.write(work / "archive", params)
    if not (work / "checkpoint").exists():
        save_untrained(work / "checkpoint", "cropland")
    archive = Archive(work / "archive")
    campaign = prepare(work, archive, datetime(2023, 9, 28, 3, tzinfo=UTC), days)
    west, south, east, north = params.bounds
    dx, dy = (east - west) * 0.06, (north - south) * 0.06
    aoi = f"{west + dx:.5f},{south + dy:.5f},{east - dx:.5f},{north - dy:.5f}"
    campaign.write_schedule(aoi, str(work / "checkpoint"), "s2,s1", 48)
    return campaign


def main(argv: Sequence[str] | None = None) -> int:
    """Run a campaign, print its table; 0 when the last map is the one made from nothing."""
    p = argparse.ArgumentParser(prog="python -m tests.campaigns.refresh", description=__doc__)
    p.add_argument("--days", type=int, default=30)
    p.add_argument("--work", type=Path, default=Path("build/refresh-campaign"),
                   help="folder, emptied first")
    p.add_argument("--real", type=Path, metavar="DIR", help="a folder such as "
                   "../shared/data/scenes/flanders_2018")
    p.add_argument("--daily", default="", metavar="YYYY-MM", help="with --real: every day of that "
                   "month's map, not month by month")
    p.add_argument("--checkpoint", default="cropland", help="with --real")
    args = p.parse_args(argv)
    shutil.rmtree(args.work, ignore_errors=True)
    work = args.work.resolve()
    campaign = (real(work, args.real, args.checkpoint, args.daily) if args.real
                else simulated(work, args.days))
    print(HEAD)
    days = campaign.run(lambda day: print(row(day), flush=True))
    wrong = differing(campaign, work / "scratch")
    print(f"\n{summary(days)}\nthe last map made from nothing: "
          f"{'differs in ' + ', '.join(wrong) if wrong else 'the same, bit for bit'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
