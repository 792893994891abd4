"""The page of one refresh: what changed and why, what was checked, and where the files are."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imsave

from pipeline.data.files import atomic_write_text
from pipeline.publish.mosaic import mosaic, picture_of
from pipeline.publish.sheets import MANIFEST
from pipeline.refresh import page
from pipeline.refresh.change import NONE, change_layers
from pipeline.refresh.page import Markup, element, table
from pipeline.refresh.product import CHANGE, Product, read_json
from pipeline.refresh.result import RefreshResult
from pipeline.refresh.versions import REPORT, report_of
from pipeline.spec.layers import layers_of
from pipeline.spec.timeline import parse_period

PAGE = "report.html"
_CHANGE_PX = 700  # longest side of the picture of the change
_BADGES = {"published": "good", "unchanged": "good", "refused": "bad", "failed": "bad"}


def write_report(folder: Path, result: RefreshResult) -> Path:
    """Write ``report.html``, which needs nothing but itself; returns its path.

    Args:
        folder: of the version, beside the versions before.
        result: of the refresh.

    Raises:
        BadRequest: it cannot be written.
        DataTrouble: the folder holds no finished map, or the disk fails.
    """
    product = Product.open(folder)
    change = read_json(folder / CHANGE)
    before = report_of(folder.parent / result.previous) if result.previous else {}
    title = f"{product.task.title}: {result.region}"
    parts = [
        *_head(product, result, title), *_figures(result),
        *_why(result), *_checks(result), *_shares(product, result, before),
        *_change(product, change), *_preview(folder, title),
        *_inputs(product, result), *_files(product), _foot(product, result),
    ]
    path = folder / PAGE
    atomic_write_text(path, page.page(f"{title}, {result.now[:10]}", parts))
    return path


def _head(product: Product, result: RefreshResult, title: str) -> Iterator[Markup]:
    yield element("h1", title)
    badges = [element("span", result.status, kind=f"badge {_BADGES[result.status]}"),
              element("span", result.tier, kind="badge good" if result.tier == "final"
                      else "badge warn")]
    yield element("p", *badges)
    if result.reason:
        yield element("p", result.reason[:1].upper() + result.reason[1:])
    yield element("p", f"Months {result.period.replace(':', ' to ')}, refreshed {_when(result.now)}"
                  f"{_data_age(product, result)}.", kind="lead")
    if result.tier == "provisional":
        yield element("p", "Provisional: scenes of this period may still arrive, and the map may "
                      "still change.", kind="lead")


def _figures(result: RefreshResult) -> Iterator[Markup]:
    tiles, moved = result.tiles, result.bytes
    shown: list[tuple[str, object, str]] = [
        ("Tiles recomputed", tiles.recomputed, f"of {tiles.total}"),
        ("Tiles carried over", tiles.carried, "bit-identical"),
        ("Tiles failed", tiles.failed, "none" if not tiles.failed else "no data there"),
        ("Bytes not read", f"{moved.saved_share:.1%}", f"{_size(moved.saved)} of about "
         f"{_size(moved.saved + moved.read)}"),
        ("Area mapped", f"{result.coverage:.1%}", "of the region"),
        ("Time taken", _duration(result.seconds), ""),
    ]
    yield page.cards(shown)


def _why(result: RefreshResult) -> Iterator[Markup]:
    if result.tiles.why:
        yield element("h2", "Why tiles were recomputed")
        why = result.tiles.why
        yield table(("reason", "tiles"),
                    [(name, why[name]) for name in sorted(why, key=lambda k: -why[k])], numbers=1)


def _checks(result: RefreshResult) -> Iterator[Markup]:
    if result.checks:
        yield element("h2", "Checks before publishing")
        yield table(("check", "", "found", "allowed"), [
            (c.name, element("span", "ok", kind="yes") if c.ok
             else element("span", "not ok", kind="no"), c.got, c.allowed)
            for c in result.checks])


def _shares(
    product: Product, result: RefreshResult, before: dict[str, Any]
) -> Iterator[Markup]:
    """Class shares, or the mean, now and in the version before."""
    earlier = before.get("class_shares") or {}
    colours = {c.name: c.colour for c in product.task.classes}
    if result.class_shares:
        yield element("h2", "Class shares")
        yield table(("class", "before", "now"), [
            (Markup((page.swatch(colours[name]).html if name in colours else "")
                    + page.text(name)),
             f"{earlier[name]:.2%}" if name in earlier else "–", f"{share:.2%}")
            for name, share in result.class_shares.items()], numbers=2)
    if result.mean is not None:
        old, unit = before.get("mean"), product.task.unit
        yield element("h2", "Mean of the map")
        yield table(("", "before", "now"), [
            (product.task.title, f"{old:.1f} {unit}" if isinstance(old, int | float) else "–",
             f"{result.mean:.1f} {unit}")], numbers=2)


def _change(product: Product, change: dict[str, Any]) -> Iterator[Markup]:
    if not change:
        return
    layer = change_layers(product.task)[0]
    yield element("h2", "What changed since the version before")
    line = (f"{change['changed_share']:.2%} of the {change['compared_ha']:,.0f} ha that both "
            f"versions map changed, {change['significant_share']:.2%} significantly "
            f"({change['rule']}).")
    if "mean_change" in change:
        line += (f" The mean changed by {change['mean_change']:+.2f} {change['unit']}, single "
                 f"pixels by {change['mean_absolute_change']:.2f} {change['unit']} on average.")
    yield element("p", line)
    kinds = change["kinds"]
    yield table(("", "pixels", "hectares"), [
        (Markup(page.swatch(c.colour).html + page.text(c.name)),
         f"{kinds[c.name]['px']:,}", f"{kinds[c.name]['ha']:,.1f}")
        for c in layer.classes], numbers=2)
    yield page.picture(_change_picture(product), "Map of the change",
                       "Change, in the colours of the table; white: not mapped in either version",
                       kind="pixels")


def _change_picture(product: Product) -> bytes:
    """PNG of the change of all sheets, every pixel one of the map's."""
    layer = change_layers(product.task)[0]
    paths = [folder / f"{layer.name}.tif" for folder in product.sheets.values()]
    codes = mosaic(paths, layer, picture_of(paths, _CHANGE_PX))
    table = np.full((256, 3), 255, np.uint8)
    for c in layer.classes:
        table[c.code] = c.colour
    table[NONE] = 255
    png = io.BytesIO()
    imsave(png, table[codes], format="png")
    return png.getvalue()


