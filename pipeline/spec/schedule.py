"""A schedule: which maps are kept current, from what, how often, and what may be published.

The tables and keys of a schedule file are the dataclasses below, and nothing else: the parser, the
JSON schema (``aoi/schedule.schema.json``) and the messages are all made from them.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pipeline.spec.errors import BadRequest
from pipeline.spec.request import DEVICES, SPEEDS, Speed, sensor_order
from pipeline.spec.tasks import TASKS
from pipeline.spec.timeline import parse_month

ROLLING, SEASON = "rolling", "season"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")  # of a folder, a STAC id and a metric's label
# words, or an address; of other schemes nothing was tried
_SCHEDULER = (r"^(none|local|(tcp|tls|gateway)://([^\s:/@\[\]]+|\[[0-9a-fA-F:.]+\]):[0-9]{1,5}"
              r"(/[0-9a-zA-Z._-]+)?)$")
_KINDS = {str: "string", int: "integer", float: "number", bool: "boolean"}


def _key(doc: str, default: Any = dataclasses.MISSING, *, low: float | None = None,
         high: float | None = None, allowed: tuple[str, ...] = (), pattern: str = "",
         check: Callable[[Any], object] | None = None) -> Any:
    """A key of a table: what it means, and what it may be."""
    about = {"doc": doc, "low": low, "high": high, "allowed": allowed, "pattern": pattern,
             "check": check}
    return dataclasses.field(default=default, metadata=about)


def _check_period(text: str) -> None:
    if text not in (ROLLING, SEASON):
        parse_month(text)


def check_scheduler(text: str) -> None:
    """Raises ``BadRequest`` for what is neither a word for a scheduler nor an address of one."""
    if not re.fullmatch(_SCHEDULER, text):
        raise BadRequest("unknown scheduler", got=text, allowed="tcp://HOST:PORT, tls://HOST:PORT, "
                         "gateway://HOST:PORT/CLUSTER, local, none", then="try local")


@dataclass(frozen=True)
class Bounds:
    """What a new version may differ by and still be published (``[bounds]``)."""

    coverage_drop: float = _key(
        "share of the area that may be mapped less than in the version before", 0.05,
        low=0, high=1)
    class_drift: float = _key(
        "how much the share of a class among the mapped pixels may change; a new checkpoint, "
        "period or area explains any change", 0.10, low=0, high=1)
    mean_drift: float = _key(
        "how much the mean of a continuous map may change, as a share of it; explained likewise",
        0.15, low=0)
    failed_tiles: int = _key("tiles that may have failed for lack of readable data", 0, low=0)


@dataclass(frozen=True)
class Retention:
    """How many old versions are kept (``[retention]``); the published one always is."""

    versions: int = _key("newest versions", 8, low=1)
    finals: int = _key("newest versions of the final tier, beyond those", 24, low=0)
    refused: int = _key("newest versions that were refused, for a look at them", 2, low=0)


@dataclass(frozen=True)
class RegionPlan:
    """One region (``[regions.NAME]``)."""

    aoi: str = _key("GeoJSON, GeoPackage, or W,S,E,N in degrees")
    tasks: tuple[str, ...] = _key("what is mapped there: names of [tasks.NAME]")
    catalog: str = _key("instead of the schedule's own", "")


@dataclass(frozen=True)
class TaskPlan:
    """How one task is mapped, in every region that asks for it (``[tasks.NAME]``)."""

    sensor: str = _key("s1, s2, l8, auto, all, or an order of preference such as s2,s1", "auto",
                       check=sensor_order)
    period: str = _key(
        "rolling: the window that ends with this month; season: the season that is on; "
        "YYYY-MM: the fixed period that ends with that month", ROLLING, check=_check_period,
        pattern=r"^(rolling|season|\d{4}-\d{2})$")
    checkpoint: str = _key("folder, or name of a shipped one; default: the task's own", "")
    every_days: float = _key("a map younger than this is left alone", 1.0, low=0)
    late_days: int = _key(
        "days after the end of a period that its late scenes are waited for: before, its map is "
        "provisional, then final, and only then the next period is begun", 10, low=0, high=366)
    opens_after_days: int | None = _key(
        "days into a period before it is mapped for the first time; default: 0 for a rolling "
        "period, 150 for a season", None, low=0, high=366)
    tile_px: int = _key("tile size in map pixels: what is carried over or made again as one", 256,
                        low=16, high=4096)
    adapt: bool = _key("shift the levels of images of a radiometry that the checkpoint does not "
                       "accept, within bounds", False)
    device: str = _key("what computes", "auto", allowed=DEVICES)
    speed: Speed = _key(  # noqa: RUF009 - a text
        "exact = float32; default = bfloat16 where the device has it; fast = the student in the "
        "checkpoint's folder fast/", "default", allowed=SPEEDS)


@dataclass(frozen=True)
class Schedule:
    """A schedule file; paths in it are relative to its own folder."""

    root: str = _key("where the maps are kept: a folder, or s3://bucket/prefix")
    regions: Mapping[str, RegionPlan] = _key("the regions, by name")
    tasks: Mapping[str, TaskPlan] = _key("the tasks, by name")
    catalog: str = _key("planetary-computer, earth-search, the URL of a STAC API, a catalog.json "
                        "or a .parquet of items", "planetary-computer")
    work: str = _key("folder for what is being made, when root is not on a disk of this machine",
                     "")
    scheduler: str = _key(
        "what makes the tiles: none = this process; local = worker processes started for each map; "
        "tcp://HOST:PORT = a Dask cluster, whose workers reach the folder of the maps (work, where "
        "root is no disk) by the same path", "none", check=check_scheduler, pattern=_SCHEDULER)
    workers: int | None = _key(
        "tiles that are made at once by this process, or worker processes of local; default: one "
        "a core", None, low=1, high=256)
    metrics: str = _key("file for Prometheus' textfile collector (ends in .prom); none if empty",
                        "")
    webhook: str = _key("URL that is told of refreshes that failed or were refused; none if empty",
                        "")
    bounds: Bounds = _key("what may be published", Bounds())  # noqa: RUF009 - frozen
    retention: Retention = _key("what is kept", Retention())  # noqa: RUF009 - frozen


def parse_schedule(text: str, file: str) -> Schedule:
    """The schedule of a TOML text.

    Args:
        text: of the file.
        file: its name, for messages.

    Raises:
        BadRequest: not TOML, an unknown or missing key, a value that does not fit; the message
            names file, table, key and value.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(f"{file} is not TOML", got=str(error),
                         then="see aoi/schedule.toml") from None
    made: Schedule = _table(Schedule, table, file, "")
    _check_names(made, file)
    return made


