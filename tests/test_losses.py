"""Each loss against numbers worked by hand (arXiv:2510.19579, equations 7 to 11)."""

from math import e, exp, log

import pytest
import torch
from torch import tensor

from models.losses import (
    auxiliary_loss,
    contrastive_loss,
    info_nce,
    main_loss,
    modality_loss,
    prediction_loss,
)

# logits (0, ln 3) are the probabilities 1/4 and 3/4
QUARTERS = tensor([[0.0, log(3)], [0.0, log(3)]])
Y = tensor([1, 0])
CE = (log(4 / 3) + log(4)) / 2

E1, E2 = [1.0, 0.0], [0.0, 1.0]


def test_prediction_loss_is_cross_entropy_for_integer_targets():
    assert prediction_loss(Y, QUARTERS).item() == pytest.approx(CE)


def test_class_weights_make_a_weighted_mean():
    got = prediction_loss(Y, QUARTERS, tensor([1.0, 3.0])).item()
    assert got == pytest.approx((3 * log(4 / 3) + 1 * log(4)) / 4)


def test_prediction_loss_is_squared_error_for_values():
    got = prediction_loss(tensor([1.0, -1.0]), tensor([[0.0], [2.0]])).item()
    assert got == pytest.approx((1 + 9) / 2)


LABELS = tensor([[1.0, 0.0], [0.0, 0.0]])


def test_prediction_loss_of_labels_is_their_binary_cross_entropy():
    # probabilities 1/2 and 3/4 of each sample's labels
    got = prediction_loss(LABELS, QUARTERS).item()
    assert got == pytest.approx((log(2) + log(4) + log(2) + log(4)) / 4)


def test_labels_may_be_weighted():
    got = prediction_loss(LABELS, QUARTERS, tensor([1.0, 3.0])).item()
    assert got == pytest.approx((log(2) + 3 * log(4) + log(2) + 3 * log(4)) / 4)


def test_one_label_is_not_a_value():
    got = prediction_loss(tensor([[1.0]]), tensor([[log(3)]])).item()
    assert got == pytest.approx(log(4 / 3))


def test_main_loss_is_half_the_sum_of_two_sensors():
    # the second sensor predicts certainly and rightly: loss 0
    sure = tensor([[0.0, 99.0], [99.0, 0.0]])
    assert main_loss([QUARTERS, sure], [Y, Y]).item() == pytest.approx(CE / 2)


def test_main_loss_takes_each_sensor_over_its_own_samples():
    got = main_loss([QUARTERS, QUARTERS[:1]], [Y, Y[:1]]).item()
    assert got == pytest.approx((CE + log(4 / 3)) / 2)


def test_auxiliary_loss_sums_shared_and_specific():
    even = torch.zeros(2, 2)  # cross-entropy ln 2
    got = auxiliary_loss([(QUARTERS, even), (even, even)], [Y, Y]).item()
    assert got == pytest.approx(((CE + log(2)) + (log(2) + log(2))) / 2)


def test_info_nce_of_orthogonal_pairs():
    a = tensor([E1, E2])
    assert info_nce(a, a, 1.0).item() == pytest.approx(log(1 + exp(-1)))
    assert info_nce(a, a, 0.5).item() == pytest.approx(log(1 + exp(-2)))


def test_info_nce_does_not_see_lengths():
    a = tensor([E1, E2])
    assert info_nce(3 * a, 0.1 * a, 1.0).item() == pytest.approx(log(1 + exp(-1)), rel=1e-5)


def test_info_nce_default_temperature_is_the_papers():
    a = tensor([E1, E2])
    assert info_nce(a, a).item() == pytest.approx(log(1 + exp(-1 / 0.07)), abs=1e-6)


def test_past_features_of_the_other_sensor_are_further_negatives():
    a = tensor([E1, E2])
    past = tensor([E1, [0.0, -5.0], E2])
    # row 1: candidates 1, 0 | 1, 0, 0; row 2: 0, 1 | 0, -1, 1
    want = (log(2 * e + 3) - 1 + log(2 * e + 2 + exp(-1)) - 1) / 2
    assert info_nce(a, a, 1.0, past).item() == pytest.approx(want)


def test_each_anchor_meets_the_other_sensors_past():
    a, b = tensor([E1, E2]), tensor([E1, E1])
    past_a, past_b = tensor([E2]), tensor([E1])
    want = info_nce(a, b, 1.0, past_b) + info_nce(b, a, 1.0, past_a)
    got = contrastive_loss([(a, b, past_a, past_b)], 1.0)
    assert got.item() == pytest.approx(want.item())
    assert info_nce(a, b, 1.0, past_b) != info_nce(a, b, 1.0, past_a)


def test_contrastive_loss_takes_each_side_as_anchor_once():
    a, b = tensor([E1, E2]), tensor([E1, E1])
    # a as anchor: similarities (1, 1), (0, 0): ln 2 each.
    # b as anchor: similarities (1, 0) twice; the positives are 1 and 0.
    other_way = (log(1 + exp(-1)) + log(1 + e)) / 2
    assert contrastive_loss([(a, b, None, None)], 1.0).item() == pytest.approx(
        log(2) + other_way)


def test_contrastive_loss_is_a_mean_over_pairs():
    a, b = tensor([E1, E2]), tensor([E1, E1])
    ab, aa = (a, b, None, None), (a, a, None, None)
    one, same = contrastive_loss([ab], 1.0).item(), contrastive_loss([aa], 1.0).item()
    assert contrastive_loss([ab, ab, aa], 1.0).item() == pytest.approx((2 * one + same) / 3)


def test_modality_loss_of_two_sensors():
    logits = tensor([[0.0, log(3)]])
    even = torch.zeros(1, 2)
    # sensor 0 is taken for sensor 1 with 3/4: ln 4; sensor 1 rightly: ln 4/3; unused: undecided
    got = modality_loss({0: (logits, even), 1: (logits, even)}).item()
    assert got == pytest.approx((log(4) + log(2) + log(4 / 3) + log(2)) / 2)


def test_modality_loss_keeps_a_sensors_number_when_others_are_missing():
    logits = tensor([[0.0, 0.0, log(2)]])  # probabilities 1/4, 1/4, 1/2
    assert modality_loss({2: (logits, logits)}).item() == pytest.approx(2 * log(2))
