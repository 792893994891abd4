"""The three kinds of catalogue: a STAC API, a static catalogue on disk, a stac-geoparquet file.

Each gives plain item dictionaries with absolute, unsigned asset hrefs, and the items it had to
leave out with the reason. Which of them are wanted, ``search`` decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import stac_geoparquet.arrow
from shapely.geometry.base import BaseGeometry

from pipeline.data.api import from_api
from pipeline.data.hrefs import absolute, is_remote, is_url, scrubbed, shown
from pipeline.data.item_checks import MAX_ITEM
from pipeline.data.sources import REFUSED, collections_of
from pipeline.data.web import host_of, is_private, reason_of, trusted_hosts
from pipeline.spec.errors import BadRequest, DataTrouble
from pipeline.spec.timeline import Timeline

Record = dict[str, Any]
Found = tuple[list[Record], list[tuple[str, str]]]

MAX_PAGE = 1 << 26  # bytes of a page on disk
MAX_TABLE = 1 << 31  # bytes of a table of items, unpacked
ROWS = 64  # of such a table, unpacked at once


def from_folder(path: Path, collections: tuple[str, ...]) -> Found:
    """Items of the wanted collections of a static catalogue on disk, by its links.

    Plain JSON is read, not pystac objects: a catalogue of 2 000 items takes a second, not twenty.

    Raises:
        DataTrouble: the catalogue or a part of it is missing or not STAC.
    """
    root = path.resolve().parent
    skipped: list[tuple[str, str]] = []
    pages: list[tuple[Record, str, Path | None]] = []
    waiting, seen = [path.resolve()], set()
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        record = _read_json(page)
        kind = record.get("type")
        if kind == "Feature":
            if record.get("collection") in collections:
                pages.append((record, str(page), root))
            continue
        if kind not in ("Catalog", "Collection"):
            raise DataTrouble("not a STAC catalogue", got=f"{page}: type {kind!r}",
                              allowed="Catalog, Collection or Feature")
        if kind == "Collection" and record.get("id") not in collections:
            continue
        try:
            links = _links(record)
        except ValueError as error:
            raise DataTrouble("a page of the catalogue is not STAC",
                              got=f"{page}: {error}") from None
        for link in links:
            if link.get("rel") in ("child", "item"):
                try:
                    waiting.append(_local_page(str(link.get("href", "")), page, root))
                except ValueError as error:
                    name = str(link.get("title") or link.get("href"))
                    skipped.append((scrubbed(name), str(error)))
    found, refused = _with_hrefs(iter(pages), trusted_hosts(""))
    return found, skipped + refused


def from_parquet(path: Path, collections: tuple[str, ...]) -> Found:
    """Items of the wanted collections of a stac-geoparquet file.

    Raises:
        DataTrouble: not a readable stac-geoparquet file.
    """
    try:
        records = [_without_nulls(r) for batch in _batches(path, collections)
                   # drops the nulls that columns of other collections leave in its properties
                   for r in stac_geoparquet.arrow.stac_table_to_items(batch)]
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError,
            AttributeError) as error:
        raise DataTrouble("not a readable stac-geoparquet file",
                          got=f"{path}: {reason_of(error)}") from None
    return _with_hrefs(((record, str(path.resolve()), path.resolve().parent)
                        for record in records), trusted_hosts(""))


def _batches(path: Path, collections: tuple[str, ...]) -> Iterator[pa.Table]:
    """Rows of the wanted collections, a few at a time: a value that is stored once and repeated in
    every row says nothing of its size when the table is unpacked.

    Raises:
        ValueError: they unpack to more than items do.
    """
    file = pq.ParquetFile(path)
    groups = (file.metadata.row_group(k) for k in range(file.metadata.num_row_groups))
    if sum(group.total_byte_size for group in groups) > MAX_TABLE:
        raise ValueError(f"it unpacks to more than {MAX_TABLE} bytes")
    wanted, size = pa.array(collections), 0
    for batch in file.iter_batches(ROWS):
        table = pa.table([_unpacked(c) for c in batch.columns], names=batch.schema.names)
        size += table.nbytes
        if table.nbytes > ROWS * MAX_ITEM or size > MAX_TABLE:
            raise ValueError("its rows unpack to more than items have")
        yield table.filter(pc.is_in(table["collection"], wanted))


def _unpacked(column: pa.Array) -> pa.Array:
    """The column, each value in its own place, as reading it will make it."""
    inner = [column.type]
    while inner:
        kind = inner.pop()
        if pa.types.is_dictionary(kind) and kind is not column.type:
            raise ValueError("it has a dictionary inside a column")
        inner += [kind.field(k).type for k in range(kind.num_fields)]
    if not pa.types.is_dictionary(column.type):
        return column
    if column.dictionary.nbytes > MAX_ITEM:
        raise ValueError("its rows unpack to more than items have")
    return column.dictionary_decode()


def find(catalog: str, sensor: str, area: BaseGeometry, timeline: Timeline | None) -> Found:
    """Items of a sensor in a catalogue of any kind; ``catalog`` is a URL or a path.

    What a file holds is not yet narrowed to area and period, and holds refused collections, too.

    Raises:
        BadRequest: neither a URL nor an existing file.
        DataTrouble: the catalogue is down or not what it should be.
    """
    if is_url(catalog):
        records = from_api(catalog, sensor, area, timeline)
        return _with_hrefs(((record, catalog, None) for record in records), trusted_hosts(catalog))
    collections = collections_of(sensor) + tuple(c for key, c in REFUSED if key == sensor)
    path = Path(catalog)
    if not path.is_file():
        raise BadRequest(
            "no such catalogue", got=catalog,
            allowed="planetary-computer, earth-search, the URL of a STAC API, a catalog.json, "
            "or a stac-geoparquet file",
            then="try --catalog planetary-computer",
        )
    if path.suffix in (".parquet", ".geoparquet"):
        return from_parquet(path, collections)
    return from_folder(path, collections)


def _with_hrefs(
    pages: Iterator[tuple[Record, str, Path | None]], trusted: frozenset[str]
) -> Found:
    """Records with absolute asset hrefs; each comes with the base and root of ``absolute``.

    Args:
        pages: records.
        trusted: private hosts that the assets may lie on.
    """
    found: list[Record] = []
    skipped: list[tuple[str, str]] = []
    for record, base, root in pages:
        try:
            own = _self_link(record) or base
        except (ValueError, AttributeError) as error:
            skipped.append((name_of(record), f"not a valid item: {error}"))
            continue
        try:
            for asset in record["assets"].values():
                asset["href"] = absolute(asset["href"], own if root is None else base, root)
                host = host_of(asset["href"])
                if is_private(host) and host not in trusted:
                    raise ValueError(f"it lies on the private host {host}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            skipped.append((name_of(record), f"asset refused: {reason_of(error)}"))
            continue
        # other links would be followed by pystac; this one says where the item came from
        record["links"] = [{"rel": "self", "href": shown(own)}]
        found.append(record)
    return found, skipped


def name_of(record: Record) -> str:
    """An item's id, for messages."""
    name = str(record.get("id")) if isinstance(record, dict) else ""
    return name[:200] if name.isprintable() else repr(name)[:200]


