"""Names -> networks. A new encoder or method is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from models.encoders.convtran import ConvTran
from models.encoders.lstm import LSTM
from models.encoders.mlp import MLP
from models.encoders.tempcnn import TempCNN
from models.encoders.transformer import Transformer
from models.losses import TEMPERATURE
from models.mdico import MDiCo
from models.methods.ablations import VARIANTS, Ablation
from models.methods.decur import DeCUR
from models.methods.discom import DisCoMKD
from models.methods.dml import DML
from models.methods.embracenet import EmbraceNet
from models.methods.esensi import ESensI
from models.methods.fcom import FCoMAverage
from models.methods.fmoddrop import FModDrop
from models.methods.fusion import MMGF, InputFu
from models.methods.individual import Individual
from models.methods.shaspec import ShaSpec

ENCODERS: dict[str, Any] = {
    "tempcnn": TempCNN,
    "mlp": MLP,
    "lstm": LSTM,
    "transformer": Transformer,
    "convtran": ConvTran,
}
METHODS: dict[str, Any] = {
    "mdico": MDiCo,
    "individual": Individual,
    "embracenet": EmbraceNet,
    "shaspec": ShaSpec,
    "decur": DeCUR,
    "dml": DML,
    "discom-kd": DisCoMKD,
    "fmoddrop": FModDrop,
    "fcom-av": FCoMAverage,
    "esensi": ESensI,
    "mmgf": MMGF,
    "inputfu": InputFu,
    "mdico-ablation": Ablation,
    **VARIANTS,
}

REQUIRED = ("sensors", "steps", "outputs")
COMMON: Mapping[str, int | float] = {"features": 128, "temperature": TEMPERATURE}


def complete(encoder: str, options: Mapping[str, Any], method: str = "mdico") -> dict[str, Any]:
    """Options with every default written out: a card must not depend on defaults of the code."""
    return {**COMMON, **ENCODERS[encoder].OPTIONS, **_own(METHODS[method]), **options}


def single_sensor(method: str) -> bool:
    """Whether a method predicts from one sensor; else it has ``predict_all(inputs)`` instead."""
    return getattr(METHODS[method], "SINGLE_SENSOR", True)


def regression(method: str) -> bool:
    """Whether a method can predict a value."""
    return getattr(METHODS[method], "REGRESSION", True)


def build(method: str, encoder: str, options: Mapping[str, Any]) -> nn.Module:
    """A network with fresh weights.

    Args:
        method: a key of ``METHODS``.
        encoder: a key of ``ENCODERS``.
        options: plain JSON: ``sensors`` {key: channels}, ``steps`` T, ``outputs`` K (1 for a
            regression); optionally ``features``, ``temperature`` (of the methods with a contrastive
            loss) and the OPTIONS of the encoder and of the method.

    Returns:
        Module with ``predict(sensor, x)`` (see ``single_sensor``) and
        ``losses(inputs, present, target, class_weights)``.

    Raises:
        ValueError: unknown method, encoder or option, or a required one is missing.
    """
    if method not in METHODS or encoder not in ENCODERS:
        raise ValueError(
            f"no method {method!r} with encoder {encoder!r}; "
            f"there are {', '.join(METHODS)} and {', '.join(ENCODERS)}"
        )
    kind, encoder_kind = METHODS[method], ENCODERS[encoder]
    allowed = {*REQUIRED, *COMMON, *encoder_kind.OPTIONS, *_own(kind)}
    if wrong := sorted(set(options) ^ (set(options) & allowed | set(REQUIRED))):
        raise ValueError(f"unknown or missing options {wrong}; allowed {sorted(allowed)}")
    full = complete(encoder, options, method)
    encoder_options = {k: full[k] for k in encoder_kind.OPTIONS}

    def make(channels: int, features: int) -> nn.Module:
        return encoder_kind(channels, int(full["steps"]), features, **encoder_options)

    method_options = {k: full[k] for k in _own(kind)}
    if issubclass(kind, MDiCo):
        method_options["temperature"] = float(full["temperature"])
    return kind(make, dict(full["sensors"]), int(full["outputs"]), int(full["features"]),
                **method_options)


def _own(kind: Any) -> Mapping[str, Any]:
    """Options of a method beside the common ones."""
    return getattr(kind, "OPTIONS", {})
