"""Checking that what came out of JSON is what a dataclass's annotations say."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_FARTHEST = 2**53  # beyond it floats and whole numbers part


def misfit(value: Any, kind: Any, name: str = "") -> str:
    """Where and how a value does not fit an annotation; empty when it does.

    Args:
        value: of JSON, lists as tuples where the annotation says tuple.
        kind: ``str``, ``int``, finite ``float``, ``bool``, ``None``, ``Any``, ``Literal``, unions,
            ``tuple``, ``Mapping``, or a dataclass, whose fields are checked.
        name: of the value, for the answer.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return ""
    if origin in (Union, types.UnionType):
        found = [misfit(value, one, name) for one in inner]
        return "" if "" in found else found[0]
    if origin is Literal:
        return "" if value in inner else _not(name, f"one of {inner}", value)
    if origin is tuple:
        return _in_tuple(value, inner, name)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            return _not(name, "an object", value)
        return _first(misfit(v, k, f"{name}.{key}") for key, item in value.items()
                      for v, k in ((key, inner[0]), (item, inner[1])))
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, kind):
            return _not(name, "an object", value)
        return _first(misfit(getattr(value, key), hint, f"{name}.{key}".lstrip("."))
                      for key, hint in _hints(kind).items())
    return _plain(value, kind, name)


def _plain(value: Any, kind: Any, name: str) -> str:
    if kind in (int, float):
        number = isinstance(value, int if kind is int else int | float)
        if not number or isinstance(value, bool):
            return _not(name, "a whole number" if kind is int else "a number", value)
        fine = math.isfinite(value) if isinstance(value, float) else abs(value) <= _FARTHEST
        return "" if fine else _not(name, "a number of sensible size", value)
    kind = type(None) if kind is None else kind
    return "" if isinstance(value, kind) else _not(name, kind.__name__, value)


def _in_tuple(value: Any, inner: tuple[Any, ...], name: str) -> str:
    if not isinstance(value, tuple):
        return _not(name, "a list", value)
    kinds = (inner[0],) * len(value) if inner[-1] is ... else inner
    if len(kinds) != len(value):
        return _not(name, f"a list of {len(kinds)}", value)
    return _first(misfit(v, k, f"{name}[{n}]") for n, (v, k) in enumerate(zip(value, kinds,
                                                                           strict=True)))


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _first(found: Any) -> str:
    return next((one for one in found if one), "")


def _not(name: str, wanted: str, value: Any) -> str:
    return f"{name} is not {wanted}: {value!r:.60}"
