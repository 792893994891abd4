"""A STAC API: all items of an area and period, each once, none lost on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pystac
import pystac_client
import pystac_client.exceptions
import pystac_client.warnings
import shapely
from pystac_client.stac_api_io import StacApiIO
from shapely.geometry.base import BaseGeometry

from pipeline.data import web
from pipeline.data.hrefs import is_url, shown
from pipeline.data.sources import REFUSED, collections_of
from pipeline.spec.errors import DataTrouble, NothingFound
from pipeline.spec.timeline import Timeline

Record = dict[str, Any]
Span = tuple[datetime, datetime]
Records = dict[tuple[Any, Any], Record]  # by collection and id

PAGE = 250  # items a request: what every known server accepts
MAX_COLLECTIONS = 10_000
MAX_PAGES = 2_000  # of one sensor
_STALE = 3  # pages in a row without a new item: the server goes round in circles
_SHORTEST = timedelta(hours=1)  # a span that is not divided any more
_APART = 1.0  # degrees, about the size of an image: parts farther apart are searched for separately
_MAX_VERTICES = 300  # of the outline in a request; servers refuse or crawl on large ones
_NOT_STAC = (
    pystac.STACError, pystac_client.exceptions.APIError, NotImplementedError, ValueError, KeyError,
    TypeError, AttributeError, OSError, RecursionError, pystac_client.warnings.PystacClientWarning,
)


def from_api(
    url: str, sensor: str, area: BaseGeometry, timeline: Timeline | None
) -> list[Record]:
    """Items of a STAC API, of those of a sensor's collections that it lists.

    Args:
        url: landing page.
        sensor: sensor key, or a layer of ``spec.context``.
        area: EPSG:4326, split at the antimeridian.
        timeline: the period; None = whenever.

    Raises:
        NothingFound: it offers none of the collections.
        DataTrouble: not reachable, not a STAC API, or it gives fewer items than it says it has.
    """
    try:
        with pystac_client.warnings.ignore():
            client = pystac_client.Client.open(url, stac_io=_CarefulIO(url))
            wanted = _offered(client, url, sensor)
            records: Records = {}
            budget = iter(range(MAX_PAGES))
            for outline in outlines(area):

                def pages(
                    span: Span | None, where: BaseGeometry = outline
                ) -> Iterator[Record]:
                    found = client.search(
                        collections=wanted, intersects=shapely.geometry.mapping(where),
                        # closed interval; what is stamped at the very end is dropped later
                        datetime=span, limit=PAGE,
                    ).pages_as_dicts()
                    for page in found:
                        if next(budget, None) is None:
                            raise ValueError(f"more than {MAX_PAGES} pages of items")
                        yield page

                for span in _months(timeline) if timeline else [None]:
                    records |= complete(pages, span, shown(url))
    except _NOT_STAC as error:
        status = getattr(error, "status_code", None)
        raise DataTrouble(
            "the catalogue does not answer as a STAC API",
            got=f"{shown(url)}: {f'HTTP {status}' if status else web.reason_of(error)}",
            then="check the address and the connection, or try another --catalog",
        ) from None
    return list(records.values())


def complete(
    pages: Callable[[Span | None], Iterable[Record]], span: Span | None,
    catalog: str = "the catalogue",
) -> Records:
    """All items of a span of time, by collection and id.

    Servers lose pages: they leave out the link to the next one, or repeat the last. What shows it
    is their own count; where they give none, the halves of the span, which need fewer pages.

    Args:
        pages: of a span.
        span: None = whenever; such a search is not divided.
        catalog: its name, for the message.

    Raises:
        DataTrouble: fewer items than the server says it has, in the shortest span, too.
    """
    found, told, one_page = _gather(pages(span))
    if len(found) >= told if told is not None else one_page:
        return found
    if span is None or span[1] - span[0] <= _SHORTEST:
        if told is None:
            return found
        raise DataTrouble(
            f"{catalog} says that it has more items than it gives",
            got=f"{len(found)} of {told}" + (f" at {span[0]:%Y-%m-%d %H:%M}" if span else ""),
            then="try again later, or another --catalog",
        )
    middle = span[0] + (span[1] - span[0]) / 2
    return (found | complete(pages, (span[0], middle), catalog)
            | complete(pages, (middle, span[1]), catalog))


def outlines(area: BaseGeometry) -> list[BaseGeometry]:
    """Outlines to search for: one a cluster of parts and side of the antimeridian, never with too
    many vertices."""
    sides = [area]
    if area.bounds[2] - area.bounds[0] > 180:
        halves = (shapely.box(-180, -90, 0, 90), shapely.box(0, -90, 180, 90))
        sides = [part for h in halves if not (part := shapely.intersection(area, h)).is_empty]
    found = [cluster for side in sides for cluster in _clusters(side)]
    small = [s if shapely.get_num_coordinates(s) <= _MAX_VERTICES else s.convex_hull for s in found]
    return [
        s if shapely.get_num_coordinates(s) <= _MAX_VERTICES else shapely.box(*s.bounds)
        for s in small
    ]


def _clusters(area: BaseGeometry) -> list[BaseGeometry]:
    """The parts of an area, those near each other together: what lies between far-apart parts may
    be a continent of images that nobody needs."""
    parts = shapely.get_parts(area)
    west, south, east, north = shapely.bounds(parts).T
    reach = _APART / 2
    around = shapely.union_all(shapely.box(west - reach, south - reach, east + reach,
                                           north + reach))
    places = shapely.get_parts(around)
    if len(places) == 1:
        return [area]
    where = shapely.STRtree(places).nearest(parts)  # each lies in one of them
    return [shapely.union_all(parts[where == k]) for k in range(len(places))]


def _gather(pages: Iterable[Record]) -> tuple[Records, int | None, bool]:
    """Items of pages, the server's own count of them, and whether one page was all."""
    found: Records = {}
    told: int | None = None
    count = stale = 0
    for page in pages:
        count += 1
        before = len(found)
        for record in page["features"]:
            found[record.get("collection"), record.get("id")] = record
        matched = page.get("numberMatched", (page.get("context") or {}).get("matched"))
        told = matched if isinstance(matched, int) else told
        stale = 0 if len(found) > before else stale + 1
        if stale == _STALE:
            break
    return found, told, count <= 1 and len(found) < PAGE


