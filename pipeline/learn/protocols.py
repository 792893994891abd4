"""The three ways a benchmark is split, and the share of the training samples that is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.learn.cell import Split
from pipeline.learn.evaluate import FIRST_OF, Protocol, split_groups
from pipeline.learn.outcomes import FEWEST
from pipeline.learn.table import Table
from pipeline.spec.errors import BadRequest

PROTOCOLS = {
    "paper": "random folds of single samples, as in the paper: places recur on both sides",
    "site": "folds of whole places (site, field chip, grid cell)",
    "transfer": "one region held out at a time",
}
FOLDS = 10  # of the paper, section 4.3


@dataclass(frozen=True)
class Plan:
    """The splits of one benchmark under one protocol.

    Attributes:
        protocol: a key of ``PROTOCOLS``.
        folds: per seed.
        seeds: repetitions.
        splits: seed by seed.
        names: what is tested in each fold: a region, or its number.
        text: the protocol in words, printed with every table.
        given: the folds are the benchmark's own, the same with every seed.
    """

    protocol: str
    folds: int
    seeds: int
    splits: tuple[Split, ...]
    names: tuple[str, ...]
    text: str
    given: bool = False

    @property
    def test_share(self) -> float:
        """Test samples for each training sample, mean over the splits."""
        return float(np.mean([s.test.sum() / max(int(s.train.sum()), 1) for s in self.splits]))


def make_plan(
    table: Table, protocol: str, *, folds: int | None, seeds: int,
    region: np.ndarray | None = None, official: np.ndarray | None = None,
) -> Plan:
    """Split a benchmark.

    Args:
        table: of the benchmark.
        protocol: a key of ``PROTOCOLS``.
        folds: per seed, 1 = only the first of five; None = ten. ``transfer`` and official test
            sets bring their own.
        seeds: repetitions: other folds where they are drawn, other initial weights always.
        region: (N,) str, for ``transfer``; None where the benchmark has no regions.
        official: (N,) ``train``, ``validation`` or ``test``, or None. Under ``paper`` it replaces
            the folds, as in the paper (section 4.3); the network is stopped on an inner split of
            its own all the same.

    Raises:
        BadRequest: unknown protocol, or splits that cannot be made or scored.
    """
    if protocol not in PROTOCOLS:
        raise BadRequest("unknown protocol", got=protocol, allowed=", ".join(PROTOCOLS))
    own = protocol == "transfer" or (protocol == "paper" and official is not None)
    if own and folds is not None:
        raise BadRequest("the folds of this protocol are given by the benchmark", got=folds,
                         then="leave --folds out")
    if protocol == "transfer":
        names, masks = _regions(table, region)
        splits = [_split(table, seed, k, mask, protocol, masks) for seed in range(seeds)
                  for k, mask in enumerate(masks)]
        what = f"each of {len(names)} regions held out ({', '.join(names)})"
    elif own:
        assert official is not None
        names, masks = ["official"], [official == "test"]
        splits = [_split(table, seed, 0, masks[0], protocol, masks) for seed in range(seeds)]
        what = "the official test samples"
    else:
        splits = _folds(table, protocol, FOLDS if folds is None else folds, seeds)
        names = [str(k) for k in range(splits[0].folds)]
        what = _words(table, protocol, FOLDS if folds is None else folds)
    _check(table, splits, names)
    return Plan(protocol, len(names), seeds, tuple(splits), tuple(names),
                f"Protocol `{protocol}`: {what}; {seeds} seed{'s' * (seeds > 1)}; "
                f"{_stopping(table, protocol, len(names))}", own)


def _stopping(table: Table, protocol: str, folds: int) -> str:
    """In words where early stopping and temperatures come from."""
    inner = "by place" if protocol == "transfer" else "of the same kind"
    split = f"by an inner split of the training part, {inner}"
    if table.task.kind != "classification":
        return f"early stopping, where a row has it, {split}"
    others = " (temperatures of averages and trees by the other folds)" * (folds > 1)
    return f"early stopping, where a row has it, and temperatures {split}{others}"


def part_of(table: Table, split: Split, share: float) -> Split:
    """The split with only a share of its training samples; a larger share holds the smaller one.

    Args:
        table: of the benchmark.
        split: to be thinned; its test rows stay as they are.
        share: above 0, at most 1. Whole places are taken, single samples under ``paper``.
    """
    if share >= 1:
        return split
    unit = split_groups(table, "random" if split.kind == "paper" else "site")
    order = np.random.default_rng([split.seed, split.fold]).permutation(
        np.unique(unit[split.train]))
    rank = np.empty(int(unit.max()) + 1, int)
    rank[order] = np.arange(len(order))
    size = np.bincount(rank[unit[split.train & table.primary]], minlength=len(order))
    kept = 1 + int(np.searchsorted(np.cumsum(size), share * size.sum()))
    if kept < 2:  # one part would stop what it has taught
        raise BadRequest("a share leaves a single place or sample to learn from", got=share,
                         then="use a larger --share")
    return replace(split, train=split.train & (rank[unit] < kept))


def with_unlabelled(plan: Plan, table: Table) -> Plan:
    """The same splits for a table that goes on with rows without a label, all to learn from.

    Args:
        plan: of the labelled rows, the first of the table.
        table: labelled and unlabelled rows. Unlabelled ones at a place that is tested are left
            out of that split, unless samples are split at random.
    """
    def longer(split: Split) -> Split:
        more = len(table.sample) - len(split.train)
        test = np.concatenate([split.test, np.zeros(more, bool)])
        train = np.concatenate([split.train, np.ones(more, bool)])
        if split.kind != "paper":
            train[-more:] &= ~np.isin(table.groups[-more:], table.groups[test])
        return replace(split, train=train, test=test)

    return replace(plan, splits=tuple(longer(s) for s in plan.splits))


def _folds(table: Table, protocol: str, folds: int, seeds: int) -> list[Split]:
    kind = "random" if protocol == "paper" else "site"
    groups, need = len(np.unique(split_groups(table, kind))), folds if folds > 1 else FIRST_OF
    if groups <= need:
        raise BadRequest(f"{groups} {'samples' if kind == 'random' else 'places'} cannot make "
                         f"{need} folds", then="use fewer --folds")
    splits: list[Split] = []
    for seed, test in Protocol(kind, folds, seeds).splits(table):
        fold = len(splits) % folds
        splits.append(Split(seed, fold, folds, ~test, test, protocol))
    return splits


def _regions(table: Table, region: np.ndarray | None) -> tuple[list[str], list[np.ndarray]]:
    """Names and rows of the regions that have enough samples to be scored."""
    names = [] if region is None else [
        str(r) for r in np.unique(region) if (table.primary & (region == r)).sum() >= FEWEST]
    if region is None or len(names) < 2:
        raise BadRequest("the benchmark has fewer than two regions", got=", ".join(names),
                         then="use --protocol site")
    return names, [region == r for r in names]


def _split(
    table: Table, seed: int, fold: int, test: np.ndarray, protocol: str,
    masks: Sequence[np.ndarray],
) -> Split:
    """Test rows as given; whatever shares a place with them is not trained on either."""
    train = ~np.isin(table.groups, table.groups[test])
    return Split(seed, fold, len(masks), train, test, protocol)


def _words(table: Table, protocol: str, folds: int) -> str:
    count = f"{folds} folds" if folds > 1 else f"the first of {FIRST_OF} folds"
    if protocol == "paper":
        return f"{count} of single samples at random (places recur on both sides)"
    return f"{count} of whole places ({len(np.unique(table.groups))})"


def _check(table: Table, splits: Sequence[Split], names: Sequence[str]) -> None:
    """Refuse what could not be trained or scored, before anything is trained."""
    for split in splits:
        if not (split.train & table.primary).any():
            raise BadRequest(f"nothing is left to train on for fold {names[split.fold]}",
                             then="use another --protocol")
    for sensor in table.sensors:
        if all((s.test & table.scored(sensor)).sum() < FEWEST for s in splits):
            raise BadRequest(f"no fold has enough samples of {sensor} to be scored",
                             allowed=f"from {FEWEST}", then="use fewer --folds, or leave it out "
                             "of --sensors")
