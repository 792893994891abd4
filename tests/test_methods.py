"""Every method: any sensors and tasks, missing sensors, one branch at a time, that it learns."""

import pytest
import torch
from torch import tensor

import models
from models import registry
from models.methods.base import alone, random_subset, spread
from tests.support.networks import FUSION, RIVALS, SINGLE, STEPS, TRAINED, D, batch, losses, make

SENSORS = ("s1", "s2", "l8", "aerial")


@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["value", "class", "label"])
def test_any_number_of_sensors_and_every_kind_of_task(method, count, kind):
    sensors, outputs = SENSORS[:count], 1 if kind == "value" else 3
    if kind == "value" and not registry.regression(method):
        with pytest.raises(ValueError, match="no regression"):
            make(method, sensors, outputs)
        return
    module = make(method, sensors, outputs)
    inputs, present, target = batch(sensors)
    target = {"class": target, "value": target.float(),
              "label": torch.stack([target, 1 - target, target], dim=1).float()}[kind]
    parts = losses(module, inputs, present, target)
    parts["total"].backward()
    assert all(torch.isfinite(v) and v.shape == () for v in parts.values())
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)
    if "log_variance" not in dict(module.named_children()):
        parts = {k: v.item() for k, v in parts.items()}
        assert parts.pop("total") == pytest.approx(sum(parts.values()), rel=1e-5)
    module.eval()
    if registry.single_sensor(method):
        for sensor in sensors:
            assert module.predict(sensor, inputs[sensor]).shape == (10, outputs)
    else:
        assert module.predict_all(inputs).shape == (10, outputs)
        assert not hasattr(module, "predict")


@pytest.mark.parametrize("method", RIVALS)
def test_rows_of_absent_sensors_are_never_looked_at(method):
    sensors = ("s1", "s2", "l8")
    module = make(method, sensors)
    inputs, present, target = batch(sensors)
    present[0, 0] = present[1, 1] = False
    present[2, :] = False  # a sample without anything
    if method != "inputfu":  # which needs all three
        present[:, 2] = False  # a sensor that the whole batch lacks
    clean = losses(module, inputs, present, target)
    for m, sensor in enumerate(inputs):
        inputs[sensor][~present[:, m]] = torch.nan
    parts = losses(module, inputs, present, target)
    for name, value in parts.items():
        torch.testing.assert_close(value, clean[name])
    assert torch.isfinite(parts["total"])


@pytest.mark.parametrize("method", RIVALS)
def test_a_single_sample_of_a_sensor_counts_as_none(method):
    module = make(method)
    inputs, present, target = batch()
    present[1:, 1] = False
    if method == "inputfu":
        with pytest.raises(ValueError, match="at least two"):
            losses(module, inputs, present, target)
    else:
        assert torch.isfinite(losses(module, inputs, present, target)["total"])
    present[1:] = False
    with pytest.raises(ValueError, match="at least two"):
        losses(module, inputs, present, target)


@pytest.mark.parametrize("method", SINGLE)
def test_prediction_is_deterministic_and_sample_by_sample(method):
    module = make(method)
    inputs, present, target = batch()
    losses(module, inputs, present, target)  # moves the running statistics
    module.eval()
    with torch.inference_mode():
        for sensor, x in inputs.items():
            whole = module.predict(sensor, x)
            assert torch.equal(whole, module.predict(sensor, x))
            rows = torch.cat([module.predict(sensor, row) for row in x.split(1)])
            torch.testing.assert_close(whole, rows, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", SINGLE)
def test_predict_runs_only_its_own_branch(method):
    module = make(method).eval()
    for name, child in module.named_modules():
        if "s2" in name.split("."):
            child.register_forward_pre_hook(lambda *_: pytest.fail("the other branch ran"))
    module.predict("s1", batch()[0]["s1"])


HEADS = {"mdico-only-shared": "auxiliary", "mdico-only-specific": "auxiliary"}


@pytest.mark.parametrize("method", SINGLE)
def test_embedding_is_what_the_head_works_on(method):
    module = make(method).eval()
    head = module.get_submodule(HEADS.get(method, "head"))
    with torch.inference_mode():
        for sensor, x in batch()[0].items():
            z = module.embed(sensor, x)
            assert z.ndim == 2
            own = head[sensor] if isinstance(head, torch.nn.ModuleDict) else head
            torch.testing.assert_close(own(z), module.predict(sensor, x))


@pytest.mark.parametrize("method", FUSION)
def test_a_fusion_reference_embeds_all_sensors(method):
    module = make(method).eval()
    inputs = batch()[0]
    z = module.embed_all(inputs)
    assert z.shape == (10, D)
    assert torch.equal(module.head(z), module.predict_all(inputs))


@pytest.mark.parametrize("method", [m for m in RIVALS if m != "mdico-only-shared"])
def test_a_few_steps_learn_what_one_value_decides(method):
    """mdico-only-shared is trained as MDiCo is, and its shared features alone need longer."""
    module = make(method, dropout=0.0, projection_dropout=0.0)
    inputs, present, _ = batch(n=64)
    target = (inputs["s1"][:, 0, 0] > 0).long()
    inputs["s2"][:, 0, 0] = inputs["s1"][:, 0, 0]  # both sensors see it
    optimiser = torch.optim.Adam(module.parameters(), 0.01)
    for step in range(60):
        optimiser.zero_grad()
        losses(module, inputs, present, target, seed=step)["total"].backward()
        optimiser.step()
    module.eval()
    outputs = ([module.predict(s, x) for s, x in inputs.items()] if method in SINGLE
               else [module.predict_all(inputs)])
    assert all((o.argmax(1) == target).float().mean() > 0.85 for o in outputs)


@pytest.mark.parametrize("encoder", ["tempcnn", "lstm", "transformer", "convtran"])
def test_methods_take_every_encoder(encoder):
    torch.manual_seed(0)
    options = {"sensors": {"s1": 6, "s2": 5}, "steps": STEPS, "outputs": 2, "features": D,
               "width": 16}
    for method in ("mdico", "shaspec", "inputfu"):
        losses(models.build(method, encoder, options), *batch())["total"].backward()


# ---- what they share


def test_spread_places_features_and_leaves_out_what_is_not_usable():
    present = tensor([[True, True], [False, False], [True, False], [True, False]])
    z, has, row = spread({0: tensor([[1.0], [2.0], [3.0]])}, present)  # sensor 1: one sample
    assert row.tolist() == [0, 2, 3]
    assert z.squeeze(2).tolist() == [[1, 0], [2, 0], [3, 0]]
    assert has.tolist() == [[True, False]] * 3


def test_alone_is_the_spread_of_one_sensor():
    z, has = alone(tensor([[5.0], [6.0]]), 1, 3)
    assert z.squeeze(2).tolist() == [[0, 5, 0], [0, 6, 0]]
    assert has.tolist() == [[False, True, False]] * 2


def test_random_subsets_are_uniform_in_number_and_never_empty():
    torch.manual_seed(0)
    has = tensor([[True, True, True, False]]).expand(30_000, 4)
    kept = random_subset(has)
    assert not kept[:, 3].any()
    counts = torch.bincount(kept.sum(1)) / 30_000
    torch.testing.assert_close(counts, tensor([0, 1 / 3, 1 / 3, 1 / 3]), atol=0.01, rtol=0)
    torch.testing.assert_close(kept[:, :3].float().mean(0), torch.full((3,), 2 / 3), atol=0.01,
                               rtol=0)