def _offered(client: pystac_client.Client, url: str, sensor: str) -> list[str]:
    """The sensor's collections that the server has."""
    offered = {c.id for c in islice(client.get_collections(), MAX_COLLECTIONS)}
    wanted = [c for c in collections_of(sensor) if c in offered]
    if not wanted:
        refused = [f" ({c} is refused: {why})" for (key, c), why in REFUSED.items()
                   if key == sensor and c in offered]
        raise NothingFound(
            f"{shown(url)} offers no collection to map {sensor} from" + "".join(refused),
            allowed=", ".join(collections_of(sensor)),
            then="try another --sensor, or --catalog planetary-computer",
        )
    return wanted


def _months(timeline: Timeline) -> Sequence[Span]:
    starts = [datetime(m // 12, m % 12 + 1, 1, tzinfo=UTC) for m in timeline.months]
    return list(zip(starts, [*starts[1:], timeline.end], strict=True))


class _CarefulIO(StacApiIO):
    """Requests of pystac-client by way of ``web``; a server's links lead to the web only."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.session = web.session(web.trusted_hosts(url))

    def request(
        self, href: str, method: str | None = None, headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """The text of an answer."""
        if method not in (None, "GET", "POST"):
            raise ValueError(f"the server asks for a request of method {method}")
        return super().request(href, method, headers, parameters)

    def read_text(self, source: pystac.link.HREF, *args: Any, **options: Any) -> str:
        """The text behind a link, if it is one of the web."""
        target = source.to_dict()["href"] if isinstance(source, pystac.Link) else str(source)
        if not is_url(str(target)):
            raise ValueError("a link of the catalogue leads to a file")
        return super().read_text(source, *args, **options)
