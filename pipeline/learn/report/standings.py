"""Who is ahead: means over the folds, and every row against a reference in the same folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pipeline.learn.fit import FUSED
from pipeline.learn.recipe import STOPPING, TREES, Row
from pipeline.learn.report.permutation import Places
from pipeline.learn.report.scoring import encoder_of
from pipeline.learn.report.significance import Comparison, compare


@dataclass(frozen=True)
class Standings:
    """Scores of one benchmark under one protocol.

    Attributes:
        frame: as ``scoring.tidy`` gives it.
        rows: of the tables, in order, those without a score included.
        metric: by which rows are compared.
        sensors: columns of the tables.
        test_share: test samples for each training sample (``significance.compare``).
        given: the folds are the same with every seed: seeds are averaged before rows are
            compared, or one region would count as several.
        places: predictions for the permutation test; None = it is left out.
    """

    frame: pd.DataFrame
    rows: tuple[Row, ...]
    metric: str
    sensors: tuple[str, ...]
    test_share: float
    given: bool = False
    places: Places | None = None

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of the training samples, ascending."""
        return tuple(sorted(self.frame["share"].unique().tolist())) or (1.0,)

    @property
    def fused(self) -> bool:
        """Whether a row predicts from all sensors together."""
        return bool((self.frame.sensor == FUSED).any())

    def folds(
        self, row: Row, sensor: str, metric: str | None = None, share: float | None = None
    ) -> pd.Series:
        """Value in each fold by (seed, fold); a pooled measure by (seed, missing)."""
        f = self.frame
        mine = f[(f.method == row.method) & (f.switches == "+".join(row.switches))
                 & (f.encoder == encoder_of(row)) & (f.sensor == sensor)
                 & (f.metric == (metric or self.metric))
                 & (f["share"] == (self.shares[-1] if share is None else share))]
        return mine.set_index(["seed", "fold"]).value.sort_index()

    def mean(
        self, row: Row, sensor: str, metric: str | None = None, share: float | None = None
    ) -> tuple[float, float]:
        """Mean and standard deviation over the folds; NaN where there is no score."""
        values = self.folds(row, sensor, metric, share).to_numpy(float)
        if values.size == 0:
            return float("nan"), float("nan")
        return float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else 0.0

    def reference(self, row: Row, against: str) -> Row | None:
        """What a row is compared with.

        Args:
            row: of the table.
            against: text of the reference, e.g. ``individual``.

        Returns:
            The reference with as many of the row's own switches as the table has, so that inputs
            and budget are the same and the method alone differs (of several the one that was
            stopped alike); for a row of the reference's own method, of which a switch differs, all
            of them or none; None where there is none, or the row is the reference itself.
        """
        method, *plain = against.split("+")
        others = [r for r in self.rows if r.method == method
                  and (r.encoder == row.encoder or {r.method, row.method} & {*TREES})
                  and (r.text, r.encoder) != (row.text, row.encoder)]
        own = {*plain, *row.switches}
        fitting = [r for r in others if {*plain} <= {*r.switches} <= own]
        if row.method == method:
            fitting = [r for r in fitting if {*r.switches} in ({*plain}, own)]
        return max(fitting, default=None,
                   key=lambda r: (len(r.switches), len({*r.switches} & {*STOPPING})))

    def against(self, row: Row, reference: Row, sensor: str) -> Comparison:
        """A row against a reference, over the folds in which both have a score.

        A reference that predicts from nothing but ``all`` stands for every sensor.
        """
        theirs, values = sensor, self.folds(reference, sensor)
        if values.empty:
            theirs, values = FUSED, self.folds(reference, FUSED)
        both = pd.concat([self.folds(row, sensor), values], axis=1, join="inner")
        if self.given:
            both = both.groupby("fold").mean()
        mine, other = both.to_numpy(float).T
        found = compare(mine, other, self.test_share)
        if self.places is None or not found.folds:
            return found
        return replace(found, p_places=self.places.p(row, sensor, reference, theirs,
                                                     self.shares[-1]))

    def comparisons(self, against: Sequence[str]) -> pd.DataFrame:
        """Every row against every reference, per sensor, tidy."""
        lines = []
        for name in against:
            for row in self.rows:
                other = self.reference(row, name)
                for sensor in (*self.sensors, FUSED) if other is not None else ():
                    assert other is not None
                    c = self.against(row, other, sensor)
                    if c.folds:
                        lines.append({
                            "method": row.method, "switches": "+".join(row.switches),
                            "encoder": encoder_of(row), "against": other.text, "sensor": sensor,
                            "metric": self.metric, "difference": c.difference, "p_t": c.p_t,
                            "p_wilcoxon": c.p_wilcoxon, "p_places": c.p_places, "wins": c.wins,
                            "folds": c.folds,
                        })
        return pd.DataFrame(lines, columns=["method", "switches", "encoder", "against", "sensor",
                                            "metric", "difference", "p_t", "p_wilcoxon",
                                            "p_places", "wins", "folds"])

    def ranked(self, sensor: str) -> tuple[float, float]:
        """Best and second-best mean of a sensor, as printed (three decimals); NaN if none."""
        means = {round(m, 3) for row in self.rows if np.isfinite(m := self.mean(row, sensor)[0])}
        best = [*sorted(means, reverse=True), float("nan"), float("nan")]
        return best[0], best[1]
