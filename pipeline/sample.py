"""``python -m pipeline.sample``: series at your own labelled points, ready for training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from pipeline import cli
from pipeline.data.extract import extract, extract_places, read_points
from pipeline.data.files import writable_folder
from pipeline.data.hrefs import shown
from pipeline.data.items import ItemSet, freeze
from pipeline.data.place_columns import PREFIX
from pipeline.data.places import find_places
from pipeline.data.points import write_samples
from pipeline.data.search import search
from pipeline.prep.features import bands_needed
from pipeline.spec.errors import DataTrouble, NothingFound
from pipeline.spec.request import sensor_order
from pipeline.spec.sensors import SENSORS
from pipeline.spec.tasks import TASKS
from pipeline.spec.tasks import task as task_of


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Options of the command line."""
    p = cli.parser("python -m pipeline.sample", "Extract training series at labelled points.")
    p.add_argument("--points", required=True, metavar="FILE", help="GeoJSON or GeoPackage")
    p.add_argument("--label-column", required=True, metavar="NAME",
                   help="property with the class (code or name) or the value")
    p.add_argument("--group-column", metavar="NAME",
                   help="points of one group stay in one fold (default: group, else 0.1 degrees)")
    p.add_argument("--task", default="cropland", metavar="|".join(TASKS))
    p.add_argument("--sensors", default="auto", metavar="LIST",
                   help="s1,s2,l8 (default auto: all that the catalogue has)")
    p.add_argument("--period", metavar="YYYY-MM[:YYYY-MM]",
                   help="of all points; default: each point's own property 'period'")
    p.add_argument("--catalog", default="planetary-computer", metavar="C")
    p.add_argument("--licence", default="", help="of the labels; goes onto the card")
    p.add_argument("--out", required=True, metavar="DIR")
    return p.parse_args(argv)


def command(argv: Sequence[str]) -> int:
    """Carry out one command line; returns its exit code."""
    args = parse(argv)
    task, sensors = task_of(args.task), sensor_order(args.sensors) or tuple(SENSORS)
    points = read_points(args.points, args.label_column, task, args.period, args.group_column)
    if points.unlabelled:
        print(f"left out {points.unlabelled} points without a label", file=sys.stderr)
    out = writable_folder(Path(args.out).resolve())
    bands = {k: bands_needed(task.features[k], SENSORS[k].band_names) for k in sensors}
    items: dict[str, ItemSet] = {}
    for key in sensors:
        try:
            items[key] = _usable(search(args.catalog, key, points.area, points.span), bands[key])
        except NothingFound as error:
            print(f"left out {key}: {error}", file=sys.stderr)
    if not items:
        raise DataTrouble("no sensor has an acquisition at the points", got=shown(args.catalog),
                          then="try another --catalog or --period")
    layers, missing = find_places(args.catalog, task.static, points.area)
    for layer, why in missing.items():
        print(f"left out {layer}: {why}", file=sys.stderr)
    with tqdm(total=len(points.ids), desc="sampling", unit="point", disable=args.quiet) as bar:
        series = extract(points, task, items, bands, bar.update)
    place = extract_places(points, task, layers)
    frame = pd.DataFrame({
        "sample_id": points.ids, "lon": points.lon, "lat": points.lat, "group": points.group,
        args.label_column: points.target, **{PREFIX + k: v for k, v in place.items()},
    })
    months = np.array([t.months for t in points.timelines])
    write_samples(
        out, frame, months, {k: v[0] for k, v in series.items()}, task=task, name=out.name,
        licence=args.licence or "not stated", label_column=args.label_column,
        bands={k: bands[k] for k in items},
        radiometry={k: _radiometry(found) for k, found in items.items()},
    )
    for key, found in {**items, **layers}.items():
        freeze(out / "items" / f"{key}.json", found)
    report = {
        "out": str(args.out), "points": len(points.ids),
        "unlabelled": points.unlabelled,
        "valid_share": {k: round(float(v[1].mean()), 4) for k, v in series.items()},
        "place": {k: round(float(np.isfinite(v).mean()), 4) for k, v in place.items()},
    }
    if args.json:
        cli.emit(report)
    else:
        shares = ", ".join(f"{k} {v:.0%}" for k, v in report["valid_share"].items())  # type: ignore[attr-defined]
        print(f"samples  {args.out}\npoints   {len(points.ids)} (steps with data: {shares})")
    return 0


def _usable(items: ItemSet, bands: Sequence[str]) -> ItemSet:
    """The items that a map would be made from: those that have the bands of the task's features.

    Raises:
        NothingFound: none has.
    """
    usable = items.usable(bands)
    if not usable.items:
        name, why = usable.skipped[-1]
        raise NothingFound(f"no {items.sensor} image has the bands that the task needs",
                           got=f"{name}: {why}")
    return usable


def _radiometry(items: ItemSet) -> str:
    """What the pixel values of a search mean: one thing, or training would mix two.

    Raises:
        DataTrouble: the catalogue mixes archives of different radiometry.
    """
    kinds = sorted({source.radiometry for source in items.sources})
    if len(kinds) != 1:
        raise DataTrouble(f"the {items.sensor} images found differ in radiometry",
                          got=", ".join(kinds), then="sample from one archive at a time")
    return kinds[0]


if __name__ == "__main__":
    sys.exit(cli.run(command))
