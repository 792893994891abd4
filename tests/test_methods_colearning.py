"""Individual, ESensI, DeCUR, DML and DisCoM-KD against numbers worked by hand.

Encoders take the first channels (``by_hand``); logits (0, ln 3) are the probabilities 1/4 and 3/4.
"""

from math import log

import numpy as np
import pytest
import torch
from torch import nn, tensor

from models.losses import prediction_loss
from models.methods.decur import barlow_twins, correlation
from models.methods.discom import orthogonality, reverse_gradient
from models.methods.dml import mutual, mutual_labels
from tests.support.networks import D, batch, by_hand, linear, losses, make, present, reached, rows

L3 = log(3)
RIGHT, WRONG = log(4 / 3), log(4)
EYE = [[1.0, 0.0], [0.0, 1.0]]
SERIES = {"s1": rows([0, L3, 0, 0], [L3, 0, 0, 0]), "s2": rows([0, L3, 0, 0], [0, L3, 0, 0])}
Y = tensor([1, 0])  # s1 right twice; s2 right, then wrong
S1, S2 = RIGHT, (RIGHT + WRONG) / 2


def heads(module):
    for head in module.head.values():
        linear(head, EYE)
    return module


# ---- Individual


def test_individual_is_the_sum_of_networks_on_their_own():
    parts = heads(by_hand("individual")).losses(SERIES, present(), Y)
    assert parts["main"].item() == parts["total"].item() == pytest.approx(S1 + S2)


def test_individual_weighs_classes():
    parts = heads(by_hand("individual")).losses(SERIES, present(), Y, tensor([3.0, 1.0]))
    assert parts["total"].item() == pytest.approx(RIGHT + (RIGHT + 3 * WRONG) / 4)


def test_individual_trains_each_sensor_as_if_alone():
    both, one = (make("individual", s).eval() for s in (("s1", "s2"), ("s1",)))
    inputs, there, target = batch()
    one.load_state_dict({k: v for k, v in both.state_dict().items() if ".s1." in k})
    both.losses(inputs, there, target)["total"].backward()
    one.losses(inputs, there[:, :1], target)["total"].backward()
    torch.testing.assert_close(both.head["s1"].weight.grad, one.head["s1"].weight.grad)


# ---- ESensI


def test_esensi_adds_the_sensors_code_before_the_one_head():
    module = by_hand("esensi")
    module.head = nn.Linear(2, 2)
    linear(module.head, EYE)
    with torch.no_grad():
        module.code["s1"].zero_()
        module.code["s2"].copy_(tensor([L3, -L3]))  # turns (0, ln 3) into (ln 3, 0)
    parts = module.losses(SERIES, present(), Y)
    assert parts["total"].item() == pytest.approx(S1 + (WRONG + RIGHT) / 2)
    assert module.embed("s2", SERIES["s2"]).tolist() == [[pytest.approx(L3), 0.0]] * 2


def test_esensis_head_has_one_hidden_layer_with_batch_normalisation():
    kinds = [type(layer) for layer in make("esensi").head]
    assert kinds == [nn.Linear, nn.ReLU, nn.BatchNorm1d, nn.Dropout, nn.Linear]


def test_esensi_has_one_head_that_knows_the_sensor():
    module = make("esensi").eval()
    inputs, there, target = batch()
    terms = [prediction_loss(target, module.predict(s, x)) for s, x in inputs.items()]
    torch.testing.assert_close(losses(module, inputs, there, target)["main"], sum(terms))
    x, before = inputs["s1"], module.predict("s1", inputs["s1"])
    with torch.no_grad():
        module.code["s1"] += 1
    assert not torch.allclose(module.predict("s1", x), before)


# ---- DeCUR


def test_correlation_of_two_dimensions():
    a = tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    b = torch.stack([a[:, 0], a[:, 0]], dim=1) * 5 + 2  # both dimensions follow a's first
    torch.testing.assert_close(correlation(a, b), tensor([[1.0, 1.0], [0.0, 0.0]]), atol=1e-4,
                               rtol=0)


def test_correlation_is_pearsons():
    a, b = np.random.default_rng(0).normal(size=(2, 50, 3)).astype("float32")
    want = np.corrcoef(a.T, b.T)[:3, 3:]
    np.testing.assert_allclose(correlation(torch.tensor(a), torch.tensor(b)), want, atol=1e-4)


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


