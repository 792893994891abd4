"""Methods: their losses against hand-worked numbers, what learns from what, missing sensors."""

from math import log
from typing import ClassVar

import pytest
import torch
from torch import nn, tensor

import models
from models import registry
from models.losses import prediction_loss
from models.methods.base import Method, alone, pairs_of, random_subset, spread, summed
from models.methods.decur import barlow_twins, correlation
from models.methods.discom import orthogonality, reverse_gradient
from models.methods.dml import mutual
from models.methods.embracenet import embrace, one_each
from models.methods.fcom import combinations
from models.methods.fusion import MMGF

STEPS, D = 4, 8
CHANNELS = {"s1": 6, "s2": 5, "l8": 7}
RIVALS = [m for m in registry.METHODS if m not in ("mdico", "individual")]
SINGLE = [m for m in RIVALS if registry.single_sensor(m)]
FUSION = [m for m in RIVALS if not registry.single_sensor(m)]


def make(method, sensors=("s1", "s2"), outputs=2, encoder="mlp", **more):
    torch.manual_seed(0)
    width = {"width": 16} | ({"heads": 4, "hidden": 16} if encoder != "mlp" else {})
    return models.build(method, encoder, {
        "sensors": {s: CHANNELS[s] for s in sensors}, "steps": STEPS, "outputs": outputs,
        "features": D, **width, **more})


def batch(sensors=("s1", "s2"), n=10, seed=1):
    g = torch.Generator().manual_seed(seed)
    inputs = {s: torch.randn(n, STEPS, CHANNELS[s], generator=g) for s in sensors}
    target = torch.randint(0, 2, (n,), generator=g)
    return inputs, torch.ones(n, len(sensors), dtype=torch.bool), target


def losses(module, inputs, present, target, seed=3):
    torch.manual_seed(seed)  # dropout, noise, sampled sensors
    return module.losses(inputs, present, target)


def reached(module, part):
    """First components of the names of the parameters that a loss has a gradient for."""
    module.zero_grad()
    losses(module, *batch())[part].backward()
    return {name.split(".")[0] for name, p in module.named_parameters()
            if p.grad is not None and p.grad.abs().sum() > 0}


# ---- every method


@pytest.mark.parametrize("method", RIVALS)
@pytest.mark.parametrize("sensors", [("s1",), ("s1", "s2"), ("s1", "s2", "l8")])
@pytest.mark.parametrize("outputs", [1, 3])
def test_any_number_of_sensors_and_both_kinds_of_task(method, sensors, outputs):
    if outputs == 1 and not registry.regression(method):
        with pytest.raises(ValueError, match="no regression"):
            make(method, sensors, outputs)
        return
    module = make(method, sensors, outputs)
    inputs, present, target = batch(sensors)
    parts = losses(module, inputs, present, target.float() if outputs == 1 else target)
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


@pytest.mark.parametrize("encoder", ["lstm", "transformer", "convtran"])
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


def test_pairs_are_rows_of_the_same_sample():
    present = tensor([[True, False], [True, True], [False, True], [True, True]])
    [(a, b, i, j)] = pairs_of({0: None, 1: None}, present)
    assert (a, b, i.tolist(), j.tolist()) == (0, 1, [1, 2], [0, 2])


def test_random_subsets_are_uniform_in_number_and_never_empty():
    torch.manual_seed(0)
    has = tensor([[True, True, True, False]]).expand(30_000, 4)
    kept = random_subset(has)
    assert not kept[:, 3].any()
    counts = torch.bincount(kept.sum(1)) / 30_000
    torch.testing.assert_close(counts, tensor([0, 1 / 3, 1 / 3, 1 / 3]), atol=0.01, rtol=0)
    torch.testing.assert_close(kept[:, :3].float().mean(0), torch.full((3,), 2 / 3), atol=0.01,
                               rtol=0)


# ---- EmbraceNet


def test_embraced_components_are_equally_often_of_each_available_sensor():
    torch.manual_seed(0)
    docked = tensor([[[1.0], [2.0], [6.0]]]).expand(1, 3, 40_000)
    both, one = embrace(docked, tensor([[True, False, True]])), embrace(
        docked, tensor([[False, True, False]]))
    assert set(both.unique().tolist()) == {1.0, 6.0}
    assert both.mean().item() == pytest.approx(3.5, abs=0.05)  # (1 + 6) / 2
    assert (one == 2).all()


def test_embracenet_keeps_one_sensor_of_each_sample_when_it_drops():
    torch.manual_seed(0)
    has = tensor([[True, True, False]]).expand(10_000, 3)
    kept = one_each(has)
    assert (kept.sum(1) == 1).all()
    torch.testing.assert_close(kept.float().mean(0), tensor([0.5, 0.5, 0.0]), atol=0.02, rtol=0)


