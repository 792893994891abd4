"""No place is on both sides of a split: of the folds that score, and of those that stop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.learn.evaluate import Protocol
from pipeline.learn.members import inner_parts
from pipeline.learn.protocols import make_plan, part_of
from pipeline.learn.splits import joined_groups
from pipeline.train import make_request, parse
from tests.support.evaluation import toy_table

TABLE = toy_table(n=240, places=24)  # ten samples a place


def shared(train: np.ndarray, test: np.ndarray) -> set[int]:
    """Places that have rows in both."""
    assert train.any()
    assert test.any()
    assert not (train & test).any()
    return set(TABLE.groups[train]) & set(TABLE.groups[test])


def test_training_keeps_places_together_unless_told_otherwise() -> None:
    base = ["--task", "lfmc", "--samples", "x", "--out", "y"]
    for options, kept in (([], True), (["--protocol", "random"], False)):
        protocol = make_request(parse([*base, *options])).protocol
        splits = [test for _, test in protocol.splits(TABLE)]
        assert len(splits) == 5
        assert all((shared(~test, test) == set()) == kept for test in splits)


@pytest.mark.parametrize("members", [1, 5])
def test_what_stops_a_training_lies_elsewhere_too(members: int) -> None:
    _, test = next(Protocol("site", 5).splits(TABLE))
    for kind, kept in (("site", True), ("transfer", True), ("random", False), ("paper", False)):
        for part in inner_parts(TABLE, ~test, kind, 0, members):
            assert not (part & test).any()
            assert (shared(~test & ~part, part) == set()) == kept


@pytest.mark.parametrize(("protocol", "count"), [("site", 5), ("transfer", None)])
def test_an_evaluation_keeps_places_together(protocol: str, count: int | None) -> None:
    """By region, too, where a place lies on the border of two."""
    north = (TABLE.groups < 10) | ((TABLE.groups == 10) & (np.arange(240) < 120))
    assert shared(north, ~north) == {10}
    region = np.where(north, "north", "south")
    plan = make_plan(TABLE, protocol, folds=count, seeds=1, region=region)
    for split in plan.splits:
        assert shared(split.train, split.test) == set()
        some = part_of(TABLE, split, 0.4)
        assert 0 < some.train.sum() < split.train.sum()
        assert shared(some.train, split.train & ~some.train) == set()


def test_places_are_joined_over_a_chain_of_sets() -> None:
    """a shares a cell with b, b another with c, c another with d: a and d are one place."""
    names = np.array(["a", "b", "b", "c", "c", "d", "e"])
    groups = np.array(["9", "1", "1", "5", "5", "2", "3"])
    lon = np.array([4.001, 4.002, 4.101, 4.102, 4.201, 4.202, 4.301])
    got = joined_groups(names, groups, lon, np.full(7, 51.001))
    assert len(set(got[:6])) == 1
    assert got[6] != got[0]


def test_one_name_in_two_sets_is_two_places() -> None:
    table = replace(TABLE, names=np.repeat(["a", "b"], 120))
    got = joined_groups(table.names, np.full(240, "1"), np.repeat([4.0, 9.0], 120),
                        np.full(240, 51.0))
    assert len(set(got)) == 2
