"""The three kinds of catalogue: a STAC API, a static catalogue on disk, a stac-geoparquet file.

Each gives plain item dictionaries with absolute, unsigned asset hrefs, and the items it had to
leave out with the reason. Which of them are wanted, ``search`` decides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import pystac_client
import pystac_client.exceptions
import pystac_client.warnings
import shapely
import stac_geoparquet.arrow
from pystac_client.stac_api_io import StacApiIO
from shapely.geometry.base import BaseGeometry
from urllib3 import Retry

from pipeline.data.hrefs import absolute, is_remote, shown
from pipeline.data.sources import REFUSED, collections_of
from pipeline.spec.errors import BadRequest, DataTrouble, NothingFound
from pipeline.spec.timeline import Timeline

Record = dict[str, Any]
Found = tuple[list[Record], list[tuple[str, str]]]

PAGE = 250  # items a request: what every known server accepts
TIMEOUT_S = 60  # of one request
_MAX_VERTICES = 300  # of the outline in a request; servers refuse or crawl on large ones
_NOT_STAC = (
    pystac.STACError, pystac_client.exceptions.APIError, NotImplementedError, ValueError, KeyError,
    TypeError, AttributeError, OSError, pystac_client.warnings.PystacClientWarning,
)
# What of an HTTP library's long message a user needs.
_CAUSES = (r"\[Errno -?\d+\] ([^'\")]+)", r"(Failed to resolve '[^']+')", r"(timed out)",
           r"(too many \d+ error responses)")


def from_api(url: str, sensor: str, area: BaseGeometry, timeline: Timeline | None) -> Found:
    """Items of a STAC API: only of collections that it lists, each item once.

    Args:
        url: landing page.
        sensor: sensor key, or a layer of ``spec.context``.
        area: EPSG:4326, split at the antimeridian.
        timeline: the period; None = whenever.

    Raises:
        NothingFound: it offers none of the collections.
        DataTrouble: not reachable, or not a STAC API.
    """
    retry = Retry(
        total=6, connect=2, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=None, respect_retry_after_header=True,  # None: also POST, which searches
    )
    try:
        with pystac_client.warnings.ignore():
            client = pystac_client.Client.open(
                url, stac_io=StacApiIO(max_retries=retry, timeout=TIMEOUT_S)
            )
            offered = {c.id for c in client.get_collections()}
            wanted = [c for c in collections_of(sensor) if c in offered]
            if not wanted:
                refused = [f" ({c} is refused: {why})" for (key, c), why in REFUSED.items()
                           if key == sensor and c in offered]
                raise NothingFound(
                    f"{shown(url)} offers no collection to map {sensor} from" + "".join(refused),
                    allowed=", ".join(collections_of(sensor)),
                    then="try another --sensor, or --catalog planetary-computer",
                )
            records = {
                (r.get("collection"), r.get("id")): r
                for outline in outlines(area)
                for r in client.search(
                    collections=wanted,
                    intersects=shapely.geometry.mapping(outline),
                    # closed interval; what is stamped at the very end is dropped later
                    datetime=(timeline.start, timeline.end) if timeline else None,
                    limit=PAGE,
                ).items_as_dicts()
            }
    except _NOT_STAC as error:
        raise DataTrouble(
            "the catalogue does not answer as a STAC API",
            got=f"{shown(url)}: {_one_line(error)}",
            then="check the address and the connection, or try another --catalog",
        ) from None
    return _with_hrefs((record, url, None) for record in records.values())


def outlines(area: BaseGeometry) -> list[BaseGeometry]:
    """Outlines to search for: one a side of the antimeridian, never with too many vertices."""
    sides = [area]
    if area.bounds[2] - area.bounds[0] > 180:
        halves = (shapely.box(-180, -90, 0, 90), shapely.box(0, -90, 180, 90))
        sides = [part for h in halves if not (part := shapely.intersection(area, h)).is_empty]
    small = [s if shapely.get_num_coordinates(s) <= _MAX_VERTICES else s.convex_hull for s in sides]
    return [
        s if shapely.get_num_coordinates(s) <= _MAX_VERTICES else shapely.box(*s.bounds)
        for s in small
    ]


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
                    skipped.append((str(link.get("title") or link.get("href")), str(error)))
    found, refused = _with_hrefs(iter(pages))
    return found, skipped + refused


def from_parquet(path: Path, collections: tuple[str, ...]) -> Found:
    """Items of the wanted collections of a stac-geoparquet file.

    Raises:
        DataTrouble: not a readable stac-geoparquet file.
    """
    try:
        table = pq.read_table(path, filters=[("collection", "in", list(collections))])
        # drops the nulls that columns of other collections leave in an item's properties
        records = [_without_nulls(r) for r in stac_geoparquet.arrow.stac_table_to_items(table)]
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError,
            AttributeError) as error:
        raise DataTrouble("not a readable stac-geoparquet file",
                          got=f"{path}: {_one_line(error)}") from None
    return _with_hrefs((record, str(path.resolve()), path.resolve().parent) for record in records)


def find(catalog: str, sensor: str, area: BaseGeometry, timeline: Timeline | None) -> Found:
    """Items of a sensor in a catalogue of any kind; ``catalog`` is a URL or a path.

    What a file holds is not yet narrowed to area and period, and holds refused collections, too.

    Raises:
        BadRequest: neither a URL nor an existing file.
        DataTrouble: the catalogue is down or not what it should be.
    """
    if catalog.startswith(("http://", "https://")):
        return from_api(catalog, sensor, area, timeline)
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


def _with_hrefs(pages: Iterator[tuple[Record, str, Path | None]]) -> Found:
    """Records with absolute asset hrefs; each comes with the base and root of ``absolute``."""
    found: list[Record] = []
    skipped: list[tuple[str, str]] = []
    for record, base, root in pages:
        try:
            own = _self_link(record) or base
        except ValueError as error:
            skipped.append((str(record.get("id")), f"not a valid item: {error}"))
            continue
        try:
            for asset in record["assets"].values():
                asset["href"] = absolute(asset["href"], own if root is None else base, root)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            skipped.append((str(record.get("id")), f"asset refused: {_one_line(error)}"))
            continue
        # other links would be followed by pystac; this one says where the item came from
        record["links"] = [{"rel": "self", "href": own}]
        found.append(record)
    return found, skipped


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
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise DataTrouble("a page of the catalogue is missing", got=f"{path}: {error.strerror}",
                          then="the catalogue is incomplete: write it again") from None
    except ValueError as error:
        raise DataTrouble("a page of the catalogue is not JSON", got=f"{path}: {error}") from None
    if not isinstance(record, dict):
        raise DataTrouble("a page of the catalogue is not STAC", got=str(path))
    return record


def _without_nulls(record: Record) -> Record:
    kept = {k: v for k, v in record["properties"].items() if v is not None or k == "datetime"}
    assets = {k: v for k, v in record["assets"].items() if v is not None}
    return record | {"properties": kept, "assets": assets}


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    causes = [found[1] for cause in _CAUSES if (found := re.search(cause, text))]
    return causes[0] if causes else text[:200] or type(error).__name__
