"""Names -> networks. A new encoder or method is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models.encoders.convtran import ConvTran
from models.encoders.lstm import LSTM
from models.encoders.mlp import MLP
from models.encoders.pixels import as_series
from models.encoders.resnet import ResNet18, ResNet34, ResNet50
from models.encoders.tempcnn import TempCNN
from models.encoders.transformer import Transformer
from models.ensemble import BESIDE, Ensemble
from models.forest import Forest
from models.losses import TEMPERATURE
from models.mdico import MDiCo
from models.methods.ablations import VARIANTS, Ablation
from models.methods.base import EncoderFactory
from models.methods.decur import DeCUR
from models.methods.discom import DisCoMKD
from models.methods.dml import DML
from models.methods.embracenet import EmbraceNet
from models.methods.esensi import ESensI
from models.methods.fcom import FCoMAverage
from models.methods.fmoddrop import FModDrop
from models.methods.fusion import MMGF, InputFu
from models.methods.individual import Individual
from models.methods.pretrained import AnySat, Foundation, OmniSat
from models.methods.shaspec import ShaSpec

ENCODERS: dict[str, Any] = {
    "tempcnn": TempCNN,
    "mlp": MLP,
    "lstm": LSTM,
    "transformer": Transformer,
    "convtran": ConvTran,
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
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
    "anysat": AnySat,
    "omnisat": OmniSat,
    "foundation": Foundation,
    "mdico-ablation": Ablation,
    **VARIANTS,
}

IMAGES = ("resnet18", "resnet34", "resnet50")  # encoders of one image instead of a series

REQUIRED = ("sensors", "steps", "outputs")
# common to all, so that one set of options builds every method of a table; the last two are read by
# those with a contrastive loss
COMMON: Mapping[str, int | float] = {"features": 128, "temperature": TEMPERATURE, "memory": 0}
OVERRIDES = "encoders"  # the option that gives sensors an encoder of their own


def complete(encoder: str, options: Mapping[str, Any], method: str = "mdico") -> dict[str, Any]:
    """Options with every default written out: a card must not depend on defaults of the code.

    Raises:
        ValueError: unknown method, encoder or override.
    """
    _known(method, encoder)
    full = {**COMMON, **ENCODERS[encoder].OPTIONS, **_own(METHODS[method]), **options}
    if OVERRIDES in options:
        full[OVERRIDES] = {s: _override(s, given) for s, given in options[OVERRIDES].items()}
    return full


def single_sensor(method: str) -> bool:
    """Whether a method predicts from one sensor; else it has ``predict_all(inputs)`` instead."""
    return getattr(METHODS[method], "SINGLE_SENSOR", True)


def regression(method: str) -> bool:
    """Whether a method can predict a value."""
    return getattr(METHODS[method], "REGRESSION", True)


def image_encoders(
    shapes: Mapping[str, tuple[int, ...]], encoder: str = "resnet50"
) -> dict[str, str]:
    """The option ``encoders`` for sensors of these shapes.

    One image without a time axis, or with one step, takes ``encoder`` (the paper: ResNet-50,
    section 4.3); a series takes the encoder of the table, also one of small images (``as_series``).

    Args:
        shapes: per sensor that of one sample: (T, C), (T, C, H, W) or (C, H, W).
        encoder: one of ``IMAGES``.
    """
    def one_image(shape: tuple[int, ...]) -> bool:
        return len(shape) == 3 or (len(shape) == 4 and shape[0] == 1 and shape[2:] != (1, 1))

    return {sensor: encoder for sensor, shape in shapes.items() if one_image(shape)}


def build(method: str, encoder: str, options: Mapping[str, Any]) -> nn.Module:
    """A network with fresh weights, or several of them and forests as one (``Ensemble``).

    Args:
        method: a key of ``METHODS``.
        encoder: a key of ``ENCODERS``.
        options: plain JSON: ``sensors`` {key: channels}, ``steps`` T or {key: T}, ``outputs`` K
            (1 for a regression); optionally ``features``, ``temperature`` and ``memory`` (of the
            methods with a contrastive loss), the OPTIONS of the encoder and of the method, and
            ``encoders`` {key: name, or {"name": name, its OPTIONS}} for sensors with another
            encoder than the rest.
            ``members`` (their number), each of ``ensemble.BESIDE`` {key: (trees, nodes, depth)} and
            ``shares`` {key: number of weights} make an ensemble, which predicts but is not trained
            as one.
            A series of small images (N, T, C, H, W) is given to the encoder as its spatial mean
            where its sensor has C channels, and pixel by pixel where it has C * H * W.

    Returns:
        Module with ``predict(sensor, x)`` and ``embed(sensor, x)`` (or ``predict_all(inputs)``, see
        ``single_sensor``) and ``losses(inputs, present, target, class_weights)``.

    Raises:
        ValueError: unknown method, encoder, sensor or option, a required one is missing, or the
            method cannot be built for these sensors.
        WeightsAbsent: (a ValueError) the method needs weights that are not here.
    """
    several = ("members", *BESIDE, "shares")
    single = {k: v for k, v in options.items() if k not in several}
    if len(single) == len(options):
        return _one(method, encoder, options)
    trees = {
        kind: {s: Forest(int(count), int(nodes), int(depth), int(options["outputs"]))
               for s, (count, nodes, depth) in options.get(kind, {}).items()}
        for kind in BESIDE}
    members = [_one(method, encoder, single) for _ in range(int(options.get("members", 1)))]
    shares = {s: torch.zeros(int(n)) for s, n in options.get("shares", {}).items()}
    return Ensemble(members, trees, int(options["outputs"]), shares)


def _one(method: str, encoder: str, options: Mapping[str, Any]) -> nn.Module:
    _known(method, encoder)
    kind, encoder_kind = METHODS[method], ENCODERS[encoder]
    allowed = {*REQUIRED, OVERRIDES, *COMMON, *encoder_kind.OPTIONS, *_own(kind)}
    if wrong := sorted(set(options) ^ (set(options) & allowed | set(REQUIRED))):
        raise ValueError(f"unknown or missing options {wrong}; allowed {sorted(allowed)}")
    full = complete(encoder, options, method)
    method_options = {k: full[k] for k in _own(kind)}
    if issubclass(kind, MDiCo):
        method_options |= {"temperature": float(full["temperature"]), "memory": int(full["memory"])}
    return kind(_factory(encoder, full), dict(full["sensors"]), int(full["outputs"]),
                int(full["features"]), **method_options)


def _factory(encoder: str, full: Mapping[str, Any]) -> EncoderFactory:
    """What makes the encoders of completed options."""
    base = {"name": encoder, **{k: full[k] for k in ENCODERS[encoder].OPTIONS}}
    sensors, steps, overrides = full["sensors"], full["steps"], full.get(OVERRIDES, {})
    if not isinstance(steps, Mapping):
        steps = dict.fromkeys(sensors, steps)
    for name, given in (("steps", steps), (OVERRIDES, overrides)):
        if stray := sorted(set(given) - set(sensors)):
            raise ValueError(f"{name} of sensors that there are not: {stray}; "
                             f"there are {sorted(sensors)}")
    if missing := sorted(set(sensors) - set(steps)):
        raise ValueError(f"no steps of {missing}; give one number, or one for each sensor")
    plans = {s: (int(steps[s]), overrides.get(s, base)) for s in sensors}

    def make(channels: int, features: int, sensor: str | None = None) -> nn.Module:
        first = next(iter(plans))
        if sensor is None and any(plan != plans[first] for plan in plans.values()):
            got = ", ".join(f"{s}: {t} of {plan['name']}" for s, (t, plan) in plans.items())
            raise ValueError("this method has an encoder that all sensors share: they need the "
                             f"same steps and encoder; got {got}")
        steps, plan = plans[sensor or first]
        own = {k: v for k, v in plan.items() if k != "name"}
        module = ENCODERS[plan["name"]](channels, steps, features, **own)
        if plan["name"] not in IMAGES:
            module.register_forward_pre_hook(partial(_series_first, channels))
        return module

    return make


def _series_first(channels: int, module: nn.Module, x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Before a series encoder: (N, T, C, H, W) -> (N, T, channels)."""
    return (as_series(x[0], channels), *x[1:])


def _override(sensor: str, given: str | Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the option ``encoders`` with all defaults."""
    own = {"name": given} if isinstance(given, str) else dict(given)
    name = own.get("name")
    if name not in ENCODERS:
        raise ValueError(f"no encoder {name!r} for {sensor}; there are {', '.join(ENCODERS)}")
    if wrong := sorted(set(own) - {"name", *ENCODERS[name].OPTIONS}):
        raise ValueError(f"unknown options {wrong} of the encoder of {sensor}; "
                         f"allowed {sorted(ENCODERS[name].OPTIONS)}")
    return {"name": name, **ENCODERS[name].OPTIONS, **own}


def _known(method: str, encoder: str) -> None:
    if method not in METHODS or encoder not in ENCODERS:
        raise ValueError(
            f"no method {method!r} with encoder {encoder!r}; "
            f"there are {', '.join(METHODS)} and {', '.join(ENCODERS)}"
        )


def _own(kind: Any) -> Mapping[str, Any]:
    """Options of a method beside the common ones."""
    return getattr(kind, "OPTIONS", {})