def test_embracenets_loss_of_one_sensor_is_that_of_its_prediction():
    module = make("embracenet").eval()
    inputs, present, target = batch()
    present[:, 1] = False
    want = prediction_loss(target, module.predict("s1", inputs["s1"]))
    torch.testing.assert_close(losses(module, inputs, present, target)["main"], want)


# ---- ShaSpec


def test_shaspec_replaces_an_absent_sensor_by_the_mean_of_shared_features():
    module = make("shaspec", ("s1", "s2", "l8"))
    nn.init.zeros_(module.compose.weight)
    nn.init.constant_(module.compose.bias, 10.0)
    shared = tensor([1.0, 3.0, 0.0]).view(1, 3, 1).expand(1, 3, D)
    got = module.fuse(shared, torch.zeros(1, 3, D), tensor([[True, True, False]])).view(3, D)
    assert got[:, 0].tolist() == [11, 13, 2]  # residual + projection; (1 + 3) / 2


@pytest.mark.parametrize(("part", "expected"), [
    ("main", {"encoder", "adapt", "shared", "compose", "head"}),
    ("alignment", {"adapt", "shared"}),
    ("domain", {"encoder", "which"}),
])
def test_shaspecs_losses_reach_what_they_should(part, expected):
    assert reached(make("shaspec"), part) == expected


def test_shaspec_weighs_alignment_and_domain():
    inputs = batch()
    light, heavy = (losses(make("shaspec", alignment=a, domain=b), *inputs)
                    for a, b in ((0.1, 0.02), (1.0, 1.0)))
    torch.testing.assert_close(light["alignment"], 0.1 * heavy["alignment"])
    torch.testing.assert_close(light["domain"], 0.02 * heavy["domain"])


# ---- DeCUR


def test_correlation_of_two_dimensions():
    a = tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    b = torch.stack([a[:, 0], a[:, 0]], dim=1) * 5 + 2  # both dimensions follow a's first
    torch.testing.assert_close(correlation(a, b), tensor([[1.0, 1.0], [0.0, 0.0]]), atol=1e-4,
                               rtol=0)


def test_barlow_twins_of_a_two_by_two_correlation():
    c = tensor([[0.5, 0.2], [-0.1, 1.0]])
    beside = 0.2**2 + 0.1**2
    assert barlow_twins(c, 1.0, 0.5).item() == pytest.approx(0.25 + 0.5 * beside)  # common
    assert barlow_twins(c, 0.0, 0.5).item() == pytest.approx(0.25 + 1 + 0.5 * beside)  # unique


def test_decur_pulls_common_dimensions_together_and_unique_ones_apart():
    module = make("decur", common=0.5, off_diagonal=0.0)
    k = module.common
    assert k == D  # half of the 2 D projected dimensions
    c = torch.eye(2 * D)
    assert module.cross(c).item() == pytest.approx(D / 2)  # unique diagonal 1 instead of 0
    c[k:, k:] = 0
    assert module.cross(c).item() == pytest.approx(0)
    c[:k, k:] = 9.0  # correlations between the two kinds are free
    assert module.cross(c).item() == pytest.approx(0)


@pytest.mark.parametrize(("part", "expected"), [
    ("main", {"encoder", "head"}), ("decoupling", {"encoder", "projector"}),
])
def test_decurs_losses_reach_what_they_should(part, expected):
    assert reached(make("decur"), part) == expected


# ---- DML


def test_mutual_divergence_of_two_networks():
    first, second = tensor([[0.0, log(3)]]), tensor([[0.0, 0.0]])  # (1/4, 3/4), (1/2, 1/2)
    to_first = 0.5 * log(0.5 / 0.25) + 0.5 * log(0.5 / 0.75)  # KL(p2 || p1)
    to_second = 0.25 * log(0.25 / 0.5) + 0.75 * log(0.75 / 0.5)
    assert mutual(first, second).item() == pytest.approx(to_first + to_second, rel=1e-5)


def test_mutual_learning_holds_the_peer_constant():
    first, second = (torch.randn(3, 2, requires_grad=True) for _ in range(2))
    mutual(first, second).backward()
    # gradient of KL(q || softmax(x)) for fixed q is softmax(x) - q, over the batch size
    want = (first.softmax(1) - second.softmax(1)).detach() / 3
    torch.testing.assert_close(first.grad, want)
    torch.testing.assert_close(second.grad, -want)


def test_dml_divides_by_the_number_of_peers():
    module = make("dml", ("s1", "s2", "l8")).eval()
    inputs, present, target = batch(("s1", "s2", "l8"))
    o = [module.predict(s, x) for s, x in inputs.items()]
    want = (mutual(o[0], o[1]) + mutual(o[0], o[2]) + mutual(o[1], o[2])) / 2
    torch.testing.assert_close(losses(module, inputs, present, target)["mutual"], want)


