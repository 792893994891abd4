"""MDiCo: its equations by hand, what each loss reaches, missing sensors, past negatives."""

from math import e, exp, log

import pytest
import torch
from torch import tensor

from models.losses import info_nce
from models.methods.base import pairs_of
from tests.support.networks import D, batch, by_hand, linear, make, present, reached, rows

L3 = log(3)
SENSORS = ("s1", "s2", "l8", "aerial")


def worked():
    """Shared = specific = the first two channels, unused = the next two; the heads take logits
    (0, ln 3): probabilities 1/4 and 3/4."""
    module = by_hand("mdico", temperature=1.0)
    for head in module.head.values():
        linear(head, [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    linear(module.auxiliary, [[1.0, 0.0], [0.0, 1.0]])
    linear(module.which_specific, [[0.0, 0.0], [0.0, 0.0]])  # undecided
    linear(module.which_unused, [[1.0, 0.0], [0.0, 1.0]])
    inputs = {"s1": rows([0, L3, L3, 0], [L3, 0, L3, 0]),
              "s2": rows([0, L3, L3, 0], [0, L3, L3, 0])}
    return module, inputs


def test_equation_6_by_hand():
    module, inputs = worked()
    parts = module.losses(inputs, present(), tensor([1, 0]))
    right, wrong = log(4 / 3), log(4)
    want = {
        "main": (right + (right + wrong) / 2) / 2,
        "auxiliary": (2 * right + (right + wrong)) / 2,
        # anchors of s1: cosines (1, 1), (0, 0); of s2: (1, 0) twice, the positives are 1 and 0
        "contrastive": log(2) + (log(1 + exp(-1)) + log(1 + e)) / 2,
        "modality": ((log(2) + right) + (log(2) + wrong)) / 2,
    }
    assert {k: v.item() for k, v in parts.items() if k != "total"} == pytest.approx(want)
    assert parts["total"].item() == pytest.approx(sum(want.values()))


def test_a_value_and_labels_by_hand():
    module, inputs = worked()
    labels = module.losses(inputs, present(), tensor([[0.0, 1.0], [0.0, 1.0]]))
    # each row's two logits: ln 3 costs ln 4/3 where the label is 1 and ln 4 where not; 0 costs ln 2
    s1 = (log(2) + log(4 / 3) + log(4) + log(2)) / 4
    s2 = (log(2) + log(4 / 3)) / 2
    assert labels["main"].item() == pytest.approx((s1 + s2) / 2)
    module = by_hand("mdico", outputs=1)
    for head in module.head.values():
        linear(head, [[1.0, 0.0, 0.0, 0.0]])
    values = module.losses({"s1": rows([1, 0, 0, 0], [2, 0, 0, 0]),
                            "s2": rows([3, 0, 0, 0], [4, 0, 0, 0])}, present(), tensor([0.0, 0.0]))
    assert values["main"].item() == pytest.approx(((1 + 4) / 2 + (9 + 16) / 2) / 2)


def test_embedding_is_what_the_head_works_on():
    module = make("mdico").eval()
    x = batch()[0]["s1"]
    z = module.encode("s1", x)
    assert torch.equal(module.embed("s1", x), torch.cat([z.shared, z.specific], dim=1))
    assert torch.equal(module.predict("s1", x), module.head["s1"](module.embed("s1", x)))


@pytest.mark.parametrize(("part", "expected"), [
    ("main", {"common", "unique", "head"}),
    ("auxiliary", {"common", "unique", "auxiliary"}),
    ("contrastive", {"common"}),
    ("modality", {"unique", "which_specific", "which_unused"}),
])
def test_gradients_reach_what_they_should(part, expected):
    assert reached(make("mdico"), part) == expected


@pytest.mark.parametrize(("part", "learns"), [
    ("main", False), ("auxiliary", False), ("contrastive", False), ("modality", True),
])
def test_unused_features_learn_from_the_modality_loss_only(part, learns):
    module = make("mdico")
    module.losses(*batch())[part].backward()
    weight = module.unique["s1"].projection.weight.grad  # (2d, width): specific, then unused
    unused = 0.0 if weight is None else weight[D:].abs().sum().item()
    assert (unused > 0) == learns


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("outputs", [1, 2])
def test_any_number_of_sensors_and_both_kinds_of_task(count, outputs):
    sensors = SENSORS[:count]
    module = make("mdico", sensors, outputs)
    inputs, there, target = batch(sensors)
    parts = module.losses(inputs, there, target.float() if outputs == 1 else target)
    parts["total"].backward()
    alone = {"main", "auxiliary", "total"}
    assert set(parts) == (alone if count == 1 else alone | {"contrastive", "modality"})
    assert all(torch.isfinite(v) for v in parts.values())
    for sensor in sensors:
        assert module.eval().predict(sensor, inputs[sensor]).shape == (10, outputs)


def test_rows_of_absent_sensors_are_never_looked_at():
    module = make("mdico", ("s1", "s2", "l8")).eval()  # no dropout: two passes agree
    inputs, there, target = batch(("s1", "s2", "l8"), n=8)
    there[0, 0] = there[1, 1] = False
    there[:, 2] = False  # a sensor that the whole batch lacks
    clean = module.losses(inputs, there, target)
    for m, sensor in enumerate(inputs):
        inputs[sensor][~there[:, m]] = torch.nan
    parts = module.losses(inputs, there, target)
    for name, value in parts.items():
        torch.testing.assert_close(value, clean[name])
    assert torch.isfinite(parts["total"])


def test_pairs_are_the_samples_that_have_both():
    module = make("mdico").eval()
    inputs, there, target = batch(n=8)
    there[2, 0] = there[5, 1] = False
    both = tensor([0, 1, 3, 4, 6, 7])
    want = module.losses({s: x[both] for s, x in inputs.items()}, there[both], target[both])
    got = module.losses(inputs, there, target)
    torch.testing.assert_close(got["contrastive"], want["contrastive"])


def test_without_common_samples_there_is_nothing_to_contrast():
    inputs, there, target = batch(n=8)
    there[:4, 0] = there[4:, 1] = False
    assert "contrastive" not in make("mdico").losses(inputs, there, target)


@pytest.mark.parametrize("method", ["mdico", "individual"])
def test_a_batch_without_two_samples_of_any_sensor_is_refused(method):
    inputs, there, target = batch()
    there[1:] = False
    with pytest.raises(ValueError, match="at least two"):
        make(method).losses(inputs, there, target)


@pytest.mark.parametrize("method", ["mdico", "individual"])
def test_predict_runs_only_its_own_branch(method):
    module = make(method).eval()
    for name, child in module.named_modules():
        if "s2" in name.split("."):
            child.register_forward_pre_hook(lambda *_: pytest.fail("the other branch ran"))
    assert module.predict("s1", batch()[0]["s1"]).shape == (10, 2)


@pytest.mark.parametrize("method", ["mdico", "individual"])
def test_evaluation_is_deterministic_and_sample_by_sample(method):
    module = make(method)
    inputs, there, target = batch()
    module.losses(inputs, there, target)["total"].backward()  # moves the running statistics
    module.eval()
    x = inputs["s1"]
    whole = module.predict("s1", x)
    assert torch.equal(whole, module.predict("s1", x))
    torch.testing.assert_close(whole, torch.cat([module.predict("s1", row) for row in x.split(1)]))


# ---- past negatives


def shared_of(module, inputs):
    return [module.encode(s, x).shared for s, x in inputs.items()]


def test_memory_keeps_the_newest_shared_features_of_each_sensor():
    module = make("mdico", memory=15, projection_dropout=0.0, dropout=0.0)
    first, second = (batch(n=10, seed=s) for s in (1, 2))
    module.losses(*first)
    module.losses(*second)
    for m, (old, new) in enumerate(zip(shared_of(module, first[0]), shared_of(module, second[0]),
                                       strict=True)):
        assert not module.past[m].requires_grad
        torch.testing.assert_close(module.past[m], torch.cat([new, old])[:15])


def test_a_batch_meets_the_past_before_it_becomes_part_of_it():
    module = make("mdico", memory=100, projection_dropout=0.0, dropout=0.0)
    first, second = (batch(n=10, seed=s) for s in (1, 2))
    plain = make("mdico", projection_dropout=0.0, dropout=0.0).losses(*first)["contrastive"]
    torch.testing.assert_close(module.losses(*first)["contrastive"], plain)  # no past yet
    (a0, b0), (a1, b1) = (shared_of(module, x[0]) for x in (first, second))
    want = info_nce(a1, b1, past=b0) + info_nce(b1, a1, past=a0)
    torch.testing.assert_close(module.losses(*second)["contrastive"], want)


def test_an_evaluation_neither_uses_nor_adds_a_past():
    module = make("mdico", memory=100)
    module.losses(*batch())
    past = {m: z.clone() for m, z in module.past.items()}
    module.eval()
    data = batch(seed=2)
    a, b = shared_of(module, data[0])
    torch.testing.assert_close(module.losses(*data)["contrastive"], info_nce(a, b) + info_nce(b, a))
    assert all(torch.equal(module.past[m], z) for m, z in past.items())


def test_without_memory_nothing_is_kept_and_a_checkpoint_holds_no_past():
    module = make("mdico")
    module.losses(*batch())
    assert module.past == {}
    module = make("mdico", memory=5)
    module.losses(*batch())
    assert module.state_dict().keys() == make("mdico").state_dict().keys()


def test_sensors_are_paired_by_sample():
    there = tensor([[True, False], [True, True], [False, True], [True, True]])
    [(a, b, i, j)] = pairs_of({0: None, 1: None}, there)
    assert (a, b, i.tolist(), j.tolist()) == (0, 1, [1, 2], [0, 2])
