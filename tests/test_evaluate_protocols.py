"""How a benchmark is split: what leaks, what is left out, what a share is."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.learn.protocols import PROTOCOLS, make_plan, part_of
from pipeline.spec.errors import BadRequest
from tests.support.evaluation import toy_table

REGION = np.repeat(["north", "south", "west"], 40)


def plan_of(protocol, table=None, **options):
    table = table or toy_table()
    if protocol == "transfer":
        # whole places lie in one region
        table = replace(table, groups=np.arange(120) // 5)
        return table, make_plan(table, protocol, folds=None, seeds=2, region=REGION, **options)
    return table, make_plan(table, protocol, folds=5, seeds=2, **options)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_seed_tests_each_sample_once_and_never_trains_on_it(protocol):
    table, plan = plan_of(protocol)
    for seed in (0, 1):
        mine = [s for s in plan.splits if s.seed == seed]
        assert [s.fold for s in mine] == list(range(plan.folds))
        assert (np.sum([s.test for s in mine], axis=0) == 1).all()
        for s in mine:
            assert s.kind == protocol
            assert not (s.train & s.test).any()
            if protocol != "paper":
                assert not set(table.groups[s.train]) & set(table.groups[s.test])


def test_random_folds_share_places_and_seeds_differ():
    table, plan = plan_of("paper")
    first = plan.splits[0]
    assert set(table.groups[first.train]) & set(table.groups[first.test])
    assert not (first.test == plan.splits[5].test).all()


def test_a_place_on_two_sides_of_a_border_is_not_trained_on():
    table = replace(toy_table(), groups=np.arange(120) // 6)  # place 6 lies in north and south
    plan = make_plan(table, "transfer", folds=None, seeds=1, region=REGION)
    north = plan.splits[plan.names.index("north")]
    assert (north.test == (REGION == "north")).all()
    assert (~north.train & ~north.test).sum() == 2  # samples 40 and 41 of place 6
    assert plan.given
    assert "north, south, west" in plan.text


def test_official_test_samples_replace_the_folds_of_the_paper_only():
    table = replace(toy_table(), groups=np.arange(120))
    official = np.where(np.arange(120) < 30, "test", "train")
    plan = make_plan(table, "paper", folds=None, seeds=3, official=official)
    assert [s.test.sum() for s in plan.splits] == [30, 30, 30]
    assert plan.folds == 1
    site = make_plan(table, "site", folds=4, seeds=1, official=official)
    assert site.folds == 4


def test_what_cannot_be_split_is_refused_before_anything_is_trained():
    table = toy_table(places=4)
    with pytest.raises(BadRequest, match="4 places cannot make 10 folds"):
        make_plan(table, "site", folds=None, seeds=1)
    with pytest.raises(BadRequest, match=r"unknown protocol.*paper, site, transfer"):
        make_plan(table, "nested", folds=None, seeds=1)
    with pytest.raises(BadRequest, match="leave --folds out"):
        make_plan(table, "transfer", folds=3, seeds=1, region=REGION)
    with pytest.raises(BadRequest, match="fewer than two regions"):
        make_plan(table, "transfer", folds=None, seeds=1, region=np.full(120, "one"))
    with pytest.raises(BadRequest, match="fewer than two regions"):
        make_plan(table, "transfer", folds=None, seeds=1)
    blind = {**table.series, "l8": (table.series["l8"][0], np.zeros((120, 4), bool))}
    with pytest.raises(BadRequest, match="no fold has enough samples of l8"):
        make_plan(replace(table, series=blind), "paper", folds=5, seeds=1)


def test_the_share_is_of_whole_places_and_grows_without_exchange():
    table, plan = plan_of("site")
    split = plan.splits[3]
    before = np.zeros(120, bool)
    for share in (0.1, 0.25, 0.5, 0.75):
        part = part_of(table, split, share)
        assert (part.test == split.test).all()
        assert (part.train <= split.train).all()
        assert (before <= part.train).all()
        # 24 places of 5 samples: never cut, and at most one place more than asked for
        kept = np.isin(table.groups, table.groups[part.train]) & split.train
        assert (kept == part.train).all()
        assert 0 <= part.train.sum() - share * split.train.sum() <= 5
        before = part.train
    assert part_of(table, split, 1.0) is split
    with pytest.raises(BadRequest, match="a single place or sample to learn from"):
        part_of(table, split, 1e-6)


def test_under_random_folds_the_share_is_of_single_samples():
    table, plan = plan_of("paper")
    part = part_of(table, plan.splits[0], 0.5)
    assert part.train.sum() == 48  # of 96
    assert len(set(table.groups[part.train])) > 48 / 5


def test_the_test_share_of_ten_folds_is_one_ninth():
    table = toy_table()
    plan = make_plan(table, "paper", folds=10, seeds=1)
    assert plan.test_share == pytest.approx(1 / 9)
