"""ResNet: published parameter counts, a block worked by hand, images of several shapes."""

import pytest
import torch
from torch import nn, tensor

from models.encoders.resnet import Basic, Bottleneck
from models.registry import ENCODERS, IMAGES


def make(name, channels=4, features=8):
    torch.manual_seed(0)
    return ENCODERS[name](channels, 1, features, projection_dropout=0.2)


def parameters(name, channels, features):
    with torch.device("meta"):
        return sum(p.numel() for p in make(name, channels, features).parameters())


@pytest.mark.parametrize(("name", "published"), [
    # of ImageNet's 3 channels and 1 000 classes, as torchvision's documentation gives them
    ("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032),
])
def test_published_numbers_of_parameters(name, published):
    assert parameters(name, 3, 1000) == published


def test_modules_are_named_as_torchvisions():
    """So that a user may load its weights, but for the last layer's."""
    names = set(make("resnet50").state_dict())
    assert names >= {"conv1.weight", "bn1.running_var", "layer1.0.conv3.weight",
                     "layer1.0.downsample.1.bias", "layer4.2.bn3.weight"}
    assert {n.split(".")[0] for n in names} == {
        "conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "projection"}


def identity(convolution):
    """Each channel's centre onto itself."""
    with torch.no_grad():
        convolution.weight.zero_()
        centre = convolution.kernel_size[0] // 2
        for k in range(min(convolution.weight.shape[:2])):
            convolution.weight[k, k, centre, centre] = 1.0


@pytest.mark.parametrize(("factor", "want"), [
    (0.75, [3.0, -1.0 + 0.75 * 2, -2.0 + 0.75 * 4, 0.5]),
    (0.25, [3.0, 0.0, 0.0, 0.5]),  # the last relu acts on the sum: -1 + 0.5, -2 + 1
])
def test_a_basic_block_by_hand(factor, want):
    """y = relu(x + factor * relu(-2 x))."""
    block = Basic(1, 1, 1).eval()
    identity(block.conv1)
    identity(block.conv2)
    with torch.no_grad():
        block.conv1.weight.mul_(-2.0)
        block.conv2.weight.mul_(factor)
    x = tensor([[3.0, -1.0], [-2.0, 0.5]]).view(1, 1, 2, 2)
    torch.testing.assert_close(block(x).flatten(), tensor(want), rtol=1e-4, atol=0)
    assert isinstance(block.downsample, nn.Identity)


def test_a_bottleneck_block_with_a_stride_by_hand():
    block = Bottleneck(1, 1, 2).eval()
    for convolution in (block.conv1, block.conv2):
        identity(convolution)
    with torch.no_grad():
        block.conv3.weight.copy_(tensor([1.0, 2.0, 0.0, -9.0]).view(4, 1, 1, 1))
        block.downsample[0].weight.copy_(tensor([0.0, 1.0, -1.0, 1.0]).view(4, 1, 1, 1))
    x = torch.full((1, 1, 2, 2), 7.0)
    x[0, 0, 0, 0] = 2.0  # the pixel that a stride of 2 keeps
    got = block(x).flatten()
    torch.testing.assert_close(got, tensor([2.0, 4.0 + 2.0, 0.0, 0.0]), rtol=1e-4, atol=1e-6)


def test_stages_halve_the_image_and_double_the_width():
    module = make("resnet50")
    sizes = []
    for stage in range(4):
        module.get_submodule(f"layer{stage + 1}").register_forward_hook(
            lambda m, x, y: sizes.append(tuple(y.shape[1:])))
    module(torch.randn(2, 4, 64, 64))
    assert sizes == [(256, 16, 16), (512, 8, 8), (1024, 4, 4), (2048, 2, 2)]


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_with_and_without_a_time_axis(name):
    module = make(name).eval()
    x = torch.randn(2, 4, 40, 33)
    with torch.inference_mode():
        assert module(x).shape == (2, 8)
        assert torch.equal(module(x), module(x.unsqueeze(1)))


def test_every_parameter_learns():
    module = make("resnet18")
    module(torch.randn(2, 4, 40, 40)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_a_series_is_refused():
    with pytest.raises(ValueError, match="not a series of 12 steps"):
        ENCODERS["resnet18"](4, 12, 8, projection_dropout=0.2)
