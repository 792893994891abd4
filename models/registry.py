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
    encoder_options: dict[str, Any] = {k: options.get(k, v) for k, v in kind.OPTIONS.items()}

    def make(channels: int, features: int) -> nn.Module:
        return kind(channels, int(options["steps"]), features, **encoder_options)

    sensors, outputs = dict(options["sensors"]), int(options["outputs"])
    features = int(options.get("features", COMMON["features"]))
    if method == "individual":
        return Individual(make, sensors, outputs, features)
    temperature = float(options.get("temperature", COMMON["temperature"]))
    return MDiCo(make, sensors, outputs, features, temperature)
