"""The area of interest: a file or four numbers -> polygons in degrees, checked and repaired."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio
import pyproj
import shapely
import shapely.geometry
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError
from shapely.errors import ShapelyError
from shapely.geometry.base import BaseGeometry

from pipeline.data.geopackage import check_geopackage
from pipeline.data.outline import cut_at_antimeridian, mended, unwrapped
from pipeline.spec.errors import BadRequest
from pipeline.spec.grid import NORTH_END, SOUTH_END

DEFAULT_KEYS = ("catalog", "task", "period", "checkpoint")
_PATH_KEYS = ("catalog", "checkpoint")

_DENSIFY = 200  # vertices along a projected outline: a straight edge there is a curve in degrees


@dataclass(frozen=True)
class Aoi:
    """Area of interest.

    Attributes:
        name: for folders and titles.
        geometry: valid polygon or multipolygon, EPSG:4326, within +-180, cut at the antimeridian.
        defaults: catalog, task, period, checkpoint as the file's own properties give them; paths
            are resolved against the file's folder.
    """

    name: str
    geometry: BaseGeometry
    defaults: Mapping[str, str] = field(default_factory=dict)


def read_aoi(text: str) -> Aoi:
    """Area of a GeoJSON or GeoPackage file, or of ``W,S,E,N`` in degrees.

    ``W > E`` crosses the antimeridian, at most 180 degrees wide. A polygon crosses it when its
    longitudes go beyond +-180, or when two neighbouring vertices lie more than 180 degrees apart.

    Raises:
        BadRequest: no such file, not readable, empty, not polygons, without a CRS, not in degrees,
            without area, crossing itself, swapped, or polar.
    """
    box = _numbers(text)
    if box is not None:
        return Aoi("bbox", _checked(_box(box, text), text))
    path = Path(text)
    if not _is_file(path):
        raise BadRequest("no such AOI file", got=text[:200],
                         allowed="a GeoJSON or GeoPackage file, or W,S,E,N in degrees",
                         then="check the path, or try --aoi 5.31,50.62,5.34,50.64")
    if path.suffix.lower() in (".json", ".geojson"):
        shapes, crs, own = _read_geojson(path)
    else:
        shapes, crs, own = _read_vector(path)
    to_degrees = _to_degrees(crs, text)
    parts = [_in_degrees(p, to_degrees, text) for shape in shapes for p in _polygons(shape, text)]
    if not parts:
        raise BadRequest("the AOI is empty", got=text, then="draw at least one polygon")
    sound = [mended(unwrapped(part, text), text) for part in parts]
    whole = shapely.union_all([cut_at_antimeridian(part) for part in sound])
    return Aoi(path.stem, _checked(whole, text), _defaults(own, path))


def _is_file(path: Path) -> bool:
    """Whether there is such a file; a text that no file can be named by is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def _numbers(text: str) -> tuple[float, float, float, float] | None:
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        return None
    return west, south, east, north


def _box(wsen: tuple[float, float, float, float], text: str) -> BaseGeometry:
    west, south, east, north = wsen
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90):
        raise BadRequest("not a box in degrees", got=text,
                         allowed="W,S,E,N with longitudes within +-180 and S < N within +-90",
                         then="try --aoi 5.31,50.62,5.34,50.64")
    if west <= east:
        return shapely.box(west, south, east, north)
    if west - east < 180:  # around the antimeridian this would be more than half the globe
        w, s, e, n = (part.strip() for part in text.split(","))
        raise BadRequest("W and E look swapped", got=text,
                         allowed="W > E only for a box across the antimeridian, up to 180 wide",
                         then=f"try --aoi={e},{s},{w},{n}")
    return shapely.union_all([shapely.box(west, south, 180, north),
                              shapely.box(-180, south, east, north)])


def _read_geojson(path: Path) -> tuple[list[BaseGeometry | None], CRS, dict[str, Any]]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise BadRequest("the AOI is not readable JSON", got=f"{path}: {error}",
                         then="export it again as GeoJSON") from None
    kind = raw.get("type") if isinstance(raw, dict) else None
    if kind == "FeatureCollection":
        features = raw.get("features") or []
    elif kind == "Feature":
        features = [raw]
    elif kind in ("Polygon", "MultiPolygon", "GeometryCollection", "Point", "MultiPoint",
                  "LineString", "MultiLineString"):
        features = [{"geometry": raw}]
    else:
        raise BadRequest("the AOI is not GeoJSON", got=f"{path}: type {kind!r}",
                         allowed="Feature, FeatureCollection or a geometry")
    try:
        shapes = [_shape(feature["geometry"]) for feature in features]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError,
            RecursionError, ShapelyError) as error:
        raise BadRequest("a geometry of the AOI is malformed", got=f"{path}: {error}",
                         then="export it again as GeoJSON") from None
    own: dict[str, Any] = {}
    for holder in (features[0] if len(features) == 1 else {}, raw):
        properties = holder.get("properties") or {}
        if not isinstance(properties, dict):
            raise BadRequest("the AOI's properties are not a JSON object",
                             got=f"{path}: {properties!r}", then="correct or remove them")
        own |= properties
    return shapes, _declared_crs(raw, path), own


def _no_number(text: str) -> float:
    """NaN and infinities, which Python's reader would let through."""
    raise ValueError(f"{text} is not a JSON number")