def test_decurs_loss_by_hand():
    """Two projected dimensions, the first common, the second unique; no noise: each view agrees
    with itself, so that within a sensor only the off-diagonal is left."""
    module = heads(by_hand("decur", off_diagonal=0.5, noise=0.0, weight=2.0))
    for s in module.sensors:
        module.projector[s] = nn.Identity()
    module.common = 1
    x = {"s1": rows([1, 1], [1, -1], [-1, 1], [-1, -1]),
         "s2": rows([1, 1], [1, 1], [-1, -1], [-1, -1])}
    parts = module.losses(x, present(4), tensor([0, 1, 0, 1]))
    # s1: dimensions uncorrelated: 0. s2: both the same: 2 * 0.5 off the diagonal.
    # across: common 1 -> 0; unique: s1's second with s2's second 0 -> 0; half their sum
    assert parts["decoupling"].item() == pytest.approx(2.0 * ((0 + 1 + 0) / 3) / 2, abs=1e-4)
    x["s2"] = x["s1"].clone()  # unique dimensions now agree: 1
    parts = module.losses(x, present(4), tensor([0, 1, 0, 1]))
    assert parts["decoupling"].item() == pytest.approx(2.0 * ((0 + 0 + 0.5) / 3) / 2, abs=1e-4)


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


def test_mutual_divergence_of_labels_is_that_of_each_alone():
    first, second = tensor([[L3, 0.0]]), tensor([[0.0, 0.0]])  # (3/4, 1/2), (1/2, 1/2)
    one = mutual(tensor([[0.0, L3]]), tensor([[0.0, 0.0]])).item()
    assert mutual_labels(first, second).item() == pytest.approx((one + 0) / 2, rel=1e-5)


def test_mutual_learning_holds_the_peer_constant():
    first, second = (torch.randn(3, 2, requires_grad=True) for _ in range(2))
    mutual(first, second).backward()
    # gradient of KL(q || softmax(x)) for fixed q is softmax(x) - q, over the batch size
    want = (first.softmax(1) - second.softmax(1)).detach() / 3
    torch.testing.assert_close(first.grad, want)
    torch.testing.assert_close(second.grad, -want)


def test_mutual_learning_of_labels_pulls_each_probability_to_its_peers():
    first, second = (torch.randn(3, 2, requires_grad=True) for _ in range(2))
    mutual_labels(first, second).backward()
    want = (first.sigmoid() - second.sigmoid()).detach() / 6  # samples and labels
    torch.testing.assert_close(first.grad, want)
    torch.testing.assert_close(second.grad, -want)


def test_dmls_loss_by_hand():
    parts = heads(by_hand("dml")).losses(SERIES, present(), Y)
    assert parts["main"].item() == pytest.approx(S1 + S2)
    # the first sample's probabilities agree; the second's are (3/4, 1/4) and (1/4, 3/4)
    divergence = 0.75 * log(3) + 0.25 * log(1 / 3)
    assert parts["mutual"].item() == pytest.approx(2 * divergence / 2, rel=1e-5)


def test_dml_divides_by_the_number_of_peers():
    module = make("dml", ("s1", "s2", "l8")).eval()
    inputs, there, target = batch(("s1", "s2", "l8"))
    o = [module.predict(s, x) for s, x in inputs.items()]
    want = (mutual(o[0], o[1]) + mutual(o[0], o[2]) + mutual(o[1], o[2])) / 2
    torch.testing.assert_close(losses(module, inputs, there, target)["mutual"], want)


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


def test_discoms_losses_by_hand():
    """Invariant = informative = the first two channels, irrelevant = the next two."""
    module = by_hand("discom-kd")
    for s in module.sensors:
        module.project[s] = nn.Identity()
        linear(module.head[s], [[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    linear(module.auxiliary, EYE)
    linear(module.adversary, [[0.0, 0.0], [0.0, 0.0]], tensor([0.0, L3]))  # says "s2" with 3/4
    linear(module.which_informative, [[0.0, 0.0], [0.0, 0.0]])
    linear(module.which_irrelevant, EYE)
    x = {"s1": rows([0, L3, L3, 0], [L3, 0, L3, 0]), "s2": rows([0, L3, L3, 0], [0, L3, L3, 0])}
    parts = {k: v.item() for k, v in module.losses(x, present(), Y).items()}
    main = (3 * RIGHT + WRONG) / 4  # all samples of all sensors at once
    assert parts["main"] == pytest.approx(main)
    assert parts["auxiliary"] == pytest.approx(2 * main)
    assert parts["adversary"] == pytest.approx((2 * WRONG + 2 * RIGHT) / 4)
    # informative: undecided; irrelevant (ln 3, 0): "s1" with 3/4
    assert parts["modality"] == pytest.approx((4 * log(2) + 2 * RIGHT + 2 * WRONG) / 8)
    # informative against irrelevant: three rows at right angles, one parallel; and against
    # invariant: all parallel
    assert parts["orthogonality"] == pytest.approx(1 / 4 + 1)


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
