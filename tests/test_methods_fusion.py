"""EmbraceNet, ShaSpec, FModDrop, FCoM-av, MMGF and InputFu against numbers worked by hand.

Encoders take the first channels (``by_hand``); logits (0, ln 3) are the probabilities 1/4 and 3/4.
"""

from math import log

import pytest
import torch
from torch import nn, tensor
from torch.nn import functional as F

from models.losses import prediction_loss
from models.methods.embracenet import embrace, one_each
from models.methods.fcom import combinations
from models.methods.fusion import MMGF
from tests.support.networks import D, batch, by_hand, linear, losses, make, present, reached, rows

L3 = log(3)
RIGHT, WRONG = log(4 / 3), log(4)
EYE = [[1.0, 0.0], [0.0, 1.0]]
NONE = [[0.0, 0.0], [0.0, 0.0]]

# ---- EmbraceNet


def test_embracenet_docks_with_a_rectified_linear_layer():
    module = by_hand("embracenet")
    linear(module.docking["s1"], [[2.0, 0.0], [0.0, -1.0]], tensor([1.0, 0.5]))
    linear(module.head, [[1.0, 1.0], [0.0, 3.0]])
    x = rows([3, 4, 0, 0], [-1, 0, 0, 0])  # docked (7, 0) and (0, 0.5)
    assert module.embed("s1", x).tolist() == [[7.0, 0.0], [0.0, 0.5]]
    assert module.predict("s1", x).tolist() == [[7.0, 0.0], [0.5, 1.5]]


def test_embraced_components_are_equally_often_of_each_available_sensor():
    torch.manual_seed(0)
    docked = tensor([[[1.0], [2.0], [6.0]]]).expand(1, 3, 40_000)
    both, one = embrace(docked, tensor([[True, False, True]])), embrace(
        docked, tensor([[False, True, False]]))
    assert set(both.unique().tolist()) == {1.0, 6.0}
    assert both.mean().item() == pytest.approx(3.5, abs=0.05)  # (1 + 6) / 2
    assert (one == 2).all()