def _self_link(record: Record) -> str:
    hrefs = [str(k.get("href", "")) for k in _links(record) if k.get("rel") == "self"]
    href = hrefs[0] if hrefs else ""
    return href if href.startswith(("http://", "https://")) else ""


def _links(record: Record) -> list[Record]:
    links = record.get("links", [])
    if not isinstance(links, list) or not all(isinstance(link, dict) for link in links):
        raise ValueError("its links are not a list of objects")
    return links


def _local_page(href: str, page: Path, root: Path) -> Path:
    if is_remote(href):
        raise ValueError(f"{shown(href)}: remote children of a local catalogue are not followed")
    return Path(absolute(href, str(page), root))


def _read_json(path: Path) -> Record:
    try:
        if path.stat().st_size > MAX_PAGE:
            raise DataTrouble("a page of the catalogue is too large", got=str(path),
                              allowed=f"{MAX_PAGE} bytes")
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise DataTrouble("a page of the catalogue is missing", got=f"{path}: {error.strerror}",
                          then="the catalogue is incomplete: write it again") from None
    except (ValueError, RecursionError) as error:
        raise DataTrouble("a page of the catalogue is not JSON", got=f"{path}: {error}") from None
    if not isinstance(record, dict):
        raise DataTrouble("a page of the catalogue is not STAC", got=str(path))
    return record


def _without_nulls(record: Record) -> Record:
    kept = {k: v for k, v in record["properties"].items() if v is not None or k == "datetime"}
    assets = {k: v for k, v in record["assets"].items() if v is not None}
    return record | {"properties": kept, "assets": assets}
