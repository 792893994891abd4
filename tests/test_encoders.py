"""Encoders: shapes, position codes against hand-worked numbers, space taken out of series."""

from math import cos, sin

import pytest
import torch
from torch import tensor

from models.encoders.convtran import RelativeAttention, tape
from models.encoders.pixels import as_series
from models.encoders.tempcnn import TempCNN
from models.encoders.transformer import sinusoids
from models.registry import ENCODERS, IMAGES

SERIES = [name for name in ENCODERS if name not in IMAGES]


def make(name, channels, steps, features=16, **more):
    torch.manual_seed(0)
    kind = ENCODERS[name]
    return kind(channels, steps, features, **{**kind.OPTIONS, **more})


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("steps", [1, 4, 12])
def test_series_to_features_and_back(name, steps):
    encoder = make(name, 5, steps)
    x = torch.randn(6, steps, 5, requires_grad=True)
    z = encoder(x)
    assert z.shape == (6, 16)
    z.square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert (x.grad.abs().sum((0, 2)) > 0).all()  # every step is looked at


@pytest.mark.parametrize("name", SERIES)
def test_evaluation_is_sample_by_sample(name):
    encoder = make(name, 5, 4)
    x = torch.randn(8, 4, 5)
    encoder(x)  # moves the running statistics
    encoder.eval()
    with torch.inference_mode():
        whole = encoder(x)
        assert torch.equal(whole, encoder(x))
        torch.testing.assert_close(whole, torch.cat([encoder(row) for row in x.split(1)]),
                                   atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SERIES)
def test_the_order_of_steps_matters(name):
    encoder = make(name, 3, 6, features=8).eval()
    x = torch.randn(2, 6, 3)
    assert not torch.allclose(encoder(x), encoder(x.flip(1)), atol=1e-4)


# ---- series of small images


def test_the_mean_over_the_pixels():
    x = tensor([[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 4.0, 8.0]]).view(1, 1, 2, 2, 2)
    assert as_series(x, 2).tolist() == [[[3.0, 3.0]]]


def test_the_pixels_side_by_side_band_by_band():
    x = torch.arange(24.0).view(1, 2, 3, 2, 2)
    got = as_series(x, 12)
    assert got.shape == (1, 2, 12)
    assert got[0, 1].tolist() == list(range(12, 24))


def test_a_series_stays_and_one_pixel_is_its_own_mean():
    x = torch.randn(2, 3, 4)
    assert as_series(x, 4) is x
    assert torch.equal(as_series(x[..., None, None], 4), x)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"2 bands of 9 pixels.*takes 2 .* or 18"):
        as_series(torch.zeros(1, 1, 2, 3, 3), 4)


# ---- TempCNN


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_tempcnn_has_the_papers_convolutions_of_128_and_kernel_5(layers):
    encoder = TempCNN(3, 12, 128, **{**TempCNN.OPTIONS, "layers": layers})
    convolutions = [m for m in encoder.modules() if isinstance(m, torch.nn.Conv1d)]
    assert [(c.out_channels, c.kernel_size) for c in convolutions] == [(128, (5,))] * layers
    assert TempCNN.OPTIONS["layers"] == 2
    assert encoder.eval()(torch.zeros(2, 12, 3)).shape == (2, 128)


def test_tempcnn_of_one_filter_by_hand():
    """Kernel (1, 2, 3) over 1, -1, 2 with zeros outside; relu; dense 1 1 1; projection 2 z + 1."""
    encoder = TempCNN(1, 3, 1, **{**TempCNN.OPTIONS, "layers": 1, "width": 1, "dense": 1,
                                  "kernel": 3}).eval()
    with torch.no_grad():
        encoder.convolutions[0].weight.copy_(tensor([[[1.0, 2.0, 3.0]]]))
        encoder.convolutions[0].bias.zero_()
        encoder.dense[1].weight.fill_(1.0)
        encoder.dense[1].bias.zero_()
        encoder.projection[1].weight.fill_(2.0)
        encoder.projection[1].bias.fill_(1.0)
    # 0 + 2 - 3 = -1 -> 0; 1 - 2 + 6 = 5; -1 + 4 + 0 = 3
    got = encoder(tensor([[[1.0], [-1.0], [2.0]]])).item()
    assert got == pytest.approx(2 * (5 + 3) + 1, rel=1e-4)  # batch normalisation has an epsilon


# ---- the others


def test_sinusoids_are_vaswanis():
    got = sinusoids(3, 4)
    torch.testing.assert_close(got[2], tensor([sin(2), cos(2), sin(0.02), cos(0.02)]))
    assert got[0].tolist() == [0, 1, 0, 1]


def test_tape_scales_the_frequencies_by_width_over_steps():
    got = tape(8, 4)  # scale 1/2
    torch.testing.assert_close(got[3], tensor([sin(1.5), cos(1.5), sin(0.015), cos(0.015)]))


def test_erpe_adds_a_scalar_of_head_and_lag_after_the_softmax():
    attention = RelativeAttention(2, 1, 3)
    with torch.no_grad():
        attention.query.weight.zero_()  # even scores: each step weighs 1/3
        attention.value.weight.copy_(torch.eye(2))
        attention.bias[:, 0] = tensor([0.0, 0.0, 0.0, 1.0, 0.0])  # one step back
    attention.norm = torch.nn.Identity()
    x = tensor([[[3.0, 0.0], [0.0, 3.0], [6.0, 0.0]]])
    got = attention(x)[0]
    mean = tensor([3.0, 1.0])
    torch.testing.assert_close(got, torch.stack([mean, mean + x[0, 0], mean + x[0, 1]]))


def test_convtran_mixes_steps_within_its_kernel_only_before_the_attention():
    encoder = make("convtran", 2, 12, features=4, width=8, heads=2, hidden=8, kernel=3).eval()
    x = torch.zeros(1, 12, 2)
    spike = x.clone()
    spike[0, 5] = 1.0

    def temporal(series):
        padded = torch.nn.functional.pad(series.transpose(1, 2).unsqueeze(1), encoder.pad)
        return encoder.temporal(padded)

    changed = (temporal(spike) - temporal(x)).abs().sum((0, 1, 2))
    assert changed.nonzero().flatten().tolist() == [4, 5, 6]


def test_mlp_normalises_batches():
    assert sum(isinstance(m, torch.nn.BatchNorm1d) for m in make("mlp", 3, 4).modules()) == 2