def test_embraced_components_keep_their_place():
    docked = tensor([[[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]])
    got = embrace(docked, tensor([[True, True]]))[0]
    assert all(v in (k, 10 * k) for v, k in zip(got.tolist(), (1, 2, 3), strict=True))


def test_embracenet_keeps_one_sensor_of_each_sample_when_it_drops():
    torch.manual_seed(0)
    has = tensor([[True, True, False]]).expand(10_000, 3)
    kept = one_each(has)
    assert (kept.sum(1) == 1).all()
    torch.testing.assert_close(kept.float().mean(0), tensor([0.5, 0.5, 0.0]), atol=0.02, rtol=0)


@pytest.mark.parametrize(("dropout", "alone"), [(1.0, True), (0.0, False)])
def test_embracenet_drops_sensors_in_its_share_of_the_training_batches(dropout, alone, monkeypatch):
    module = make("embracenet", sensor_dropout=dropout)
    seen = []
    monkeypatch.setattr("models.methods.embracenet.embrace",
                        lambda docked, has: seen.append(has) or docked.mean(1))
    losses(module, *batch())
    losses(module.eval(), *batch())
    assert ((seen[0].sum(1) == 1).all().item()) == alone
    assert seen[1].all()  # never in an evaluation


def test_embracenets_loss_of_one_sensor_is_that_of_its_prediction():
    module = make("embracenet").eval()
    inputs, there, target = batch()
    there[:, 1] = False
    want = prediction_loss(target, module.predict("s1", inputs["s1"]))
    torch.testing.assert_close(losses(module, inputs, there, target)["main"], want)


# ---- ShaSpec


def test_shaspec_replaces_an_absent_sensor_by_the_mean_of_shared_features():
    module = make("shaspec", ("s1", "s2", "l8"))
    nn.init.zeros_(module.compose.weight)
    nn.init.constant_(module.compose.bias, 10.0)
    shared = tensor([1.0, 3.0, 0.0]).view(1, 3, 1).expand(1, 3, D)
    got = module.fuse(shared, torch.zeros(1, 3, D), tensor([[True, True, False]])).view(3, D)
    assert got[:, 0].tolist() == [11, 13, 2]  # residual + projection; (1 + 3) / 2


def worked_shaspec():
    """Shared = specific = x, but for s2, whose adapter doubles; compose adds specific / 2."""
    module = by_hand("shaspec", channels=2)
    linear(module.adapt["s1"], EYE)
    linear(module.adapt["s2"], [[2.0, 0.0], [0.0, 2.0]])
    linear(module.compose, [[0.0, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.5]])
    return module


def test_shaspecs_fused_features_by_hand():
    module = worked_shaspec()
    # s1: r + s / 2 = 1.5 x, and r = x in place of s2; s2: 2 x + x / 2, and 2 x in place of s1
    x = rows([1, 2])
    assert module.embed("s1", x).tolist() == [[1.5, 3.0, 1.0, 2.0]]
    assert module.embed("s2", x).tolist() == [[2.0, 4.0, 2.5, 5.0]]


def test_shaspecs_losses_by_hand():
    module = worked_shaspec()
    linear(module.head, [[0.0] * 4, [0.0, 0.0, 1.0, 0.0]])  # logit 1: s2's fused first
    linear(module.which, [[1.0, 0.0], [0.0, 0.0]])
    x = {"s1": rows([0, 1], [L3, 0]), "s2": rows([0.4 * L3, 0], [0.4 * L3, 1])}
    parts = {k: v.item() for k, v in module.losses(x, present(), tensor([1, 0])).items()}
    assert parts["main"] == pytest.approx((RIGHT + WRONG) / 2)  # 2.5 * 0.4 ln 3
    # |r1 - r2|: (0.8 ln 3, 1), (0.2 ln 3, 2)
    assert parts["alignment"] == pytest.approx(0.1 * (L3 + 3) / 4)
    told = [0.0, L3], [0.4 * L3, 0.4 * L3]  # logit of "s1" from specific features; that of s2 is 0
    s1, s2 = (F.cross_entropy(torch.stack([tensor(t), torch.zeros(2)], 1), torch.full((2,), m))
              for m, t in enumerate(told))
    assert parts["domain"] == pytest.approx(0.02 * (s1 + s2).item() / 2)
    assert parts["total"] == pytest.approx(sum(v for k, v in parts.items() if k != "total"))


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


# ---- FModDrop


def even_attention():
    """One layer whose attention is a plain mean over the tokens that it may see, and whose
    feed-forward part is off; token 0."""
    module = by_hand("fmoddrop", fusion_heads=1)
    [layer] = module.fusion.layers
    with torch.no_grad():
        module.token.zero_()
        layer.self_attn.in_proj_bias.zero_()
        layer.self_attn.in_proj_weight.copy_(torch.cat([torch.zeros(4, 2), torch.eye(2)]))
        layer.self_attn.out_proj.bias.zero_()
    linear(layer.self_attn.out_proj, EYE)
    nn.init.zeros_(layer.linear2.weight)
    nn.init.zeros_(layer.linear2.bias)
    return module


def test_fmoddrops_token_gathers_from_the_sensors_that_are_there():
    module = even_attention()
    z = tensor([[[1.0, 5.0], [3.0, 2.0]]])
    # the mean of (token, z1, z2), twice normalised: two values become -1 and 1
    both = module.fuse(z, tensor([[True, True]]))  # (4, 7) / 3
    torch.testing.assert_close(both, tensor([[-1.0, 1.0]]), atol=1e-3, rtol=0)
    second = module.fuse(z, tensor([[False, True]]))  # (3, 2) / 2
    torch.testing.assert_close(second, tensor([[1.0, -1.0]]), atol=1e-3, rtol=0)


def test_fmoddrops_fusion_token_does_not_see_absent_sensors():
    module = make("fmoddrop").eval()
    z, has = torch.randn(4, 2, D), tensor([[True, False]] * 4)
    changed = z.clone()
    changed[:, 1] = 7.0
    torch.testing.assert_close(module.fuse(z, has), module.fuse(changed, has))
    assert not torch.allclose(module.fuse(z, ~has), module.fuse(changed, ~has))


def test_fmoddrop_drops_sensors_in_training_only(monkeypatch):
    module, drawn = make("fmoddrop"), []

    def none_of_the_second(has):
        drawn.append(has)
        return has & tensor([True, False])

    monkeypatch.setattr("models.methods.fmoddrop.random_subset", none_of_the_second)
    seen = []
    fuse = module.fuse
    module.fuse = lambda z, has: seen.append(has) or fuse(z, has)
    losses(module, *batch())
    losses(module.eval(), *batch())
    assert len(drawn) == 1
    assert not seen[0][:, 1].any()
    assert seen[1].all()


# ---- FCoM-av


def test_fcom_takes_every_combination_of_the_sensors_that_a_sample_has():
    z = tensor([[[1.0], [2.0], [6.0]], [[5.0], [7.0], [0.0]]])
    merged, row = combinations(z, tensor([[True, True, True], [True, True, False]]))
    by_sample = [sorted(merged[row == n].flatten().tolist()) for n in (0, 1)]
    assert by_sample[0] == [1, 1.5, 2, 3, 3.5, 4, 6]
    assert by_sample[1] == [5, 6, 7]


def test_fcoms_loss_by_hand():
    module = by_hand("fcom-av")
    module.head = nn.Linear(2, 2)
    linear(module.head, EYE)
    x = {"s1": rows([0, L3, 0, 0], [0, L3, 0, 0]), "s2": rows([2 * L3, L3, 0, 0], [0, -L3, 0, 0])}
    got = module.losses(x, present(), tensor([1, 1]))["total"].item()
    # probabilities of class 1: s1 3/4, 3/4; s2 1/4, 1/4; their averages (ln 3, ln 3), (0, 0): 1/2
    assert got == pytest.approx((2 * RIGHT + 2 * WRONG + 2 * log(2)) / 6)


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


def test_mmgfs_gate_sees_all_features_and_weighs_each_component():
    module = by_hand("mmgf")
    # the score of the second sensor's first component is the first sensor's second feature
    linear(module.gate, [[0.0] * 4, [0.0] * 4, [0.0, 1.0, 0.0, 0.0], [0.0] * 4])
    z = tensor([[[2.0, L3], [6.0, 0.0]]])
    got = module.fuse(z, tensor([[True, True]]))[0].tolist()
    assert got == pytest.approx([0.25 * 2 + 0.75 * 6, 0.5 * L3])


def test_mmgfs_loss_is_that_of_its_prediction():
    module = make("mmgf").eval()
    inputs, there, target = batch()
    want = prediction_loss(target, module.predict_all(inputs))
    torch.testing.assert_close(losses(module, inputs, there, target)["total"], want)


def test_inputfu_stands_the_channels_side_by_side():
    module = by_hand("inputfu", features=4, channels=2)
    linear(module.head, [[0.0] * 4, [0.0, 0.0, 1.0, 0.0]])  # the first channel of the second sensor
    x = {"s1": rows([7, 8], [7, 8]), "s2": rows([L3, 9], [0, 9])}
    assert module.embed_all(x)[0].tolist() == pytest.approx([7, 8, L3, 9])
    got = module.losses(x, present(), tensor([1, 1]))["total"].item()
    assert got == pytest.approx((RIGHT + log(2)) / 2)


def test_inputfu_learns_from_samples_with_every_sensor():
    module = make("inputfu").eval()
    inputs, there, target = batch()
    there[3, 0] = there[5, 1] = False
    every = there.all(1)
    want = prediction_loss(target[every], module.predict_all(inputs)[every])
    torch.testing.assert_close(losses(module, inputs, there, target)["total"], want)
