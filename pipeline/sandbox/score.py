"""How well maps agree with a sandbox's truth, and whether they know how well."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from pipeline.sandbox.geo import transformer
from pipeline.spec.errors import BadRequest, DataTrouble
from pipeline.spec.layers import NO_QUALITY, quality_layer
from pipeline.spec.reliability import Reliability
from pipeline.spec.tasks import TASKS


@dataclass(frozen=True)
class Score:
    """Agreement of all maps of one task and month.

    Attributes:
        task: task key.
        month: ``YYYY-MM``, the last one of the maps' period.
        maps: number of files.
        pixels: pixels that have a value in map and truth.
        share: ``pixels`` over all pixels that have a value in the map.
        metrics: over these pixels; classes: ``accuracy``, ``f1`` (of cropland); values: ``r2``,
            ``rmse``, ``bias`` in the task's unit.
        right: of classes the share of the area (by ``quality.tif``; else of the mapped) that is
            mapped, and rightly: gaps count as wrong. NaN of values.
        unseen: the same without the pixels that hold a labelled point.
        confidence: whether ``confidence.tif`` means something, where the maps have one: classes:
            ``ece`` and the ``stated`` mean probability beside the accuracy; values: ``coverage``,
            the share within the 90 % interval, and the mean half-``width``.
        bins: of the reliability diagram of classes: stated probability, accuracy, pixels.
        quality: per class of ``quality.tif`` that occurs its ``share`` of these pixels and the
            metrics over them (of values also the coverage).
    """

    task: str
    month: str
    maps: int
    pixels: int
    share: float
    metrics: dict[str, float]
    right: float
    unseen: dict[str, float]
    confidence: dict[str, float]
    bins: list[tuple[float, float, int]]
    quality: dict[str, dict[str, float]]

    def __str__(self) -> str:
        def words(metrics: dict[str, float]) -> str:
            return ", ".join(f"{k} {v:.3f}" for k, v in metrics.items())

        lines = [f"{self.task} {self.month}: {words(self.metrics)} over {self.pixels} pixels "
                 f"({self.share:.1%} of the mapped); without labelled pixels {words(self.unseen)}"]
        if math.isfinite(self.right):
            lines.append(f"  right: {self.right:.1%} of the area, gaps counted as wrong")
        if self.confidence:
            lines.append(f"  confidence: {words(self.confidence)}")
        lines += [f"  {name}: {words(metrics)}" for name, metrics in self.quality.items()]
        return "\n".join(lines)


def score(maps: Path, sandbox: Path) -> list[Score]:
    """Agreement of every ``map.tif`` below a folder with the truth, by task and month.

    Args:
        maps: folder of maps; hidden folders in it are skipped.
        sandbox: folder that ``write`` made.

    Returns:
        One score per task and month, in order.

    Raises:
        BadRequest: no maps, or no truth there.
        DataTrouble: a map without the tags TASK and PERIOD, or of a month or zone without truth.
    """
    maps, truth = Path(maps), Path(sandbox) / "truth"
    if not truth.is_dir():
        raise BadRequest("no truth there", got=str(sandbox),
                         then=f"python -m pipeline.sandbox --out {sandbox} writes it")
    files = sorted(p for p in maps.rglob("map.tif")
                   if not any(part.startswith(".") for part in p.relative_to(maps).parts))
    if not files:
        raise BadRequest("no map.tif below that folder", got=str(maps))
    found: dict[tuple[str, str], list[tuple[np.ndarray, int]]] = {}
    for path in files:
        key, columns, gaps = _compare(path, truth)
        found.setdefault(key, []).append((columns, gaps))
    return [_score(*key, parts) for key, parts in sorted(found.items())]


def _compare(path: Path, truth: Path) -> tuple[tuple[str, str], np.ndarray, int]:
    """Task and month; [5, N] of the mapped pixels: map, truth, holds a labelled point, confidence,
    quality (both NaN where the map has no such file); and the area's gaps that have a truth."""
    with rasterio.open(path) as file:
        tags, codes, at, crs = file.tags(), file.read(1), file.transform, file.crs
        nodata, scale = file.nodata, file.scales[0]
    task, month = tags.get("TASK", ""), tags.get("PERIOD", "").rpartition(":")[2]
    if task not in TASKS or not month:
        raise DataTrouble("the map lacks the tags TASK and PERIOD", got=str(path))
    name = "cropland" if task == "cropland" else f"lfmc_{month}"
    source = truth / f"{name}_utm{crs.to_epsg() % 100:02d}n.tif"
    if not source.is_file():
        raise DataTrouble("there is no truth for this map", got=str(path),
                          allowed=", ".join(sorted(p.name for p in truth.glob("*.tif"))))
    mean = average_on(source, at, codes.shape)
    if TASKS[task].kind == "classification":
        mean = np.where(np.isnan(mean), np.nan, mean >= 0.5)
    mapped = codes != nodata
    seen = np.zeros(codes.shape, bool)
    seen[_labelled(truth / f"points_{task}.geojson", crs.to_epsg(), at, codes.shape)] = True
    beside = (_beside(path, name, mapped) for name in ("confidence", "quality"))
    columns = np.stack([codes[mapped] * scale, mean[mapped], seen[mapped], *beside])
    return (task, month), columns, int((_beside(path, "quality", ~mapped & np.isfinite(mean))
                                        == NO_QUALITY).sum())


