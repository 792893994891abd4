"""ResNet for one image a sample (He, Zhang, Ren, Sun 2016, arXiv:1512.03385)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F


class ResNet(nn.Module):
    """Four stages of residual blocks, mean over space, projection (He et al., Table 1).

    In a block of three convolutions the middle one has the stride, as in torchvision, which the
    authors of arXiv:2510.19579 use (He et al.: the first); parameters are as many. They start from
    ImageNet weights, which the paper does not say; here weights are fresh. Modules are named as
    torchvision's, so that a user may load its weights.

    Args:
        channels: C of the image.
        steps: 1; an image has no series.
        features: D of the output.
        projection_dropout: before the projection (arXiv:2510.19579, section 4.3).

    Raises:
        ValueError: more than one step.
    """

    OPTIONS: ClassVar[Mapping[str, int | float]] = {"projection_dropout": 0.2}
    BLOCKS: ClassVar[tuple[int, ...]]
    BOTTLENECK: ClassVar[bool] = False

    def __init__(
        self, channels: int, steps: int, features: int, *, projection_dropout: float
    ) -> None:
        super().__init__()
        if steps != 1:
            raise ValueError(f"a ResNet takes one image, not a series of {steps} steps; "
                             "choose an encoder of series for this sensor")
        self.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        block = Bottleneck if self.BOTTLENECK else Basic
        width = 64
        for stage, count in enumerate(self.BLOCKS):
            blocks = []
            for k in range(count):
                blocks.append(block(width, 64 << stage, stride=2 if stage and not k else 1))
                width = (64 << stage) * block.EXPANSION
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.projection = nn.Sequential(nn.Dropout(projection_dropout), nn.Linear(width, features))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. 2015, arXiv:1502.01852
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) or (N, 1, C, H, W) -> (N, D)."""
        x = x.squeeze(1) if x.ndim == 5 else x
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        for stage in range(len(self.BLOCKS)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return self.projection(x.mean((2, 3)))


class Basic(nn.Module):
    """y = relu(f(x) + x) with two 3 x 3 convolutions f (He et al., equation 1 and Fig. 5 left).

    Where size or channels change, a 1 x 1 convolution stands in for x (equation 2, option B).

    Args:
        channels: of the input.
        width: of the convolutions, and of the output.
        stride: of the first convolution.
    """

    EXPANSION: ClassVar[int] = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """A residual block of 1 x 1, 3 x 3 and 1 x 1 convolutions (He et al., Fig. 5 right).

    Args:
        channels: of the input.
        width: of the first two convolutions; the output has four times as many.
        stride: of the 3 x 3 convolution.
    """

    EXPANSION: ClassVar[int] = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, 4 width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def _shortcut(channels: int, out: int, stride: int) -> nn.Module:
    if channels == out and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


class ResNet18(ResNet):
    """18 layers."""

    BLOCKS: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)


class ResNet34(ResNet):
    """34 layers."""

    BLOCKS: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)


class ResNet50(ResNet):
    """50 layers: the image encoder of arXiv:2510.19579."""

    BLOCKS: ClassVar[tuple[int, ...]] = (3, 4, 6, 3)
    BOTTLENECK: ClassVar[bool] = True