def _preview(folder: Path, title: str) -> Iterator[Markup]:
    path = folder / "preview.png"
    if path.is_file():
        yield element("h2", "The map")
        yield page.picture(path.read_bytes(), f"Preview of {title}",
                           "The map, how sure it is, what made it, and how far to trust it")


def _inputs(product: Product, result: RefreshResult) -> Iterator[Markup]:
    manifest = product.manifest
    yield element("h2", "Made from")
    pixels: dict[str, int] = {}
    for tile in manifest["tiles"]:
        for sensor, count in (tile.get("mapped_px") or {}).items():
            pixels[sensor] = pixels.get(sensor, 0) + count
    total = max(sum(pixels.values()), 1)
    keys = sorted({*result.items, *pixels})
    yield table(("sensor", "scenes", "share of the map"), [
        (key, result.items.get(key, "–"), f"{pixels[key] / total:.1%}" if key in pixels else "–")
        for key in keys], numbers=2)
    card = manifest.get("card", {})
    refused = [f"{key}: {why}" for key, why in (manifest.get("refused") or {}).items()]
    yield element("p", f"Sensor policy {result.sensor}, checkpoint {card.get('name', '')} "
                  f"({str(card.get('sha256', ''))[:12]}), catalogue "
                  f"{manifest['request'].get('catalog', '')}.", kind="lead")
    if refused:
        yield element("p", "Not used: " + "; ".join(refused), kind="lead")


def _files(product: Product) -> Iterator[Markup]:
    """Links to what lies in the folder."""
    rows = []
    titles = {layer.name: layer.title for layer in (*layers_of(product.task),
                                                    *change_layers(product.task))}
    for _, folder in sorted(product.sheets.items()):
        for key, title in titles.items():
            path = folder / f"{key}.tif"
            if path.is_file():
                rows.append((page.link(str(path.relative_to(product.folder))), title,
                             _size(path.stat().st_size)))
    yield element("h2", "Files")
    yield table(("file", "content", "size"), rows, numbers=1)
    records = [name for name in (REPORT, CHANGE, MANIFEST) if (product.folder / name).is_file()]
    yield element("p", "For machines: ", *(part for k, name in enumerate(records)
                                           for part in (", " if k else "", page.link(name))))


def _foot(product: Product, result: RefreshResult) -> Markup:
    versions = ", ".join(f"{k} {v}" for k, v in product.manifest.get("versions", {}).items())
    previous = f", before it {result.previous}" if result.previous else ", the first"
    return element("footer", f"Version {result.version}{previous}. {versions}")


def _data_age(product: Product, result: RefreshResult) -> str:
    """How old the newest month of the map is."""
    now = datetime.fromisoformat(result.now)
    end = parse_period(result.period, None, now).end
    days = (now.astimezone(UTC) - end).days
    return f", {days} days after the last of them ended" if days > 0 else ""


def _when(iso: str) -> str:
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%-d %B %Y, %H:%M UTC")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else (
        f"{rest} s")
