"""Rows of a table: a method, and what was switched on beside it (``mdico+season+ema``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from models.ensemble import BESIDE
from models.registry import ENCODERS, METHODS, complete
from pipeline.learn.fit import Settings
from pipeline.spec.errors import BadRequest

# Trees are rows like any other; "no-satellite" sees season and place alone.
TREES = ("extra-trees", "gradient-boosting", "no-satellite")

SEASON = ("month_sin", "month_cos")
STOPPING = ("stop5", "fixed")  # switches to another stopping rule than that of all rows


@dataclass(frozen=True)
class Recipe:
    """Everything about how a row is trained, beside its method and encoder.

    The defaults are the paper's inputs and network, and the one budget that every method gets.

    Attributes:
        settings: of the training loop.
        network: options of ``models.build`` that differ from its defaults.
        context: channels beside the features (``SensorCard.context``).
        place: whether the place features of the table are inputs.
        location: whether longitude and latitude are place features, too.
        members: networks that are averaged, each stopped on another inner fold.
        forest: average with extra-trees on the same inputs.
        boost: average with gradient boosting on the same inputs.
        prior: average with extra-trees on season and place alone, which no sensor can mislead.
        weigh: networks and trees weigh what serves the inner folds best, instead of the same.
        teach: share of the target that comes from extra-trees on all sensors together (their
            out-of-bag predictions): what one sensor cannot see, others have seen.
        distil: share of the target that comes from the averaged members; one network remains.
        weighted: whether rare classes weigh more in the loss, as in the paper.
        unlabelled: also learn from the rows without a label, labelled by the teacher.
    """

    settings: Settings = field(default_factory=lambda: Settings(drop=0.0, jitter=False))
    network: Mapping[str, int | float] = field(default_factory=dict)
    context: tuple[str, ...] = ()
    place: bool = False
    location: bool = False
    members: int = 1
    forest: bool = False
    boost: bool = False
    prior: bool = False
    weigh: bool = False
    teach: float = 0.0
    distil: float = 0.0
    weighted: bool = True
    unlabelled: bool = False

    @property
    def trees(self) -> tuple[str, ...]:
        """Kinds of trees beside the networks, in the order of ``models.ensemble.BESIDE``."""
        wanted = (self.forest, self.boost, self.prior)
        return tuple(kind for kind, yes in zip(BESIDE, wanted, strict=True) if yes)


def _settings(**changed: Any):
    return lambda r: replace(r, settings=replace(r.settings, **changed))


def _network(**changed: int | float):
    return lambda r: replace(r, network={**r.network, **changed})


def _context(*names: str):
    return lambda r: replace(r, context=(*r.context, *(n for n in names if n not in r.context)))


SMALL = {"width": 64, "dense": 64, "features": 64}

# What a row can add, and in which words a table says so.
SWITCHES: dict[str, tuple[str, Any]] = {
    "stop5": ("the paper's own stopping rule, patience 5",
              _settings(patience=5, epochs=100, schedule="constant")),
    "fixed": ("20 epochs whatever the validation loss", _settings(patience=0, epochs=20)),
    "season": ("month of each step as sine and cosine", _context(*SEASON)),
    "place": ("elevation, slope, land cover", lambda r: replace(r, place=True)),
    "location": ("longitude and latitude", lambda r: replace(r, location=True)),
    "valid": ("a channel that tells a gap from an observation", _context("valid")),
    "gaps": ("that channel, and observations withheld from half of the samples in training",
             lambda r: _context("valid")(_settings(drop=0.5)(r))),
    "jitter": ("levels shifted in training: radar 1.5 dB, optical 5 %", _settings(jitter=True)),
    "haze": ("levels shifted more: radar 2 dB, reflectance by haze (0.03 in the blue) and 0.01",
             _settings(haze=True)),
    "hide": ("place withheld from a third of the samples", _settings(hide=1 / 3)),
    "blur": ("noise of 0.3 standard deviations on place, against learning sites by heart",
             _settings(blur=0.3)),
    "small": ("networks of 64 filters, dense units and features, of these what an encoder has",
              _network(**SMALL)),
    "cycle": ("40 epochs of a one-cycle learning rate, last weights",
              _settings(schedule="cycle", epochs=40, patience=0)),
    "ema": ("averaged weights, decay 0.99 a step", _settings(ema=0.99)),
    "decay": ("weight decay 0.05", _settings(decay=0.05)),
    "bf16": ("products in bfloat16", _settings(bf16=True)),
    "warm": ("temperature 0.5 in the contrastive loss", _network(temperature=0.5)),
    "memory": ("1 024 past samples as further negatives", _network(memory=1024)),
    "cv5": ("five networks averaged, each stopped on another fifth",
            lambda r: replace(r, members=5)),
    "forest": ("averaged with extra-trees", lambda r: replace(r, forest=True)),
    "boost": ("averaged with gradient boosting", lambda r: replace(r, boost=True)),
    "prior": ("averaged with extra-trees on season and place alone",
              lambda r: replace(r, prior=True)),
    "weigh": ("five networks and what trees stand beside them, weighed on the inner folds",
              lambda r: replace(r, members=5, weigh=True)),
    "flat": ("classes weigh as often as they occur", lambda r: replace(r, weighted=False)),
    "teach": ("half of the target from extra-trees on all sensors",
              lambda r: replace(r, teach=0.5)),
    "distil": ("half of the target from five averaged networks",
               lambda r: replace(r, members=5, distil=0.5)),
    "unlabelled": ("samples without a label, labelled by extra-trees on all sensors",
                   lambda r: replace(r, unlabelled=True)),
}


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        text: as it was asked for, e.g. ``mdico+season``.
        method: a key of ``models.registry.METHODS`` or of ``TREES``.
        switches: keys of ``SWITCHES``.
        encoder: a key of ``models.ENCODERS``.
        recipe: what the switches amount to.
    """

    text: str
    method: str
    switches: tuple[str, ...]
    encoder: str
    recipe: Recipe

    def config(self) -> str:
        """All that decides the result, defaults included, as canonical JSON."""
        recipe = asdict(self.recipe)
        # cells are older than these switches
        if not self.recipe.settings.haze:
            del recipe["settings"]["haze"]
        if not self.recipe.prior:
            del recipe["prior"]
        if self.method not in TREES:
            recipe["network"] = complete(self.encoder, self.recipe.network, self.method)
        return json.dumps({"method": self.method, "encoder": self.encoder, "recipe": recipe},
                          sort_keys=True)


def parse_row(text: str, encoder: str = "tempcnn") -> Row:
    """Row of ``METHOD[+SWITCH...]``.

    Raises:
        BadRequest: there is no such method, switch or encoder.
    """
    method, *switches = text.split("+")
    if method not in METHODS and method not in TREES:
        raise BadRequest("unknown method", got=method,
                         allowed=", ".join([*METHODS, *TREES]),
                         then="see python -m pipeline.evaluate --list")
    if encoder not in ENCODERS:
        raise BadRequest("unknown encoder", got=encoder, allowed=", ".join(ENCODERS))
    recipe = Recipe()
    for name in switches:
        if name not in SWITCHES:
            raise BadRequest("unknown switch", got=name, allowed=", ".join(SWITCHES),
                             then="see python -m pipeline.evaluate --list")
        recipe = SWITCHES[name][1](recipe)
    if "small" in switches and method not in TREES:
        known = complete(encoder, {}, method)
        recipe = replace(recipe, network={k: v for k, v in recipe.network.items()
                                          if k in known or k not in SMALL})
    return Row(text, method, tuple(switches), encoder, recipe)
