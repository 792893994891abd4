"""What a map is made from: images of each sensor, and tiles of elevation and land cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from shapely.geometry.base import BaseGeometry

from pipeline.data.items import ItemSet, thaw
from pipeline.data.places import find_places
from pipeline.data.search import search
from pipeline.prep.features import bands_needed
from pipeline.spec.card import CheckpointCard
from pipeline.spec.context import PLACE, layers_needed
from pipeline.spec.errors import BadRequest, NothingFound
from pipeline.spec.request import MapRequest, sensor_order
from pipeline.spec.sensors import SENSORS, sensor


def wanted_sensors(request: MapRequest, card: CheckpointCard) -> tuple[str, ...]:
    """Sensors to search for: those asked for must be on the card, ``auto`` takes all of it.

    Raises:
        BadRequest: the checkpoint is for another task, lacks a sensor, or has features that no
            image of its sensors gives.
    """
    if card.task != request.task.key or card.steps != request.task.steps:
        raise BadRequest("the checkpoint is for another task", got=card.task,
                         allowed=request.task.key, then=f"try --checkpoint {request.task.key}")
    asked = sensor_order(request.sensor)
    if lacking := [key for key in asked if key not in card.sensors]:
        raise BadRequest(f"the checkpoint {card.name} has no such sensor", got=lacking[0],
                         allowed=", ".join(card.sensors),
                         then=f"try --sensor {next(iter(card.sensors))}")
    for key in (wanted := asked or tuple(card.sensors)):
        try:
            bands_needed(card.sensors[key].features, sensor(key).band_names)
        except KeyError as error:
            raise BadRequest(f"the checkpoint {card.name} wants features that no {key} image has",
                             got=str(error.args[0]), then="choose another --checkpoint") from None
    return wanted


def find_images(
    request: MapRequest, area: BaseGeometry, card: CheckpointCard, wanted: tuple[str, ...],
    frozen: Path | None,
) -> tuple[dict[str, ItemSet], dict[str, str]]:
    """Usable images per sensor, and the sensors that are refused with the reason.

    Args:
        request: what was asked for.
        area: EPSG:4326.
        card: of the checkpoint.
        wanted: sensor keys.
        frozen: folder of frozen items, read instead of searching where present.

    Raises:
        BadRequest, NothingFound: no sensor has usable images; the first one's reason.
        DataTrouble: the catalogue is down.
    """
    found: dict[str, ItemSet] = {}
    refused: dict[str, str] = {}
    errors: list[Exception] = []
    for key in wanted:
        try:
            items = (_thawed(frozen, key)
                     or search(request.catalog, key, area, request.timeline))
            bands = bands_needed(card.sensors[key].features, SENSORS[key].band_names)
            items = of_one_radiometry(items.usable(bands), card.sensors[key].accepts)
            _check_usable(card, items, request.adapt)
            found[key] = items
        except (BadRequest, NothingFound) as error:
            refused[key] = str(error)
            errors.append(error)
    if not found:
        raise errors[0]
    return found, refused


def find_layers(
    request: MapRequest, area: BaseGeometry, card: CheckpointCard, sensors: Mapping[str, ItemSet],
    frozen: Path | None,
) -> tuple[dict[str, ItemSet], dict[str, str]]:
    """Tiles of the layers that the card's place features need, and why one is missing.

    A missing layer stops no map: the place is unknown then, as for a share of the training
    samples. All or nothing: the model knows one flag for all of the place, so that nothing is
    returned where one layer is missing.

    Args:
        request, area, card, frozen: as in ``find_images``.
        sensors: those that may be used.

    Raises:
        DataTrouble: a catalogue is down.
    """
    names = {n for key in sensors for n in card.sensors[key].static}
    unknown = {n: "no layer of a map gives it" for n in sorted(names) if not PLACE[n].layer}
    if unknown:
        return {}, unknown
    if any(_thawed(frozen, key) for key in sensors):  # a run that goes on has what it began with
        kept = {k: items for k in layers_needed(names) if (items := _thawed(frozen, k))}
        return kept, {k: "not found when the run began" for k in layers_needed(names)
                      if k not in kept}
    found, unknown = find_places(request.catalog, names, area)
    return ({}, unknown) if unknown else (found, {})


def _thawed(frozen: Path | None, key: str) -> ItemSet | None:
    path = frozen / f"{key}.json" if frozen else None
    return thaw(path) if path and path.exists() else None


def foreign(card: CheckpointCard, found: Mapping[str, ItemSet]) -> dict[str, str]:
    """Sensors whose images are of a radiometry that the checkpoint does not accept, and which."""
    given = {key: sorted({s.radiometry for s in items.sources}) for key, items in found.items()}
    return {key: ", ".join(names) for key, names in given.items()
            if not set(names) <= set(card.sensors[key].accepts)}


def of_one_radiometry(items: ItemSet, accepts: Sequence[str]) -> ItemSet:
    """The images of one of the radiometries that a checkpoint accepts, the first that is there.

    A series of two archives steps where one ends, and what looks like a season may be that step.
    The others are left out with this reason; where none is accepted, all are kept.

    Args:
        items: of a sensor.
        accepts: of the card.
    """
    given = {source.radiometry for source in items.sources}
    kind = next((name for name in accepts if name in given), None)
    if kind is None or len(given) == 1:
        return items
    pairs = list(zip(items.items, items.sources, strict=True))
    others = tuple((item.id, f"{source.radiometry}: not mixed with {kind}")
                   for item, source in pairs if source.radiometry != kind)
    kept = tuple(item for item, source in pairs if source.radiometry == kind)
    return ItemSet(items.sensor, items.catalog, kept, items.skipped + others)


def _check_usable(card: CheckpointCard, items: ItemSet, adapt: bool) -> None:
    """Refuse images without the bands, or whose pixel values mean something else than those that
    the checkpoint learned from. With ``adapt`` the second is no reason, as long as they all mean
    the same."""
    if not items.items:
        name, why = items.skipped[-1]
        raise NothingFound(f"no {items.sensor} image has the bands that {card.name} needs",
                           got=f"{name}: {why}", then="try another --catalog or --checkpoint")
    accepts = card.sensors[items.sensor].accepts
    sources = {source.key: source.radiometry for source in items.sources}
    if bad := {key: what for key, what in sources.items() if what not in accepts}:
        if adapt and len(set(sources.values())) == 1:
            return
        source, got = next(iter(bad.items()))
        raise BadRequest(
            f"{source} gives {items.sensor} as another radiometry than the checkpoint "
            f"{card.name} was trained on",
            got=got, allowed=", ".join(accepts),
            then="three ways out: another source (--catalog); your training points sampled from "
            "this one (python -m pipeline.sample) and a checkpoint trained on them; or --adapt, "
            "which shifts the levels of images of one radiometry, within bounds, and says so",
        )
