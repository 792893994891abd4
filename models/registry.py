"""Names -> networks. A new encoder or method is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from models.encoders.tempcnn import TempCNN
from models.losses import TEMPERATURE
from models.mdico import MDiCo
from models.methods.individual import Individual

ENCODERS = {"tempcnn": TempCNN}
METHODS = ("mdico", "individual")

REQUIRED = ("sensors", "steps", "outputs")
COMMON: Mapping[str, int | float] = {"features": 128, "temperature": TEMPERATURE}


def complete(encoder: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with every default written out: a card must not depend on defaults of the code."""
    return {**COMMON, **ENCODERS[encoder].OPTIONS, **options}


def build(method: str, encoder: str, options: Mapping[str, Any]) -> nn.Module:
    """A network with fresh weights.

    Args:
        method: ``mdico`` or ``individual``.
        encoder: ``tempcnn``.
        options: plain JSON: ``sensors`` {key: channels}, ``steps`` T, ``outputs`` K (1 for a
            regression); optionally ``features``, ``temperature`` and the encoder's own OPTIONS.

    Returns:
        Module with ``predict(sensor, x)`` and ``losses(inputs, present, target)``.

    Raises:
        ValueError: unknown method, encoder or option, or a required one is missing.
    """
    if method not in METHODS or encoder not in ENCODERS:
        raise ValueError(
            f"no method {method!r} with encoder {encoder!r}; "
            f"there are {', '.join(METHODS)} and {', '.join(ENCODERS)}"
        )
    kind = ENCODERS[encoder]
    allowed = {*REQUIRED, *COMMON, *kind.OPTIONS}
    if wrong := sorted(set(options) ^ (set(options) & allowed | set(REQUIRED))):
        raise ValueError(f"unknown or missing options {wrong}; allowed {sorted(allowed)}")
    full = complete(encoder, options)
    encoder_options = {k: full[k] for k in kind.OPTIONS}

    def make(channels: int, features: int) -> nn.Module:
        return kind(channels, int(full["steps"]), features, **encoder_options)

    sensors, outputs, features = dict(full["sensors"]), int(full["outputs"]), int(full["features"])
    if method == "individual":
        return Individual(make, sensors, outputs, features)
    return MDiCo(make, sensors, outputs, features, float(full["temperature"]))