# ---- DisCoM-KD


def test_orthogonality_is_the_absolute_cosine():
    a, b = tensor([[1.0, 0.0], [0.0, 2.0]]), tensor([[0.0, 3.0], [-1.0, -1.0]])
    assert orthogonality(a, b).item() == pytest.approx((0 + 0.5**0.5) / 2)


def test_the_reversed_gradient():
    x = tensor([2.0, -3.0], requires_grad=True)
    y = reverse_gradient(x, 0.5)
    torch.testing.assert_close(y, x)
    (y * tensor([1.0, 4.0])).sum().backward()
    assert x.grad.tolist() == [-0.5, -2.0]


@pytest.mark.parametrize(("part", "expected"), [
    ("main", {"encoder", "project", "specific", "head"}),
    ("auxiliary", {"encoder", "project", "specific", "auxiliary"}),
    ("orthogonality", {"encoder", "project", "specific"}),
    ("adversary", {"encoder", "project", "adversary"}),
    ("modality", {"specific", "which_informative", "which_irrelevant"}),
])
def test_discoms_losses_reach_what_they_should(part, expected):
    assert reached(make("discom-kd"), part) == expected


def test_discoms_adversary_descends_while_its_encoders_ascend():
    module = make("discom-kd").eval()
    data = batch()
    before = losses(module, *data)["adversary"]
    before.backward()

    def step(parameters):
        with torch.no_grad():
            for p in parameters:
                p -= 0.01 * p.grad
        after = losses(module, *data)["adversary"].item()
        with torch.no_grad():
            for p in parameters:
                p += 0.01 * p.grad
        return after

    assert step(list(module.adversary.parameters())) < before.item()
    assert step(list(module.project.parameters())) > before.item()


# ---- FModDrop, FCoM-av, ESensI


def test_fmoddrops_fusion_token_does_not_see_absent_sensors():
    module = make("fmoddrop").eval()
    z, has = torch.randn(4, 2, D), tensor([[True, False]] * 4)
    changed = z.clone()
    changed[:, 1] = 7.0
    torch.testing.assert_close(module.fuse(z, has), module.fuse(changed, has))
    assert not torch.allclose(module.fuse(z, ~has), module.fuse(changed, ~has))


def test_fcom_takes_every_combination_of_the_sensors_that_a_sample_has():
    z = tensor([[[1.0], [2.0], [6.0]], [[5.0], [7.0], [0.0]]])
    merged, row = combinations(z, tensor([[True, True, True], [True, True, False]]))
    by_sample = [sorted(merged[row == n].flatten().tolist()) for n in (0, 1)]
    assert by_sample[0] == [1, 1.5, 2, 3, 3.5, 4, 6]
    assert by_sample[1] == [5, 6, 7]


def test_esensi_has_one_head_that_knows_the_sensor():
    module = make("esensi").eval()
    inputs, present, target = batch()
    terms = [prediction_loss(target, module.predict(s, x)) for s, x in inputs.items()]
    torch.testing.assert_close(losses(module, inputs, present, target)["main"], sum(terms))
    x, before = inputs["s1"], module.predict("s1", inputs["s1"])
    with torch.no_grad():
        module.code["s1"] += 1
    assert not torch.allclose(module.predict("s1", x), before)


# ---- fusion references


def test_mmgf_weighs_sensors_to_one_and_leaves_out_absent_ones():
    module = make("mmgf")
    assert isinstance(module, MMGF)
    nn.init.zeros_(module.gate.weight)
    nn.init.zeros_(module.gate.bias)
    z = tensor([2.0, 4.0]).view(1, 2, 1).expand(1, 2, D)
    assert module.fuse(z, tensor([[True, True]]))[0, 0].item() == pytest.approx(3)
    assert module.fuse(z, tensor([[True, False]]))[0, 0].item() == pytest.approx(2)
    module.gate.bias.data[D:] = log(3)  # of the second sensor: weights 1/4, 3/4
    assert module.fuse(z, tensor([[True, True]]))[0, 0].item() == pytest.approx(3.5)


def test_inputfu_learns_from_samples_with_every_sensor():
    module = make("inputfu").eval()
    inputs, present, target = batch()
    present[3, 0] = present[5, 1] = False
    every = present.all(1)
    want = prediction_loss(target[every], module.predict_all(inputs)[every])
    torch.testing.assert_close(losses(module, inputs, present, target)["total"], want)


# ---- ablations


def test_an_ablation_without_switches_is_mdico():
    ablation, mdico = make("mdico-ablation"), make("mdico")
    assert list(ablation.state_dict()) == list(mdico.state_dict())
    data = batch()
    for name, value in losses(mdico, *data).items():
        assert torch.equal(losses(make("mdico-ablation"), *data)[name], value)