def _beside(path: Path, name: str, where: np.ndarray) -> np.ndarray:
    """(N,) values of another layer of the same map at some pixels."""
    other = path.with_name(f"{name}.tif")
    if not other.is_file():
        return np.full(int(where.sum()), np.nan)
    with rasterio.open(other) as file:
        return file.read(1)[where] * file.scales[0]


def average_on(source: Path, at: Affine, shape: tuple[int, int]) -> np.ndarray:
    """Mean of the truth's pixels whose centres lie in each pixel of another grid of its CRS.

    Args:
        source: one-band file, north up.
        at: affine of the target grid, north up.
        shape: of the target grid.

    Returns:
        [Y, X] float64 in the file's unit; NaN where no pixel falls.
    """
    with rasterio.open(source) as file:
        value, fine = file.read(1), file.transform
        valid = value != file.nodata
    # lfmc is in tenths of a percent; classes are codes
    unit = TASKS["lfmc"].scale if source.name.startswith("lfmc") else 1.0
    rows = np.floor((fine.f + fine.e * (np.arange(value.shape[0]) + 0.5) - at.f) / at.e).astype(int)
    cols = np.floor((fine.c + fine.a * (np.arange(value.shape[1]) + 0.5) - at.c) / at.a).astype(int)
    inside = ((rows >= 0) & (rows < shape[0]))[:, None] & ((cols >= 0) & (cols < shape[1])) & valid
    cell = (rows[:, None] * shape[1] + cols)[inside]
    n = shape[0] * shape[1]
    total = np.bincount(cell, value[inside] * unit, n)
    count = np.bincount(cell, minlength=n)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).reshape(shape)


def _labelled(points: Path, epsg: int, at: Affine, shape: tuple[int, int]
              ) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels that hold a labelled point."""
    features = json.loads(points.read_text())["features"]
    lonlat = np.array([f["geometry"]["coordinates"] for f in features]).reshape(-1, 2)
    east, north = transformer(4326, epsg).transform(lonlat[:, 0], lonlat[:, 1])
    rows, cols = (north - at.f) // at.e, (east - at.c) // at.a
    inside = (rows >= 0) & (rows < shape[0]) & (cols >= 0) & (cols < shape[1])
    return rows[inside].astype(int), cols[inside].astype(int)


def _score(task: str, month: str, parts: list[tuple[np.ndarray, int]]) -> Score:
    columns = np.concatenate([part for part, _ in parts], axis=1)
    scored = np.isfinite(columns[1])
    share = float(scored.mean()) if scored.size else math.nan
    value, true, seen, sure, quality = columns[:, scored]
    classes = TASKS[task].kind == "classification"
    judge = _classes if classes else _values
    confidence: dict[str, float] = {}
    bins: list[tuple[float, float, int]] = []
    by_quality: dict[str, dict[str, float]] = {}
    if value.size and np.isfinite(sure).all():
        if classes:
            found = Reliability.of(sure / 100, value == true)
            confidence = {"ece": found.ece, "stated": float(sure.mean() / 100)}
            bins = [(float(c), float(a), int(n)) for c, a, n in
                    zip(found.confidence, found.accuracy, found.count, strict=True)]
        else:
            confidence = _coverage(value, true, sure)
    for c in quality_layer().classes:
        mine = quality == c.code
        if mine.any():
            by_quality[c.name] = {
                "share": float(mine.mean()), **judge(value[mine], true[mine]),
                **({} if classes else _coverage(value[mine], true[mine], sure[mine])),
            }
    area = value.size + sum(gaps for _, gaps in parts)
    right = float((value == true).sum() / area) if classes and area else math.nan
    return Score(task, month, len(parts), value.size, share, judge(value, true), right,
                 judge(value[seen == 0], true[seen == 0]), confidence, bins, by_quality)


def _coverage(value: np.ndarray, true: np.ndarray, width: np.ndarray) -> dict[str, float]:
    return {"coverage": float((np.abs(value - true) <= width).mean()),
            "width": float(width.mean())}


def _classes(value: np.ndarray, true: np.ndarray) -> dict[str, float]:
    if not value.size:
        return {"accuracy": math.nan, "f1": math.nan}
    hits = float(((value == 1) & (true == 1)).sum())
    either = float((value == 1).sum() + (true == 1).sum())
    return {"accuracy": float((value == true).mean()),
            "f1": 2 * hits / either if either else math.nan}


def _values(value: np.ndarray, true: np.ndarray) -> dict[str, float]:
    if not value.size:
        return {"r2": math.nan, "rmse": math.nan, "bias": math.nan}
    error = value - true
    spread = float(((true - true.mean()) ** 2).mean())
    mse = float((error**2).mean())
    return {"r2": 1 - mse / spread if spread else math.nan, "rmse": math.sqrt(mse),
            "bias": float(error.mean())}
