"""Which rows a table has: what ``--methods`` and ``--encoders`` stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.methods.ablations import Ablation
from models.methods.pretrained import WeightsAbsent
from models.registry import (
    ENCODERS,
    IMAGES,
    METHODS,
    build,
    complete,
    regression,
    single_sensor,
)
from pipeline.learn.members import known_without_satellite, network_options
from pipeline.learn.recipe import STOPPING, SWITCHES, TREES, Row, parse_row
from pipeline.learn.table import Table, Tensors
from pipeline.spec.errors import BadRequest

GROUPS = {
    "all": "every method, the paper's own stopping rule beside it, and the tree baselines",
    "ablations": "Tables 6 and 7: MDiCo without its parts, each also with a fixed length",
    "beyond": "MDiCo with each switch in turn",
}
_PAPERS_STOP = ("individual+stop5", "mdico+stop5")


def choose_rows(methods: str, encoders: str, common: Sequence[str] = ()) -> tuple[Row, ...]:
    """Rows of a table, in its order: fusion references, Individual, rivals, MDiCo, trees.

    Args:
        methods: comma list of rows (``mdico+season``) and of ``GROUPS``.
        encoders: comma list, or ``all``; trees have none.
        common: switches that every row has beside its own.

    Raises:
        BadRequest: there is no such method, switch or encoder.
    """
    texts = dict.fromkeys(
        text for part in _parts(methods, "--methods") for text in _group(part) or (part,)
    )
    keys = (tuple(series_encoders()) if encoders == "all"
            else tuple(dict.fromkeys(_parts(encoders, "--encoders"))))
    for key in keys:
        if key not in ENCODERS:
            raise BadRequest("unknown encoder", got=key,
                             allowed=", ".join([*ENCODERS, "all"]))
    rows = []
    for text in texts:
        trees = parse_row(text).method in TREES
        rows += [_both(text, key, common) for key in (keys[:1] if trees else keys)]
    return tuple(rows)


def _both(text: str, encoder: str, common: Sequence[str]) -> Row:
    """A row under its own name, with the common switches as well."""
    row = parse_row(text, encoder)
    return replace(row, recipe=parse_row("+".join((row.method, *common, *row.switches)),
                                         encoder).recipe)


def rivals() -> tuple[str, ...]:
    """Methods of the registry without the ablations, in the order of a table."""
    found = [m for m, kind in METHODS.items()
             if not (isinstance(kind, type) and issubclass(kind, Ablation))]
    place = {"individual": 1, "mdico": 3}
    return tuple(sorted(found, key=lambda m: place.get(m, 2 if single_sensor(m) else 0)))


def ablations() -> tuple[str, ...]:
    """Ablations of MDiCo that have a name."""
    return tuple(m for m, kind in METHODS.items()
                 if isinstance(kind, type) and issubclass(kind, Ablation) and m != "mdico-ablation")


def series_encoders() -> tuple[str, ...]:
    """Encoders of time series; those of images go to image sensors, whatever the row's is."""
    return tuple(k for k in ENCODERS if k not in IMAGES)


def with_weights(rows: Sequence[Row], folder: Path) -> tuple[Row, ...]:
    """The rows, those of pretrained networks with the folder of the user's weights."""
    def given(row: Row) -> Row:
        if row.method in TREES or "weights" not in complete(row.encoder, {}, row.method):
            return row
        network: dict[str, Any] = {**row.recipe.network, "weights": str(folder)}
        return replace(row, recipe=replace(row.recipe, network=network))

    return tuple(given(row) for row in rows)


def why_not(row: Row, table: Table, data: Tensors) -> str:
    """Why a row cannot be trained on a table; empty where it can.

    Args:
        row: of the table to be made.
        table: the samples.
        data: the same as the networks see it, for a trial build.
    """
    if row.recipe.place and not set(table.static) - {"lon", "lat"}:
        return "the benchmark has no place features"
    if row.recipe.unlabelled and table.labelled.all():
        return "the benchmark has no samples without a label"
    if row.method in TREES:
        return ""
    averaged = row.recipe.trees or row.recipe.weigh
    if (averaged or row.recipe.teach or row.recipe.distil) and table.task.kind == "multilabel":
        return "not for labels that do not exclude each other"
    if averaged and not single_sensor(row.method):
        return "trees stand beside networks of single sensors"
    if row.recipe.prior and not known_without_satellite(table, row):
        return "knows neither season nor place"
    if table.task.kind == "regression" and not regression(row.method):
        return "needs class probabilities"
    if len(table.sensors) < 2 and not single_sensor(row.method):
        return "fuses sensors, and there is only one"
    if unknown := sorted(set(row.recipe.network) - set(complete(row.encoder, {}, row.method))):
        return f"has no {', '.join(unknown)}"
    try:
        build(row.method, row.encoder, network_options(table, data, row))
    except WeightsAbsent as error:
        return (str(error) if row.recipe.network.get("weights")
                else "pretrained, and its weights are not here (--weights DIR)")
    except ValueError as error:
        return str(error)
    return ""


def _group(name: str) -> Sequence[str]:
    if name == "all":
        # without season a row without satellite would know nothing at all
        trees = (f"{t}+season" if t == "no-satellite" else t for t in TREES)
        return (*rivals(), *_PAPERS_STOP, *trees)
    if name == "ablations":
        plain = ("individual", "mdico", *ablations())
        return (*plain, *(f"{m}+fixed" for m in plain))
    if name == "beyond":
        # stopping rules belong beside every row, not among the improvements
        return ("individual", "mdico", *(f"mdico+{s}" for s in SWITCHES if s not in STOPPING))
    return ()


def _parts(text: str, option: str) -> list[str]:
    parts = [p.strip() for p in text.split(",") if p.strip()]
    if not parts:
        raise BadRequest(f"{option} is empty", then="see python -m pipeline.evaluate --list")
    return parts
