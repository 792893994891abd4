"""Is a new version fit to be published? Its files are asked, not what the run believes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from pipeline.mapping import MapPlan
from pipeline.publish.cog import verify_cog
from pipeline.refresh.result import Check, RefreshResult
from pipeline.spec.errors import DataTrouble
from pipeline.spec.layers import layers_of
from pipeline.spec.manifest import RunManifest
from pipeline.spec.schedule import Bounds
from pipeline.spec.tasks import Task

_WINDOW = 2048  # pixels of a map looked at together


@dataclass(frozen=True)
class Content:
    """What a map says as a whole.

    Attributes:
        class_shares: class -> share of the mapped pixels; empty for a continuous map.
        mean: of the mapped pixels in the task's unit; None for classes, or of nothing.
    """

    class_shares: Mapping[str, float]
    mean: float | None


def sheet_folders(out: Path, made: MapPlan) -> dict[str, Path]:
    """Where each sheet's files lie (``publish.sheets``)."""
    alone = len(made.sheets) == 1
    return {s.name: out if alone else out / s.name for s in made.sheets}


def content_of(folders: Sequence[Path], task: Task) -> Content:
    """Class shares or mean of a map, window by window, over all of its sheets."""
    counts, total, n = np.zeros(1 << 16, np.int64), 0.0, 0
    for folder in folders:
        with rasterio.open(folder / "map.tif") as cog:
            for block in _blocks(cog):
                if task.classes:
                    counts += np.bincount(block.ravel(), minlength=counts.size)
                else:
                    values = block[block != task.nodata]
                    total, n = total + float(values.sum(dtype=np.float64)), n + values.size
    if not task.classes:
        return Content({}, total * task.scale / n if n else None)
    mapped = sum(int(counts[c.code]) for c in task.classes)
    return Content({c.name: int(counts[c.code]) / max(mapped, 1) for c in task.classes}, None)


def _blocks(cog: rasterio.DatasetReader) -> Iterator[np.ndarray]:
    for row in range(0, cog.height, _WINDOW):
        for col in range(0, cog.width, _WINDOW):
            rows, cols = (row, min(row + _WINDOW, cog.height)), (col, min(col + _WINDOW, cog.width))
            yield cog.read(1, window=(rows, cols))


def verify(
    out: Path, made: MapPlan, manifest: RunManifest, content: Content, before: RefreshResult | None,
    old: Path | None, bounds: Bounds, explained: Sequence[str],
) -> tuple[Check, ...]:
    """Check a finished version.

    Args:
        out: its folder.
        made: the plan it was made from.
        manifest: what was done.
        content: of the new map.
        before: what is published; None before the first version.
        old: folder of that.
        bounds: of the schedule.
        explained: what changed for the whole map (a new checkpoint, another period), which a
            drift of its content may come from.
    """
    return (
        _tiles(made, manifest, bounds), _files(out, made), _grid(out, made, old, explained),
        _coverage(manifest, before, bounds), _drift(content, before, bounds, explained),
    )


def _tiles(made: MapPlan, manifest: RunManifest, bounds: Bounds) -> Check:
    wanted, got = {row.key for row in made.rows}, {t.key for t in manifest.tiles}
    failed = len(manifest.failed)
    first = f", the first {manifest.failed[0].key}: {manifest.failed[0].reason}" if failed else ""
    return Check("tiles", got == wanted and failed <= bounds.failed_tiles,
                 f"{len(got & wanted)} of {len(wanted)} accounted for, {failed} failed{first}",
                 f"all, at most {bounds.failed_tiles} failed")


def _files(out: Path, made: MapPlan) -> Check:
    """Every layer of every sheet is a whole COG on its grid; the same check as of ``publish``."""
    folders, layers = sheet_folders(out, made), layers_of(made.request.task)
    try:
        for sheet in made.sheets:
            for layer in layers:
                verify_cog(folders[sheet.name] / f"{layer.name}.tif", sheet.geobox, layer, {})
    except DataTrouble as error:
        return Check("files", False, str(error), "valid COGs")
    return Check("files", True, f"{len(folders) * len(layers)} valid COGs", "valid COGs")


def _grid(out: Path, made: MapPlan, old: Path | None, explained: Sequence[str]) -> Check:
    allowed = "as before, unless the area is another"
    if old is None:
        return Check("grid", True, "the first version", allowed)
    moved = []
    for name, folder in sheet_folders(out, made).items():
        was = old / folder.relative_to(out) / "map.tif"
        try:
            with rasterio.open(folder / "map.tif") as a, rasterio.open(was) as b:
                if (a.crs, a.transform, a.shape, a.dtypes) != (b.crs, b.transform, b.shape,
                                                               b.dtypes):
                    moved.append(name)
        except RasterioError:
            moved.append(name)
    if not moved:
        return Check("grid", True, "as before", allowed)
    return Check("grid", "another area" in explained, f"other in {', '.join(moved)}", allowed)


def _coverage(manifest: RunManifest, before: RefreshResult | None, bounds: Bounds) -> Check:
    share = manifest.mapped_share
    if before is None:
        return Check("coverage", True, f"{share:.1%}, the first version", "any")
    least = before.coverage - bounds.coverage_drop
    return Check("coverage", share >= least, f"{share:.1%}, {before.coverage:.1%} before",
                 f"at least {max(least, 0):.1%}")


def _drift(
    content: Content, before: RefreshResult | None, bounds: Bounds, explained: Sequence[str]
) -> Check:
    if before is None:
        return Check("content", True, "the first version", "any")
    if content.class_shares:
        moves = {k: share - before.class_shares.get(k, 0.0)
                 for k, share in content.class_shares.items()}
        name, move = max(moves.items(), key=lambda pair: abs(pair[1]))
        fits, bound = abs(move) <= bounds.class_drift, bounds.class_drift
        got = f"{name} {content.class_shares[name]:.1%}, {move:+.1%}"
    else:
        now, was = content.mean or 0.0, before.mean or 0.0
        change = (now - was) / was if was else 0.0
        fits, bound = abs(change) <= bounds.mean_drift, bounds.mean_drift
        got = f"mean {now:.4g}, {change:+.1%}"
    if not fits and explained:
        return Check("content", True, f"{got}: explained by {', '.join(explained)}",
                     f"a change of {bound:.1%}, or an explained one")
    return Check("content", fits, got, f"a change of {bound:.1%}, or an explained one")