def _check_names(made: Schedule, file: str) -> None:
    """Names of tables, and the references between them."""
    for kind, names in (("regions", made.regions), ("tasks", made.tasks)):
        if not names:
            raise BadRequest(f"{file}: there is no [{kind}.NAME]", then="see aoi/schedule.toml")
    for name in made.regions:
        if not _NAME.fullmatch(name):
            raise BadRequest(f"{file}: the name of [regions.{name}] does not fit a folder",
                             got=name, allowed="small letters, digits, - and _")
    for name in made.tasks:
        if name not in TASKS:
            raise BadRequest(f"{file}: [tasks.{name}] is no task", got=name,
                             allowed=", ".join(TASKS))
    for name, region in made.regions.items():
        wrong = [t for t in region.tasks if t not in made.tasks]
        if wrong or not region.tasks or len(set(region.tasks)) != len(region.tasks):
            raise BadRequest(f"{file}: [regions.{name}] tasks", got=list(region.tasks),
                             allowed=f"a list of {', '.join(made.tasks)}, each once")


def _table(kind: Any, table: Any, file: str, name: str) -> Any:
    """A dataclass of a table; ``name`` is that of the table, empty for the top of the file."""
    place = f"[{name}]" if name else "the top of the file"
    if not isinstance(table, dict):
        raise BadRequest(f"{file}: {name} is not a table", got=table, then=f"write [{name}]")
    fields, hints = {f.name: f for f in dataclasses.fields(kind)}, get_type_hints(kind)
    if unknown := [k for k in table if k not in fields]:
        raise BadRequest(f"{file}: {place} has no key", got=unknown[0], allowed=", ".join(fields))
    missing = [f.name for f in fields.values()
               if f.default is dataclasses.MISSING and f.name not in table]
    if missing:
        raise BadRequest(f"{file}: {place} lacks {missing[0]}",
                         then=f"it is: {fields[missing[0]].metadata['doc']}")
    return kind(**{k: _value(hints[k], fields[k], v, file, f"{name}.{k}".lstrip("."), place)
                   for k, v in table.items()})