@pytest.mark.parametrize("part", ["contrastive", "modality", "auxiliary"])
def test_a_loss_can_be_left_out(part):
    data = batch()
    whole = {k: v.item() for k, v in losses(make("mdico"), *data).items()}
    less = {k: v.item() for k, v in losses(make(f"mdico-without-{part}"), *data).items()}
    assert whole.keys() - less.keys() == {part}
    assert less["total"] == pytest.approx(whole["total"] - whole[part], rel=1e-5)


def test_without_unused_features_the_modality_loss_is_of_specific_ones():
    module = make("mdico-without-unused").eval()
    inputs, present, target = batch()
    z = {s: module.encode(s, x) for s, x in inputs.items()}
    assert z["s1"].specific.shape == (10, D)
    assert z["s1"].unused.shape == (10, 0)
    label = [torch.full((10,), m) for m in range(2)]
    want = sum(nn.functional.cross_entropy(module.which_specific(part.specific), y)
               for part, y in zip(z.values(), label, strict=True)) / 2
    torch.testing.assert_close(losses(module, inputs, present, target)["modality"], want)


def test_shared_encoders_make_all_three_kinds_of_features():
    module = make("mdico-shared-encoders").eval()
    assert len(module.common) == 0
    x = batch()[0]["s1"]
    torch.testing.assert_close(torch.cat(module.encode("s1", x), dim=1), module.unique["s1"](x))
    assert reached(make("mdico-shared-encoders"), "contrastive") == {"unique"}


def test_unpaired_contrast_takes_random_positives():
    module = make("mdico-unpaired").eval()
    inputs, present, _ = batch(n=200)
    shared = {m: module.encode(s, x).shared for m, (s, x) in enumerate(inputs.items())}
    [(a, b)] = module._pairs(shared, present)
    assert torch.equal(a, shared[0])
    assert (b == shared[1]).all(1).sum() < 20  # of 200 rows
    assert torch.equal(b[:, 0].sort().values, shared[1][:, 0].sort().values)  # the same rows


def test_uncertainty_weights_start_even_and_learn():
    module = make("mdico-uncertainty")
    parts = losses(module, *batch())
    total = parts.pop("total")
    assert total.item() == pytest.approx(sum(v.item() for v in parts.values()), rel=1e-5)
    total.backward()
    # d/ds [exp(-s) L + s / 2] at 0
    for name, s in module.log_variance.items():
        assert s.grad.item() == pytest.approx(0.5 - parts[name].item(), abs=1e-4)


@pytest.mark.parametrize("kind", ["shared", "specific"])
def test_prediction_from_one_kind_of_features(kind):
    module = make(f"mdico-only-{kind}").eval()
    x = batch()[0]["s1"]
    want = module.auxiliary(getattr(module.encode("s1", x), kind))
    torch.testing.assert_close(module.predict("s1", x), want)


def test_switches_that_exclude_each_other_are_refused():
    with pytest.raises(ValueError, match="exclude each other"):
        make("mdico-only-shared", without_auxiliary=True)


# ---- registry


class Toy(Method):
    """One head on everything: the least that a rival needs."""

    OPTIONS: ClassVar = {"scale": 2.0}

    def __init__(self, make_encoder, sensors, outputs, features, *, scale):
        super().__init__(make_encoder, sensors, features)
        self.scale, self.head = scale, nn.Linear(features, outputs)

    def predict(self, sensor, x):
        return self.scale * self.head(self.encoder[sensor](x))

    def losses(self, inputs, present, target, class_weights=None):
        terms = [prediction_loss(target[present[:, m]], self.scale * self.head(z), class_weights)
                 for m, z in self.features(inputs, present).items()]
        return summed({"main": torch.stack(terms).sum()})


def test_a_new_rival_is_one_class_and_one_line(monkeypatch):
    monkeypatch.setitem(registry.METHODS, "toy", Toy)
    module = make("toy", scale=3.0)
    assert module.scale == 3.0
    optimiser = torch.optim.Adam(module.parameters(), 0.01)
    first = losses(module, *batch())["total"]
    first.backward()
    optimiser.step()
    assert losses(module, *batch())["total"] < first
    assert registry.complete("mlp", {}, "toy")["scale"] == 2.0
    with pytest.raises(ValueError, match="scale"):
        make("individual", scale=3.0)


def test_the_card_options_of_mdico_have_no_new_keys():
    assert set(registry.complete("tempcnn", {})) == {
        "features", "temperature", "width", "dense", "kernel", "dropout", "projection_dropout"}


def test_methods_without_a_single_sensor_or_a_regression_say_so():
    assert FUSION == ["mmgf", "inputfu"]
    assert [m for m in registry.METHODS if not registry.regression(m)] == ["dml"]
