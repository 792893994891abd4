"""The rows of Tables 6 and 7: what each leaves out, and that it leaves out nothing else."""

from math import exp, log

import pytest
import torch
from torch import nn, tensor

from models import registry
from models.losses import info_nce
from tests.support.networks import D, batch, by_hand, linear, losses, make, present, reached, rows

L3 = log(3)


def test_every_row_of_tables_6_and_7_is_a_method():
    assert {m for m in registry.METHODS if m.startswith("mdico-")} == {
        "mdico-ablation", "mdico-without-modality", "mdico-without-auxiliary",
        "mdico-without-contrastive", "mdico-without-unused", "mdico-unpaired",
        "mdico-shared-encoders", "mdico-uncertainty", "mdico-only-shared", "mdico-only-specific"}


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
    assert {k: less[k] for k in less if k != "total"} == pytest.approx(
        {k: whole[k] for k in less if k != "total"})


def test_without_the_modality_loss_nothing_trains_the_unused_features():
    module = make("mdico-without-modality")
    losses(module, *batch())["total"].backward()
    gradient = module.unique["s1"].projection.weight.grad  # (2d, width): specific, then unused
    assert gradient[D:].abs().sum() == 0
    assert gradient[:D].abs().sum() > 0


def test_without_unused_features_the_modality_loss_is_of_specific_ones():
    module = make("mdico-without-unused").eval()
    inputs, there, target = batch()
    z = {s: module.encode(s, x) for s, x in inputs.items()}
    assert z["s1"].specific.shape == (10, D)
    assert z["s1"].unused.shape == (10, 0)
    label = [torch.full((10,), m) for m in range(2)]
    want = sum(nn.functional.cross_entropy(module.which_specific(part.specific), y)
               for part, y in zip(z.values(), label, strict=True)) / 2
    torch.testing.assert_close(losses(module, inputs, there, target)["modality"], want)


def test_without_unused_features_by_hand():
    """Specific (ln 3, 0) of s1, (0, ln 3) of s2: each discriminated with 3/4."""
    module = by_hand("mdico-without-unused")
    linear(module.which_specific, [[1.0, 0.0], [0.0, 1.0]])
    x = {"s1": rows([L3, 0], [L3, 0]), "s2": rows([0, L3], [0, L3])}
    got = module.losses(x, present(), tensor([0, 1]))["modality"].item()
    assert got == pytest.approx(log(4 / 3), rel=1e-5)


def test_shared_encoders_make_all_three_kinds_of_features():
    module = make("mdico-shared-encoders").eval()
    assert len(module.common) == 0
    x = batch()[0]["s1"]
    torch.testing.assert_close(torch.cat(module.encode("s1", x), dim=1), module.unique["s1"](x))
    assert reached(make("mdico-shared-encoders"), "contrastive") == {"unique"}


def test_unpaired_contrast_takes_random_positives():
    module = make("mdico-unpaired").eval()
    inputs, there, _ = batch(n=200)
    shared = {m: module.encode(s, x).shared for m, (s, x) in enumerate(inputs.items())}
    [(a, b, i, j)] = module._paired(shared, there)
    assert (a, b) == (0, 1)
    assert i.tolist() == list(range(200))
    assert sorted(j.tolist()) == list(range(200))  # the same samples
    assert (i == j).sum() < 20


def test_unpaired_contrast_by_hand(monkeypatch):
    module = by_hand("mdico-unpaired", temperature=1.0)
    x = {"s1": rows([1, 0, 0, 0], [0, 1, 0, 0]), "s2": rows([1, 0, 0, 0], [0, 1, 0, 0])}
    monkeypatch.setattr(torch, "randperm", lambda n: tensor([1, 0]))  # partners swapped
    got = module.losses(x, present(), tensor([0, 1]))
    a, b = (v[:, 0, :2] for v in x.values())
    want = info_nce(a, b.flip(0), 1.0) + info_nce(b.flip(0), a, 1.0)
    assert got["contrastive"].item() == pytest.approx(want.item())
    # the positive's cosine is 0, the negative's 1
    assert got["contrastive"].item() == pytest.approx(2 * log(1 + exp(1)))


def test_unpaired_leaves_the_other_losses_alone():
    data = batch()
    torch.manual_seed(3)
    module, whole = make("mdico-unpaired").eval(), make("mdico").eval()
    one, other = losses(module, *data), losses(whole, *data)
    for part in ("main", "auxiliary", "modality"):
        assert torch.equal(one[part], other[part])
    assert one["contrastive"] != other["contrastive"]


def test_uncertainty_weights_start_even_and_learn():
    module = make("mdico-uncertainty")
    parts = losses(module, *batch())
    total = parts.pop("total")
    assert total.item() == pytest.approx(sum(v.item() for v in parts.values()), rel=1e-5)
    total.backward()
    # d/ds [exp(-s) L + s / 2] at 0
    for name, s in module.log_variance.items():
        assert s.grad.item() == pytest.approx(0.5 - parts[name].item(), abs=1e-4)


def test_uncertainty_weights_by_hand():
    module = make("mdico-uncertainty").eval()
    variance = {"main": 1.0, "auxiliary": 2.0, "modality": 4.0, "contrastive": 0.5}
    with torch.no_grad():
        for name, s in module.log_variance.items():
            s.fill_(log(variance[name]))
    parts = {k: v.item() for k, v in losses(module, *batch()).items()}
    want = sum(parts[k] / v + log(v) / 2 for k, v in variance.items())
    assert parts["total"] == pytest.approx(want, rel=1e-5)


def test_the_best_uncertainty_weight_is_half_over_the_loss():
    """At the minimum of exp(-s) L + s / 2, exp(-s) = 1 / (2 L) (Kendall et al., section 3.2)."""
    module = make("mdico-uncertainty").eval()
    parts = losses(module, *batch())
    with torch.no_grad():
        for name, s in module.log_variance.items():
            s.copy_((2 * parts[name]).log())
    losses(module, *batch())["total"].backward()
    assert all(s.grad.abs() < 1e-5 for s in module.log_variance.values())


@pytest.mark.parametrize("kind", ["shared", "specific"])
def test_prediction_from_one_kind_of_features(kind):
    module = make(f"mdico-only-{kind}").eval()
    x = batch()[0]["s1"]
    z = getattr(module.encode("s1", x), kind)
    assert torch.equal(module.embed("s1", x), z)
    torch.testing.assert_close(module.predict("s1", x), module.auxiliary(z))
    data = batch()
    for part, value in losses(make("mdico"), *data).items():  # trained as MDiCo is
        assert torch.equal(losses(make(f"mdico-only-{kind}"), *data)[part], value)


def test_past_negatives_go_with_every_ablation():
    module = make("mdico-without-auxiliary", memory=7)
    losses(module, *batch())
    assert [len(z) for z in module.past.values()] == [7, 7]


def test_switches_that_exclude_each_other_are_refused():
    with pytest.raises(ValueError, match="exclude each other"):
        make("mdico-only-shared", without_auxiliary=True)
