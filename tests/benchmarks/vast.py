"""A region of a thousand tiles on a little disk: files whose blocks all point at the same four.

A reader does not know: every block has a place of its own in the image, is read and decoded on its
own, and takes its memory.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine

from tests.benchmarks.region import SENSORS, area_of, on_grid, rewritten

SIDE = 16_384  # pixels of 10 m: 32 x 32 tiles of 512
_KINDS = {1: "B", 2: "s", 3: "H", 4: "I", 12: "d", 16: "Q"}  # types of values in a TIFF
_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 322, 323
_OFFSETS, _SIZES = 324, 325
_SUBFILE = 254


def make(region: Path, side: int = SIDE) -> Path:
    """Write the vast region beside a region of ``tests.benchmarks.region``, or find it there.

    One image a month and sensor, of ``side`` x ``side`` pixels of 10 m; some 300 MB.
    """
    out = region.parent / f"{region.name}-vast{side}"
    if (out / "catalog.json").exists():
        return out
    for name in SENSORS:
        months: dict[str, Path] = {}
        for page in sorted((region / name).glob("*/*.json")):
            months.setdefault(json.loads(page.read_text())["properties"]["datetime"][:7], page)
        item = rewritten(region / name, out / name, list(months.values()),
                         lambda page, source, to: _enlarged(page, source, to, side))
    (out / "aoi.geojson").write_text(json.dumps(area_of(item)))
    (out / "catalog.json").write_text((region / "catalog.json").read_text())
    return out


def _enlarged(item: dict[str, Any], source: Path, out: Path, side: int) -> dict[str, Any]:
    folder = out / item["id"]
    folder.mkdir(parents=True, exist_ok=True)
    for asset in item["assets"].values():
        with rasterio.open(source / asset["href"]) as file:
            transform, crs = file.transform, file.crs
        pixels = round(side * 10 / transform.a)
        enlarge(source / asset["href"], folder / asset["href"], pixels)
        asset |= {"proj:shape": [pixels, pixels], "proj:transform": list(transform)[:6]}
        asset.pop("proj:bbox", None)
    return on_grid(item, (pixels, pixels), Affine(*transform[:6]), crs.to_string(), folder)


def enlarge(source: Path, to: Path, side: int) -> None:
    """Write a tiled TIFF of ``side`` x ``side`` pixels that repeats the first two by two blocks of
    another one (little-endian, not BigTIFF)."""
    content = source.read_bytes()
    tags = _tags(content)
    high, wide = (int(tags[t][1][0]) for t in (_TILE_HEIGHT, _TILE_WIDTH))
    across = -(-int(tags[_WIDTH][1][0]) // wide)
    first = [0, 1, across, across + 1]
    blocks = [content[tags[_OFFSETS][1][k] :][: tags[_SIZES][1][k]] for k in first]
    starts = np.cumsum([8, *(len(b) for b in blocks)])
    rows, cols = np.indices((-(-side // high), -(-side // wide)))
    which = (rows % 2 * 2 + cols % 2).ravel()
    new = {k: v for k, v in tags.items() if k != _SUBFILE} | {
        _WIDTH: (4, (side,)), _HEIGHT: (4, (side,)),
        _OFFSETS: (4, tuple(int(starts[k]) for k in which)),
        _SIZES: (4, tuple(len(blocks[k]) for k in which))}
    directory = int(starts[-1]) + int(starts[-1]) % 2
    body = b"".join(blocks).ljust(directory - 8, b"\0")
    to.write_bytes(struct.pack("<2sHI", b"II", 42, directory) + body + _directory(new, directory))


def _tags(content: bytes) -> dict[int, tuple[int, tuple]]:
    """Tag -> type and values of the first directory."""
    mark, version, at = struct.unpack_from("<2sHI", content)
    assert (mark, version) == (b"II", 42), "a little-endian TIFF of less than 4 GB"
    found = {}
    for k in range(struct.unpack_from("<H", content, at)[0]):
        entry = at + 2 + 12 * k
        tag, kind, count = struct.unpack_from("<HHI", content, entry)
        form = _form(kind, count)
        where = entry + 8 if struct.calcsize(form) <= 4 else struct.unpack_from(
            "<I", content, entry + 8)[0]
        found[tag] = (kind, struct.unpack_from(form, content, where))
    return found


def _form(kind: int, count: int) -> str:
    return f"<{count}{_KINDS[kind]}"


def _directory(tags: dict[int, tuple[int, tuple]], at: int) -> bytes:
    """A directory that lies ``at`` that byte, and the values that follow it."""
    entries, values = b"", b""
    behind = at + 2 + 12 * len(tags) + 4
    for tag, (kind, found) in sorted(tags.items()):
        count = len(found[0]) if kind == 2 else len(found)
        packed = struct.pack(_form(kind, count), *found)
        entries += struct.pack("<HHI", tag, kind, count)
        if len(packed) <= 4:
            entries += packed.ljust(4, b"\0")
        else:
            entries += struct.pack("<I", behind + len(values))
            values += packed + bytes(len(packed) % 2)
    return struct.pack("<H", len(tags)) + entries + bytes(4) + values