def _shape(geometry: Any) -> BaseGeometry | None:
    with np.errstate(all="ignore"):  # what is too large for a float is refused later
        return None if geometry is None else shapely.force_2d(shapely.geometry.shape(geometry))


def _declared_crs(raw: Mapping[str, Any], path: Path) -> CRS:
    """CRS of the ``crs`` member of GeoJSON 2008, which many programs still write; else degrees."""
    if "crs" not in raw:
        return CRS.from_epsg(4326)
    try:
        return CRS.from_user_input(raw["crs"]["properties"]["name"])
    except (TypeError, KeyError, CRSError):
        raise BadRequest("the AOI's crs member is not understood",
                         got=f"{path}: {json.dumps(raw['crs'])}",
                         then="save it again in WGS 84 (EPSG:4326)") from None


def _read_vector(path: Path) -> tuple[list[BaseGeometry | None], CRS, dict[str, Any]]:
    check_geopackage(path)
    try:
        layers = [name for name, kind in pyogrio.list_layers(path) if kind is not None]
        if len(layers) > 1:
            raise BadRequest("the AOI file has several layers", got=", ".join(layers),
                             then="save the one that you mean to a file of its own")
        if not layers:
            raise BadRequest("the AOI file holds no geometry", got=str(path),
                             then="draw at least one polygon")
        frame = gpd.read_file(path, layer=layers[0])  # by name: tables may stand beside it
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, OSError,
            ValueError) as error:
        raise BadRequest("the AOI file cannot be read", got=f"{path}: {error}",
                         allowed="GeoJSON or GeoPackage") from None
    if frame.crs is None:
        raise BadRequest("the AOI file declares no CRS", got=str(path),
                         then="assign one (QGIS: Layer > Set CRS) and save it again")
    own = frame.drop(columns=frame.geometry.name).iloc[0].to_dict() if len(frame) == 1 else {}
    return [None if g is None else shapely.force_2d(g) for g in frame.geometry], frame.crs, own


def _polygons(shape: BaseGeometry | None, text: str) -> Iterator[BaseGeometry]:
    """Polygons of a geometry; anything else is refused, so that nothing is left out unsaid."""
    if shape is None or shape.is_empty:
        return
    for part in shapely.get_parts(shape):
        if part.geom_type in ("MultiPolygon", "GeometryCollection"):
            yield from _polygons(part, text)
        elif part.geom_type == "Polygon":
            yield part
        else:
            raise BadRequest("the AOI must be polygons", got=f"{text}: {part.geom_type}",
                             then="draw the outline of the area, or buffer points and lines")


Transform = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _to_degrees(crs: CRS, text: str) -> Transform | None:
    """What brings coordinates of a CRS to EPSG:4326, longitude first; None where they are there."""
    if crs.equals(CRS.from_epsg(4326), ignore_axis_order=True):
        return None
    try:
        if not (crs.is_geographic or crs.is_projected):
            raise CRSError(f"{crs.name} does not say where on the ground")
        return Transformer.from_crs(crs, 4326, always_xy=True).transform
    except (ProjError, CRSError) as error:
        raise _not_brought(text, error) from None


def _not_brought(text: str, error: Exception) -> BadRequest:
    return BadRequest("the AOI cannot be brought to degrees", got=f"{text}: {error}",
                      then="save it again in WGS 84 (EPSG:4326)")


def _in_degrees(polygon: BaseGeometry, to_degrees: Transform | None, text: str) -> BaseGeometry:
    """The polygon in EPSG:4326, longitude first; refused when the numbers cannot be degrees."""
    if to_degrees is not None:
        west, south, east, north = polygon.bounds
        step = max(east - west, north - south) / _DENSIFY
        dense = shapely.segmentize(polygon, step) if step > 0 else polygon
        try:
            polygon = shapely.transform(dense, to_degrees, interleaved=False)
        except (ProjError, pyproj.exceptions.GeodError) as error:
            raise _not_brought(text, error) from None
    west, south, east, north = polygon.bounds
    finite = np.isfinite(shapely.get_coordinates(polygon)).all()
    if not (finite and -360 <= west <= east <= 360 and -90 <= south <= north <= 90):
        raise BadRequest(
            "the AOI's coordinates are not degrees", got=f"{text}: {west:g},{south:g},{east:g},"
            f"{north:g}", allowed="longitudes within +-360, latitudes within +-90",
            then="these look projected: declare their CRS, or save the file in EPSG:4326",
        )
    return polygon


def _checked(area: BaseGeometry, text: str) -> BaseGeometry:
    if area.is_empty or area.area == 0:
        raise BadRequest("the AOI has no area", got=text, then="draw a polygon that encloses some")
    if area.bounds[1] < SOUTH_END or area.bounds[3] > NORTH_END:
        raise BadRequest("the AOI reaches into the polar regions", got=text,
                         allowed=f"latitudes {SOUTH_END:g} to {NORTH_END:g}",
                         then="clip it there")
    return area


def _defaults(own: Mapping[str, Any], path: Path) -> dict[str, str]:
    found = {}
    for key in DEFAULT_KEYS:
        value = own.get(key)
        if value is None or value == "":
            continue
        if not (isinstance(value, str) and value.isprintable()):
            raise BadRequest(f"the AOI's property {key} is not text of one line",
                             got=f"{path}: {value!a}",
                             then="correct or remove it")
        if key in _PATH_KEYS:
            beside = path.parent / value
            if value.startswith(("./", "../")) or beside.exists():
                value = str(beside.resolve())
        found[key] = value
    return found
