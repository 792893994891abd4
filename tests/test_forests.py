"""Forests as tensors, and ensembles: the same predictions as what they are made from."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import models
from pipeline.data.points import read_samples
from pipeline.learn.cell import Split, run_cell
from pipeline.learn.contenders import why_not
from pipeline.learn.ensembles import best, trees_beside
from pipeline.learn.forests import as_module, boosted_module, columns, fit_trees, flat, teacher
from pipeline.learn.members import train_row
from pipeline.learn.recipe import parse_row
from pipeline.learn.table import stack, tensors
from pipeline.spec.tasks import task
from tests.support.samples import CROPLAND, LFMC, simulate, table_of

torch.set_num_threads(1)


@pytest.fixture(scope="module", params=["cropland", "lfmc"])
def table(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return table_of(simulate(folder / "a", task=task(request.param)), task=task(request.param))


def test_a_forest_of_tensors_predicts_what_scikit_learn_does(table):
    data = tensors(table, table.primary)
    for sensor in table.sensors:
        x = flat(data.inputs[sensor], data.cards[sensor])
        model = fit_trees("extra-trees", table.task, x, table.target, 0, count=20)
        module = as_module(model, table.task, data, sensor)
        got = module(data.inputs[sensor]).numpy()
        if table.task is CROPLAND:
            np.testing.assert_allclose(got, model.predict_proba(x), atol=1e-6)
        else:
            np.testing.assert_allclose(got[:, 0] * data.std + data.mean, model.predict(x),
                                       rtol=1e-4)


@pytest.mark.parametrize("kinds", [1, 2, 3])
def test_boosted_trees_of_tensors_predict_what_scikit_learn_does(table, kinds):
    data = tensors(table, table.primary)
    rng, x = np.random.default_rng(0), flat(data.inputs["s1"], data.cards["s1"])
    kind, y = table.task, table.target
    if kind is CROPLAND and kinds > 1:  # of four classes, one of them never seen
        kind = replace(kind, classes=kind.classes * 2)
        y = rng.integers(0, kinds, len(y)) + (kinds == 2) * 2
    model = fit_trees("gradient-boosting", kind, x, y, 0)
    got = boosted_module(model, kind, data, "s1")(data.inputs["s1"])
    if kind.kind == "regression":
        np.testing.assert_allclose(got[:, 0] * data.std + data.mean, model.predict(x), rtol=1e-4)
    else:
        p = got.softmax(1).numpy()
        np.testing.assert_allclose(p[:, model.classes_.astype(int)], model.predict_proba(x),
                                   atol=1e-5)


def test_a_tree_worked_by_hand():
    forest = models.Forest(trees=1, nodes=3, depth=1, outputs=1)
    forest.feature[0, 0], forest.threshold[0, 0] = 1, 0.5
    forest.left[0], forest.right[0] = torch.tensor([1, 1, 2]), torch.tensor([2, 1, 2])
    forest.value[0, :, 0] = torch.tensor([0.0, 10.0, 20.0])
    x = torch.tensor([[[9.0, 0.5]], [[-9.0, 0.6]]])  # only the second column is looked at
    assert forest(x)[:, 0].tolist() == [10.0, 20.0]


def test_trees_see_season_and_place_once(table):
    static = ("lon",)
    data = tensors(table, table.primary, static=static)
    card = data.cards["s1"]
    got = columns(data.inputs["s1"], card)
    steps = table.task.steps
    # 3 features and the valid flag a step; month twice, place, known once
    assert len(got) == steps * 4 + 4
    assert len(set(got)) == len(got)
    x = data.inputs["s1"]
    np.testing.assert_array_equal(flat(x, card)[:, -2], x[:, -1, -2].numpy())


def test_a_forest_weighs_as_much_as_all_networks_together():
    class Says(torch.nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def predict_and_embed(self, sensor, x):
            return torch.full((len(x), 1), self.value), x.flatten(1)

        def predict(self, sensor, x):
            return self.predict_and_embed(sensor, x)[0]

    forest = models.Forest(1, 1, 0, 1)
    forest.value[:] = 10.0
    both = models.Ensemble([Says(1.0), Says(3.0)], {"forests": {"s1": forest}}, 1)
    x = torch.zeros(2, 4, 3)
    assert both.predict("s1", x)[:, 0].tolist() == [6.0, 6.0]  # ((1 + 3) / 2 + 10) / 2
    assert both.predict("l8", x)[:, 0].tolist() == [2.0, 2.0]
    boosted = models.Forest(1, 1, 0, 1)
    boosted.value[:] = 1.0
    three = models.Ensemble([Says(1.0), Says(3.0)],
                            {"forests": {"s1": forest}, "boosted": {"s1": boosted}}, 1)
    assert three.predict("s1", x)[0, 0].item() == pytest.approx(13 / 3)  # (2 + 10 + 1) / 3


def test_classes_are_averaged_as_probabilities():
    class Says(torch.nn.Module):
        def __init__(self, p):
            super().__init__()
            self.p = p

        def predict_and_embed(self, sensor, x):
            logits = torch.log(torch.tensor([[self.p, 1 - self.p]])).expand(len(x), 2) + 7
            return logits, x.flatten(1)

        def predict(self, sensor, x):
            return self.predict_and_embed(sensor, x)[0]

    out = models.Ensemble([Says(0.9), Says(0.5)], {}, 2).predict("s1", torch.zeros(1, 4, 3))
    np.testing.assert_allclose(out.exp().numpy(), [[0.7, 0.3]], rtol=1e-6)


SMALL = {"width": 8, "dense": 8, "features": 8}


def small(text):
    row = parse_row(text)
    settings = replace(row.recipe.settings, epochs=3, batch=32)
    return replace(row, recipe=replace(row.recipe, network=SMALL, settings=settings))


def test_models_weigh_what_their_shares_say():
    class Says(torch.nn.Module):
        def predict_and_embed(self, sensor, x):
            return torch.full((len(x), 1), 1.0), x.flatten(1)

    forest = models.Forest(1, 1, 0, 1)
    forest.value[:] = 11.0
    mixed = models.Ensemble([Says()], {"forests": {"s1": forest}}, 1,
                            {"s1": torch.tensor([0.3, 0.7])})
    x = torch.zeros(2, 4, 3)
    assert mixed.predict("s1", x)[:, 0].tolist() == pytest.approx([8.0, 8.0])  # 0.3 + 7.7
    assert mixed.predict("l8", x)[:, 0].tolist() == [1.0, 1.0]  # no shares: all weigh the same


def test_the_best_weights_are_found():
    """One model is 1 too low and one 4 too high: 0.8 and 0.2 leave no error."""
    target = torch.tensor([2.0, 4.0])
    said = torch.stack([target - 1, target + 4])[:, :, None]
    assert best(said, target).tolist() == pytest.approx([0.8, 0.2])
    sure = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.5, 0.5]]])
    assert best(sure, torch.tensor([0, 1])).tolist() == [1.0, 0.0]
    assert best(sure, torch.tensor([1, 0])).tolist() == [0.0, 1.0]


def test_weights_are_chosen_on_rows_that_no_model_has_learned_from(table, monkeypatch):
    """A forest that knows its own rows by heart must not be judged by them."""
    seen = []

    def spied(table, data, row, train, seed):
        seen.append(train.copy())
        return trees_beside(table, data, row, train, seed)

    monkeypatch.setattr("pipeline.learn.ensembles.trees_beside", spied)
    every = np.ones(len(table.sample), bool)
    trained = train_row(table, small("mdico+forest+boost+weigh"), every, "site", 0)
    assert len(seen) == len(trained.held) == 5
    for train, part in zip(seen, trained.held, strict=True):
        assert not (train & part).any()
        assert (train | part).all()
    for sensor in table.sensors:
        shares = trained.module.shares[sensor]
        assert len(shares) == 3
        assert float(shares.sum()) == pytest.approx(1)
    again = models.build("mdico", "tempcnn", trained.options)
    again.load_state_dict(trained.module.state_dict())
    x = trained.data.inputs["s1"][:5]
    assert torch.equal(again.eval().predict("s1", x), trained.module.predict("s1", x))


def test_what_season_and_place_say_stands_beside_the_sensors(table):
    """The prior's trees give the same whatever the satellite saw, as scikit-learn's do."""
    data = tensors(table, table.primary, context=("month_sin", "month_cos"), static=("lon",))
    card, x = data.cards["s1"], data.inputs["s1"]
    alone = flat(x, card, alone=True)
    assert alone.shape[1] == 4  # month twice, place, and whether it is known
    np.testing.assert_array_equal(alone, x[:, -1, -4:].numpy())
    model = fit_trees("no-satellite", table.task, alone, table.target, 0, count=20)
    module = as_module(model, table.task, data, "s1", alone=True)
    cloudy = x.clone()
    cloudy[..., :-4] = 9.0
    assert torch.equal(module(cloudy), module(x))
    expected = (model.predict_proba(alone) if table.task is CROPLAND else
                (model.predict(alone)[:, None] - data.mean) / data.std)
    np.testing.assert_allclose(module(x).numpy(), expected, atol=1e-5)


def test_a_forest_looks_at_the_mean_pixel_of_images(table):
    data = tensors(table, table.primary)
    x = flat(data.inputs["s1"], data.cards["s1"])
    module = as_module(fit_trees("extra-trees", table.task, x, table.target, 0, count=5),
                       table.task, data, "s1")
    small_images = data.inputs["s1"][..., None, None].repeat(1, 1, 1, 4, 4)
    small_images[..., 0, 0] -= 0.3
    small_images[..., 3, 3] += 0.3
    torch.testing.assert_close(module(small_images), module(data.inputs["s1"]),
                               atol=0.05, rtol=0.05)
    np.testing.assert_allclose(flat(small_images, data.cards["s1"]), x, atol=1e-5)


def test_a_prior_is_one_of_the_averaged(table):
    places = np.random.default_rng(0).uniform(-110, -100, table.groups.max() + 1)
    table = replace(table, static={
        "lon": places[table.groups].astype(np.float32),
        "lat": (places[table.groups] / -3).astype(np.float32)})
    row = small("individual+season+location+forest+boost+prior")
    trained = train_row(table, row, table.primary, "site", 0)
    assert [k for k in trained.options if k in ("forests", "boosted", "prior")] == [
        "forests", "boosted", "prior"]
    x, card = trained.data.inputs["s1"], trained.data.cards["s1"]
    with torch.inference_mode():
        said = [m.predict("s1", x) for m in trained.module.members]
        means = trained.module.means("s1", x, said)
    assert len(means) == 4
    # it is what scikit-learn says of season and place, and of nothing else
    alone = flat(x, card, alone=True)
    model = fit_trees("no-satellite", table.task, alone[table.primary],
                      table.target[table.primary], 0, count=100, leaf=2)
    expected = (model.predict_proba(alone) if table.task is CROPLAND else
                (model.predict(alone)[:, None] - trained.data.mean) / trained.data.std)
    np.testing.assert_allclose(means[3].numpy(), expected, atol=1e-4)
    assert np.ptp(expected[:, 0]) > 0.1
    x = x[:5]
    again = models.build("individual", "tempcnn", trained.options)
    again.load_state_dict(trained.module.state_dict())
    assert torch.equal(again.eval().predict("s1", x), trained.module.predict("s1", x))


def test_cells_from_before_the_prior_are_still_found():
    assert "prior" not in parse_row("mdico+forest").config()
    assert parse_row("mdico+prior").config() != parse_row("mdico").config()


def test_a_prior_needs_something_to_know(table):
    row = small("mdico+prior")
    data = tensors(table, table.primary)
    assert "neither season nor place" in why_not(row, table, data)
    assert "neither season nor place" in why_not(small("mdico+valid+prior"), table, data)
    assert not why_not(small("mdico+season+prior"), table, data)
    placed = replace(table, static={"lon": np.zeros(len(table.sample), np.float32)})
    assert not why_not(small("mdico+location+prior"), placed, data)


@pytest.mark.parametrize("switches", ["", "+season+valid", "+cv5+forest+boost", "+distil",
                                      "+teach+ema",
                                      "+location+blur+gaps+jitter+hide+cycle+bf16"])
def test_every_switch_trains_and_predicts(table, switches):
    test = table.groups == table.groups[0]
    row = small("mdico" + switches)
    cell = run_cell(table, Split(0, 0, 5, ~test, test, "site"), row)
    for sensor in table.sensors:
        found = cell.found[sensor]
        assert set(found.rows) == set(np.flatnonzero(test & table.scored(sensor)))
        assert np.isfinite(found.raw).all()
    assert cell.epochs <= 3
    single = table.task is CROPLAND and "cv5" not in switches
    assert set(cell.temperature) == (set(table.sensors) if single else set())


def test_an_ensemble_is_rebuilt_from_its_options(table):
    trained = train_row(table, small("mdico+cv5+forest+boost"), table.primary, "site", 0)
    again = models.build("mdico", "tempcnn", trained.options)
    again.load_state_dict(trained.module.state_dict())
    x = trained.data.inputs["s1"]
    with torch.inference_mode():
        torch.testing.assert_close(again.eval().predict("s1", x), trained.module.predict("s1", x),
                                   rtol=0, atol=0)


def test_no_network_is_stopped_by_what_it_learnt_from(table):
    trained = train_row(table, small("individual+cv5"), ~(table.groups == 0), "site", 0)
    assert len(trained.fitted) == 5
    assert (np.sum(trained.held, axis=0) == ~(table.groups == 0)).all()  # each row stops one
    for held in trained.held:
        assert not set(table.groups[held]) & set(table.groups[~held])


def test_the_teacher_of_a_training_row_has_not_seen_its_label(table):
    data = tensors(table, table.primary)
    rng = np.random.default_rng(99)
    if table.task is LFMC:
        noise = rng.normal(size=len(table.target))
        said = teacher(data, LFMC, table.primary, noise, 0)[:, 0]
        assert abs(np.corrcoef(said, noise)[0, 1]) < 0.35  # in sample it would be near 1
    else:
        noise = rng.integers(0, 2, len(table.target))
        said = teacher(data, CROPLAND, table.primary, noise, 0)
        assert abs((said.argmax(1) == noise).mean() - 0.5) < 0.2
        np.testing.assert_allclose(said.sum(1), 1)


def test_rows_without_a_label_help_only_where_asked(tmp_path):
    known = read_samples(simulate(tmp_path / "a", 60), CROPLAND)
    other = read_samples(simulate(tmp_path / "b", 40, name="b", seed=1), CROPLAND)
    blank = replace(other, target=np.full(40, -1))
    alone, both = (stack(sets, CROPLAND, ("s1", "s2")) for sets in ([known], [known, blank]))
    test = np.zeros(60, bool)
    test[:15] = True
    more = np.zeros(40, bool)

    def outputs(table, row, extra):
        split = Split(0, 0, 5, np.concatenate([~test, ~more[:extra]]),
                      np.concatenate([test, more[:extra]]), "paper")
        return run_cell(table, split, small(row)).found["s2"]

    plain = outputs(alone, "individual", 0)
    ignored = outputs(both, "individual", 40)
    np.testing.assert_array_equal(plain.raw, ignored.raw)
    helped = outputs(both, "individual+unlabelled", 40)
    assert set(helped.rows) == set(plain.rows)  # what has no label is never scored
    assert not np.array_equal(helped.raw, plain.raw)
