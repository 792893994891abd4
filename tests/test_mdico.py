"""The network: what each loss reaches, missing sensors, one branch at a time."""

import pytest
import torch

import models
from models.encoders.tempcnn import TempCNN

STEPS, D = 4, 8
CHANNELS = {"s1": 6, "s2": 5, "l8": 7}


def options(sensors, outputs=2, **more):
    return {"sensors": {s: CHANNELS[s] for s in sensors}, "steps": STEPS, "outputs": outputs,
            "features": D, "width": 8, "dense": 16, **more}


def make(sensors, outputs=2, method="mdico", **more):
    torch.manual_seed(0)
    return models.build(method, "tempcnn", options(sensors, outputs, **more))


def batch(sensors, n=6, seed=1):
    g = torch.Generator().manual_seed(seed)
    inputs = {s: torch.randn(n, STEPS, CHANNELS[s], generator=g) for s in sensors}
    target = torch.randint(0, 2, (n,), generator=g)
    return inputs, torch.ones(n, len(sensors), dtype=torch.bool), target


def reached(module, part, sensors=("s1", "s2")):
    """First components of the names of all parameters that a loss has a gradient for."""
    module.zero_grad()
    module.losses(*batch(sensors))[part].backward()
    return {name.split(".")[0] for name, p in module.named_parameters()
            if p.grad is not None and p.grad.abs().sum() > 0}


@pytest.mark.parametrize(("part", "expected"), [
    ("main", {"common", "unique", "head"}),
    ("auxiliary", {"common", "unique", "auxiliary"}),
    ("contrastive", {"common"}),
    ("modality", {"unique", "which_specific", "which_unused"}),
])
def test_gradients_reach_what_they_should(part, expected):
    assert reached(make(["s1", "s2"]), part) == expected


@pytest.mark.parametrize(("part", "learns"), [
    ("main", False), ("auxiliary", False), ("contrastive", False), ("modality", True),
])
def test_unused_features_learn_from_the_modality_loss_only(part, learns):
    module = make(["s1", "s2"])
    module.losses(*batch(["s1", "s2"]))[part].backward()
    weight = module.unique["s1"].projection[-1].weight.grad  # (2d, dense): specific, then unused
    unused = 0.0 if weight is None else weight[D:].abs().sum().item()
    assert (unused > 0) == learns


def test_unused_features_feed_the_unused_discriminator():
    module = make(["s1", "s2"]).eval()
    fed = {}
    module.which_unused.register_forward_hook(lambda m, x, y: fed.setdefault("unused", x[0]))
    module.which_specific.register_forward_hook(lambda m, x, y: fed.setdefault("specific", x[0]))
    inputs, present, target = batch(["s1", "s2"])
    module.losses(inputs, present, target)
    z = module.encode("s1", inputs["s1"])
    torch.testing.assert_close(fed["unused"], z.unused)
    torch.testing.assert_close(fed["specific"], z.specific)


def test_total_is_the_plain_sum_of_the_four_losses():
    parts = make(["s1", "s2"]).losses(*batch(["s1", "s2"]))
    assert set(parts) == {"main", "auxiliary", "contrastive", "modality", "total"}
    total = parts.pop("total").item()
    assert total == pytest.approx(sum(v.item() for v in parts.values()), rel=1e-5)


@pytest.mark.parametrize("sensors", [["s1"], ["s1", "s2"], ["s1", "s2", "l8"]])
@pytest.mark.parametrize("outputs", [1, 2])
def test_any_number_of_sensors_and_both_kinds_of_task(sensors, outputs):
    module = make(sensors, outputs)
    inputs, present, target = batch(sensors)
    parts = module.losses(inputs, present, target.float() if outputs == 1 else target)
    parts["total"].backward()
    alone = {"main", "auxiliary", "total"}
    assert set(parts) == (alone if len(sensors) == 1 else alone | {"contrastive", "modality"})
    assert all(torch.isfinite(v) for v in parts.values())
    for sensor in sensors:
        assert module.eval().predict(sensor, inputs[sensor]).shape == (6, outputs)


