"""Benchmarks: labelled series in the formats that they are published in, one reader a format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.data.benchmarks import cropharvest, lfmc_csv, points, treesatai
from pipeline.data.benchmarks.benchmark import Benchmark, Spec
from pipeline.spec.errors import BadRequest

BENCHMARKS: dict[str, Spec] = {
    s.key: s for s in (*points.SPECS, *lfmc_csv.SPECS, *cropharvest.SPECS, *treesatai.SPECS)
}


def load_benchmark(
    key: str, folder: Path | None, sensors: Sequence[str] | None = None
) -> Benchmark:
    """Read a benchmark.

    Args:
        key: of ``BENCHMARKS``.
        folder: that holds what ``Spec.needs`` names; None = nowhere, which is refused with the
            words how to obtain it.
        sensors: keys; None = those of the benchmark.

    Raises:
        BadRequest: unknown key or sensor, or the data is not there.
        DataTrouble: a file is damaged or of another layout.
    """
    try:
        spec = BENCHMARKS[key]
    except KeyError:
        raise BadRequest("unknown benchmark", got=key, allowed=", ".join(BENCHMARKS)) from None
    known = (*spec.sensors, *spec.optional)
    wanted = tuple(sensors) if sensors else spec.sensors
    if unknown := [k for k in wanted if k not in known]:
        raise BadRequest(f"{key} has no such sensor", got=", ".join(unknown),
                         allowed=", ".join(known), then="change --sensors")
    where = folder if folder is not None else "no folder"
    if folder is None or (missing := [n for n in spec.needs if not (folder / n).exists()]):
        lacks = "" if folder is None else f", which lacks {', '.join(missing)}"
        raise BadRequest(f"the data of {key} is not there", got=f"{where}{lacks}",
                         then=f"{spec.obtain} Then name the folder with --data")
    found = spec.read(folder, spec.task, wanted)
    return Benchmark(spec.key, spec.title, spec.task, found.sets, found.region, found.official,
                     found.unlabelled, spec.obtain)
