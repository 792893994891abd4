"""What the figures of the suite are meant to reach, and whether they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from tests.benchmarks.reading import COMPOSITE, LOOK

WHOLE = 50  # tiles from which on what a run costs is its tiles' cost


class Goal(NamedTuple):
    """One figure: what it is, how it comes out of the results, and its bounds.

    Without any it is for information.
    """

    what: str
    of: tuple[str, ...]  # names of a figure, or of two whose quotient it is
    least: float | None = None
    most: float | None = None

    def met(self, value: float) -> bool:
        """Whether the figure is within the bounds."""
        return ((self.least is None or value >= self.least)
                and (self.most is None or value <= self.most))

    @property
    def wanted(self) -> str:
        """The bounds as text."""
        if self.least is None:
            return "" if self.most is None else f"<= {self.most:g}"
        return f">= {self.least:g}" if self.most is None else f"{self.least:g}..{self.most:g}"


def _variant(network: str, variant: str, figure: str) -> str:
    return f"network.networks.{network}.variants.{variant}.{figure}"


def _composite(sensor: str, row: str) -> str:
    return f"reading.sensors.{sensor}.rows.{row}.cpu"


GOALS = (
    Goal("exact: logits differ from model(x) by", (_variant("cropland", "exact", "difference"),),
         most=1e-4),
    Goal("exact: share of the best float32 kernel's rate", (_variant("paper", "exact", "of_peak"),),
         least=0.95),
    Goal("exact: of torch.mm's rate", (_variant("paper", "exact", "of_mm"),), least=0.95),
    Goal("exact: times plain, batches of 16 384", (_variant("paper", "exact", "of_naive"),),
         least=2.0),
    Goal("exact: times the authors' transform, ready tensors",
         (_variant("paper", "exact", "pixels_per_s"),
          _variant("paper", "authors, ready tensors", "pixels_per_s")), least=4.0),
    Goal("default: times exact", ("network.networks.paper.default_of_exact",), least=2.5),
    *(Goal(f"default: classes agree on held-out points, cropland {sensor}",
           (f"precision.points.cropland.{sensor}.agree",), least=0.998)
      for sensor in ("s1", "s2", "l8")),
    *(Goal(f"default: held-out score moves by, {name} {sensor}",
           (f"precision.points.{name}.{sensor}.moved_by",), most=0.001)
      for name, sensors in (("cropland", ("s1", "s2", "l8")), ("lfmc", ("s1", "l8")))
      for sensor in sensors),
    Goal("fast: predict stage, times plain", ("network.stage.fast",
         "network.stage.plain, batch 16384"), least=15.0),
    *(Goal(f"fast: the teacher's operations, times the student's, {name} {sensor}",
           tuple(f"network.students.{name}.{sensor}.{who}" for who in ("teacher", "student")),
           least=8.0)
      for name, sensors in (("cropland", ("s1", "s2", "l8")), ("lfmc", ("s1", "l8")))
      for sensor in sensors),
    *(Goal(f"GPU: share of the best product's rate, {name}",
           (f"gpu.gpu.networks.{name}.of_peak",), least=0.5) for name in ("paper", "cropland")),
    *(Goal(f"composite: times a bare look at the same memory, {sensor}",
           (_composite(sensor, COMPOSITE), _composite(sensor, LOOK))) for sensor in ("s1", "s2")),
    *(Goal(f"whole run: blocks decoded, times those that there are, {sensor}",
           (f"stages.runs.{sensor}.profile.stages.decode.bytes",
            f"stages.runs.{sensor}.alone.decode.bytes"), most=1.05) for sensor in ("s1", "s2")),
    *(Goal(f"whole run: peak memory, MiB, {sensor}",
           (f"stages.runs.{sensor}.profile.peak_memory_mib",), most=2560)
      for sensor in ("s1", "s2")),
    Goal("whole run: times its slowest stage, s1", ("stages.runs.s1.ratio",), most=1.25),
    Goal("whole run: times its slowest stage, s2", ("stages.runs.s2.ratio",), most=1.25),
    *(Goal(f"the usual way{name}: times ours, {sensor}",
           (f"peer.sensors.{sensor}.usual{name}.wall", f"peer.sensors.{sensor}.ours.wall"),
           least=3.0) for sensor in ("s1", "s2") for name in ("", ", tuned")),
    Goal("planning 9 000 tiles from 2 000 images, seconds", ("scale.planning.plan_s",), most=30),
    *(Goal(f"finding 2 000 images, seconds: {kind}", (f"scale.searching.{kind}_s",), most=30)
      for kind in ("api", "parquet")),
    Goal("a tile costs the store, hundred-thousandth of ten-thousandth",
         ("scale.simulated.99856.median_ms_per_tile",
          "scale.simulated.10000.median_ms_per_tile"), most=1.1),
    Goal("cluster: two workers of one", ("cluster.scaling.speed_up",), least=1.8),
    Goal("cluster: one of two killed, bit-identical", ("cluster.killed.bit_identical",), least=1.0),
)


def lines(found: Mapping[str, float]) -> Iterator[str]:
    """A line a goal, of figures by name."""
    yield f"{'goal':<64} {'figure':>10} {'wanted':>10}"
    for goal in (*GOALS, *_of_runs(found)):
        parts = [found.get(name) for name in goal.of]
        if any(p is None for p in parts):
            yield f"{goal.what:<64} {'-':>10}  not measured"
            continue
        first, *second = (float(p) for p in parts if p is not None)
        value = first / second[0] if second else first
        verdict = ("" if not goal.wanted else "met" if goal.met(value) else "MISSED")
        yield f"{goal.what:<64} {value:>10.4g} {goal.wanted:>10}  {verdict}".rstrip()


def _of_runs(found: Mapping[str, float]) -> Iterator[Goal]:
    """Goals of the real runs, whose names tell how many tiles there were."""
    runs = [name.split(".")[2] for name in found if name.startswith("scale.runs.")
            and name.endswith(".peak_mib")]
    for sensor in ("s1", "s2"):
        mine = sorted(int(run.split("-")[1]) for run in runs if run.startswith(f"{sensor}-"))
        for tiles in mine:
            yield Goal(f"peak memory, MiB: {sensor}, {tiles} tiles",
                       (f"scale.runs.{sensor}-{tiles}.peak_mib",), most=2560)
        for few, many in pairwise(n for n in mine if n >= WHOLE):
            yield Goal(f"time of a tile: {sensor}, {many} tiles of {few}",
                       tuple(f"scale.runs.{sensor}-{n}.ms_per_tile" for n in (many, few)),
                       least=0.9, most=1.1)