def test_rows_of_absent_sensors_are_never_looked_at():
    module = make(["s1", "s2", "l8"]).eval()  # no dropout: two passes agree
    inputs, present, target = batch(["s1", "s2", "l8"], n=8)
    present[0, 0] = present[1, 1] = False
    present[:, 2] = False  # a sensor that the whole batch lacks
    clean = module.losses(inputs, present, target)
    for m, sensor in enumerate(inputs):
        inputs[sensor][~present[:, m]] = torch.nan
    parts = module.losses(inputs, present, target)
    for name, value in parts.items():
        torch.testing.assert_close(value, clean[name])
    assert torch.isfinite(parts["total"])


def test_pairs_are_the_samples_that_have_both():
    module = make(["s1", "s2"]).eval()
    inputs, present, target = batch(["s1", "s2"], n=8)
    present[2, 0] = present[5, 1] = False
    both = torch.tensor([0, 1, 3, 4, 6, 7])
    want = module.losses({s: x[both] for s, x in inputs.items()}, present[both], target[both])
    got = module.losses(inputs, present, target)
    torch.testing.assert_close(got["contrastive"], want["contrastive"])


def test_a_batch_without_two_samples_of_any_sensor_is_refused():
    inputs, present, target = batch(["s1", "s2"])
    present[1:] = False
    for method in ("mdico", "individual"):
        with pytest.raises(ValueError, match="at least two"):
            make(["s1", "s2"], method=method).losses(inputs, present, target)


@pytest.mark.parametrize("method", ["mdico", "individual"])
def test_predict_runs_only_its_own_branch(method):
    module = make(["s1", "s2"], method=method).eval()
    for name, child in module.named_modules():
        if "s2" in name.split("."):
            child.register_forward_pre_hook(lambda *_: pytest.fail("the other branch ran"))
    assert module.predict("s1", batch(["s1"])[0]["s1"]).shape == (6, 2)


@pytest.mark.parametrize("method", ["mdico", "individual"])
def test_evaluation_is_deterministic_and_sample_by_sample(method):
    module = make(["s1", "s2"], method=method)
    inputs, present, target = batch(["s1", "s2"])
    module.losses(inputs, present, target)["total"].backward()  # moves the running statistics
    module.eval()
    x = inputs["s1"]
    whole = module.predict("s1", x)
    assert torch.equal(whole, module.predict("s1", x))
    alone = torch.cat([module.predict("s1", x[k : k + 1]) for k in range(len(x))])
    torch.testing.assert_close(whole, alone)


def test_individual_trains_each_sensor_as_if_alone():
    both, one = (make(s, method="individual").eval() for s in (["s1", "s2"], ["s1"]))
    one.load_state_dict({k: v for k, v in both.state_dict().items() if ".s1." in k})
    inputs, present, target = batch(["s1", "s2"])
    both.losses(inputs, present, target)["total"].backward()
    one.losses(inputs, present[:, :1], target)["total"].backward()
    torch.testing.assert_close(both.head["s1"].weight.grad, one.head["s1"].weight.grad)


def test_tempcnn_has_the_papers_two_convolutions_of_128_and_kernel_5():
    encoder = TempCNN(3, 12, 128, **TempCNN.OPTIONS)
    convolutions = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv1d)]
    assert [(c.out_channels, c.kernel_size) for c in convolutions] == [(128, (5,)), (128, (5,))]
    assert encoder.eval()(torch.zeros(2, 12, 3)).shape == (2, 128)


@pytest.mark.parametrize("wrong", [
    {"wdth": 3}, {"sensors": None},
])
def test_unknown_and_missing_options_are_refused(wrong):
    given = options(["s1"]) | wrong
    given = {k: v for k, v in given.items() if v is not None}
    with pytest.raises(ValueError, match=r"wdth|sensors"):
        models.build("mdico", "tempcnn", given)


@pytest.mark.parametrize(("method", "encoder"), [("medico", "tempcnn"), ("mdico", "tempcnm")])
def test_unknown_names_are_refused(method, encoder):
    with pytest.raises(ValueError, match=r"mdico.*tempcnn"):
        models.build(method, encoder, options(["s1"]))