def _value(hint: Any, field: Any, value: Any, file: str, name: str, place: str) -> Any:
    """A key's value, of the annotated type and within its bounds."""
    hint = _plain(hint)
    if dataclasses.is_dataclass(hint):
        return _table(hint, value, file, name)
    if get_origin(hint) is not None and issubclass(get_origin(hint), Mapping):
        if not isinstance(value, dict):
            raise BadRequest(f"{file}: {name} is not a table", got=value,
                             then=f"write [{name}.NAME]")
        return {k: _table(get_args(hint)[1], v, file, f"{name}.{k}") for k, v in value.items()}
    where, about = f"{file}: {place} {field.name}", field.metadata
    fits = _allowed(hint, about)
    if get_origin(hint) is tuple:
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise BadRequest(where, got=value, allowed="a list of texts")
        return tuple(value)
    number = hint is float and isinstance(value, int) and not isinstance(value, bool)
    if type(value) is not hint and not number:
        raise BadRequest(where, got=value, allowed=fits)
    low, high = about["low"], about["high"]
    outside = ((low is not None and not value >= low) or (high is not None and not value <= high)
               or (about["allowed"] and value not in about["allowed"]))
    if outside:
        raise BadRequest(where, got=value, allowed=fits)
    if about["check"] is not None:
        try:
            about["check"](value)
        except BadRequest as error:
            raise BadRequest(f"{where}: {error.what}", got=value, allowed=about["doc"]) from None
    return hint(value)


def _plain(hint: Any) -> Any:
    """The type of a key in a file: an absent key stands for ``None``."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(a for a in get_args(hint) if a is not type(None))
    return str if get_origin(hint) is Literal else hint  # ``allowed`` names the values


def _allowed(hint: Any, about: Mapping[str, Any]) -> str:
    if about["allowed"]:
        return ", ".join(about["allowed"])
    low, high = about["low"], about["high"]
    words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
    text = words.get(hint, "a list of texts")
    if low is not None:
        text += f" from {low:g}" if high is None else f" from {low:g} to {high:g}"
    return text


def json_schema() -> dict[str, Any]:
    """JSON schema of a schedule file, for editors and for other tools that write one."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "wallmap schedule", **_object(Schedule)}


def _object(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    fields = dataclasses.fields(kind)
    return {
        "type": "object", "description": " ".join((kind.__doc__ or "").split()),
        "additionalProperties": False,
        "required": [f.name for f in fields if f.default is dataclasses.MISSING],
        "properties": {f.name: _property(_plain(hints[f.name]), f) for f in fields},
    }


def _property(hint: Any, field: Any) -> dict[str, Any]:
    about = {"description": field.metadata["doc"]}
    if dataclasses.is_dataclass(hint):
        return _object(hint) | about
    if get_origin(hint) is tuple:
        return about | {"type": "array", "items": {"type": "string"}, "minItems": 1,
                        "uniqueItems": True}
    if get_origin(hint) is not None:
        names = ({"enum": list(TASKS)} if field.name == "tasks"
                 else {"pattern": f"^{_NAME.pattern}$"})
        return about | {"type": "object", "minProperties": 1, "propertyNames": names,
                        "additionalProperties": _object(get_args(hint)[1])}
    made: dict[str, Any] = about | {"type": _KINDS[hint]}
    for word, name in (("low", "minimum"), ("high", "maximum"), ("pattern", "pattern")):
        if field.metadata[word] not in (None, ""):
            made[name] = field.metadata[word]
    if field.metadata["allowed"]:
        made["enum"] = list(field.metadata["allowed"])
    if field.default not in (dataclasses.MISSING, None):
        made["default"] = field.default
    return made
