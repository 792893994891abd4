"""Search: a catalogue, a sensor, an area and a period -> the images to map from."""

from __future__ import annotations

import numpy as np
import pystac
import shapely
import shapely.geometry
from shapely.geometry.base import BaseGeometry

from pipeline.data import catalogs
from pipeline.data.duplicates import newest
from pipeline.data.hrefs import shown
from pipeline.data.item_checks import checked
from pipeline.data.items import ItemSet, when
from pipeline.data.sources import CATALOGS, collections_of, source_of, why_not
from pipeline.data.web import reason_of
from pipeline.spec.errors import NothingFound
from pipeline.spec.grid import NORTH_END
from pipeline.spec.timeline import Timeline

# Degrees of latitude, 5 km: more than the diagonal of a cell (``infer.plan``), and than an image
# reaches beyond its outline.
_REACH = 0.05
_WORLD = shapely.box(-180, -90, 180, 90)

# Extensions whose migration pystac 1.15 does with a warning about hrefs; nothing here reads them.
_UNREAD_EXTENSIONS = ("/storage/", "/alternate-assets/")


def search(
    catalog: str, sensor: str, area: BaseGeometry, timeline: Timeline | None
) -> ItemSet:
    """Images of one sensor that touch an area, or come near it, within a period.

    Args:
        catalog: ``planetary-computer``, ``earth-search``, URL of a STAC API, path of a static
            ``catalog.json`` or of a stac-geoparquet file.
        sensor: sensor key, or a layer of ``spec.context``.
        area: EPSG:4326, within +-180 degrees.
        timeline: months; a composite of a period belongs to the month of its middle. None for
            layers, which have no season.

    Raises:
        BadRequest: no such catalogue or sensor.
        DataTrouble: the catalogue is down or not STAC.
        NothingFound: it has nothing usable for this request.
    """
    wanted = collections_of(sensor)
    place = CATALOGS.get(catalog, catalog)
    near = around(area)
    records, skipped = catalogs.find(place, sensor, near, timeline)
    items: list[pystac.Item] = []
    shapely.prepare(near)
    for record in records:
        try:
            item = to_item(record)
            outside = timeline is not None and timeline.step_of(when(item)) is None
            touches = near.intersects(shapely.geometry.shape(item.geometry))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError,
                RecursionError, pystac.STACError, pystac.STACTypeError,
                shapely.errors.ShapelyError) as error:
            skipped.append((catalogs.name_of(record), f"not a valid item: {reason_of(error)}"))
            continue
        if outside or not touches:
            continue
        source = source_of(item, sensor)
        if source is None:
            skipped.append((item.id, why_not(item, sensor)))
            continue
        used = {*source.assets.values(), source.mask_asset}
        item.assets = {key: asset for key, asset in item.assets.items() if key in used}
        items.append(item)
    if timeline is not None:
        items, dropped = newest(items, sensor)
        skipped += dropped
    if not items:
        west, south, east, north = area.bounds
        why = f" (left out: {skipped[0][0]}, {skipped[0][1]})" if skipped else ""
        raise NothingFound(
            f"{shown(place)} has no usable {sensor} image within {west:.4f},{south:.4f},"
            f"{east:.4f},{north:.4f}{f' in {timeline}' if timeline else ''}{why}",
            allowed=f"collections {', '.join(wanted)}",
            then="try another --period, --sensor or --catalog (over open sea there is none)",
        )
    items.sort(key=lambda i: (when(i), i.id))
    return ItemSet(sensor, shown(place), tuple(items), tuple(sorted(skipped)))


def around(area: BaseGeometry) -> BaseGeometry:
    """The area and what lies near it, EPSG:4326: an image's pixels may reach beyond its outline,
    and sensors are ranked by what touches a whole cell. So two areas that share a pixel find all
    images that matter to it, each of them."""
    _, south, _, north = area.bounds
    reach = _REACH / np.cos(np.radians(min(max(-south, north, 0), NORTH_END)))
    return area.buffer(reach, quad_segs=2).intersection(_WORLD)


def to_item(record: dict) -> pystac.Item:
    """pystac item of a record, migrated to the current STAC version without touching the net.

    Its outline is mended, and its CRS stands under ``proj:code``, whatever the version.

    Raises:
        ValueError, KeyError, pystac.STACError, shapely.errors.ShapelyError: not a valid item.
    """
    unread = checked(record).get("stac_extensions") or []
    record["stac_extensions"] = [
        uri for uri in unread if not any(name in uri for name in _UNREAD_EXTENSIONS)
    ]
    item = pystac.Item.from_dict(record, preserve_dict=False)
    outline = shapely.geometry.shape(item.geometry)
    if not outline.is_valid:  # providers' outlines cross themselves: no overlap can be told of them
        item.geometry = shapely.geometry.mapping(shapely.make_valid(outline))
    # pystac renames it only where the extension is declared, which some providers forget
    for fields in (item.properties, *(asset.extra_fields for asset in item.assets.values())):
        if (number := fields.pop("proj:epsg", None)) is not None:
            fields.setdefault("proj:code", f"EPSG:{number}")
    return item
