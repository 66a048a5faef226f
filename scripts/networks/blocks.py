"""Building blocks of the distillers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


def resize_like(x: Tensor, reference: Tensor) -> Tensor:
    """Bilinear resampling of (B, C, h, w) to the height and width of ``reference``."""
    if x.shape[-2:] == reference.shape[-2:]:
        return x
    return F.interpolate(x, size=reference.shape[-2:], mode="bilinear", align_corners=False)


def conv_bn(in_channels: int, out_channels: int, kernel: int = 1, dilation: int = 1, stride: int = 1) -> nn.Sequential:
    """A convolution without bias that keeps the size at stride 1, and batch normalisation."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class Adapter(nn.Module):
    """Maps features of the global teacher to the channels of the local one (PDD, inside MMU and InA).

    (B, in_channels, H, W) -> (B, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        mid = max(in_channels // 4, out_channels // 4)
        self.body = nn.Sequential(
            conv_bn(in_channels, mid),
            nn.GELU(),
            conv_bn(mid, mid, kernel=3, dilation=2),
            nn.GELU(),
            conv_bn(mid, out_channels),
        )
        self.projection = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.body(x) + self.projection(x))


def _conv3x3_or_up(in_channels: int, out_channels: int, scale: int) -> nn.Module:
    if scale == 1:
        return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return nn.ConvTranspose2d(in_channels, out_channels, scale, stride=scale, bias=False)


class _Residual(nn.Module):
    """ReLU of ``body`` plus ``shortcut``."""

    body: nn.Module
    shortcut: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.body(x) + self.shortcut(x))


class Bottleneck(_Residual):
    """ResNet's bottleneck: (B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        width = out_channels // 4
        self.body = nn.Sequential(
            conv_bn(in_channels, width),
            nn.ReLU(inplace=True),
            conv_bn(width, width, kernel=3, stride=stride),
            nn.ReLU(inplace=True),
            conv_bn(width, out_channels),
        )
        self.shortcut = _shortcut(in_channels, out_channels, stride)


class Basic(_Residual):
    """ResNet's basic block: (B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(in_channels, out_channels, kernel=3, stride=stride),
            nn.ReLU(inplace=True),
            conv_bn(out_channels, out_channels, kernel=3),
        )
        self.shortcut = _shortcut(in_channels, out_channels, stride)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return conv_bn(in_channels, out_channels, stride=stride)


class InvertedBottleneck(_Residual):
    """A residual block of a reverse decoder, RD4AD's mirror image of a wide ResNet bottleneck.

    (B, in_channels, H, W) -> (B, out_channels, scale H, scale W). ``scale`` 1 takes a 3x3 convolution in the middle, 2
    a 2x2 transposed one with stride 2.
    """

    def __init__(self, in_channels: int, out_channels: int, scale: int = 1) -> None:
        super().__init__()
        width = out_channels // 2  # "width 128": twice the planes of a plain bottleneck, whose output is 4 x planes
        self.body = nn.Sequential(
            conv_bn(in_channels, width),
            nn.ReLU(inplace=True),
            _conv3x3_or_up(width, width, scale),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            conv_bn(width, out_channels),
        )
        self.shortcut = _upward_shortcut(in_channels, out_channels, scale)


class InvertedBasic(_Residual):
    """The mirror image of ResNet's basic block, of the shapes of ``InvertedBottleneck``."""

    def __init__(self, in_channels: int, out_channels: int, scale: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv3x3_or_up(in_channels, out_channels, scale),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            conv_bn(out_channels, out_channels, kernel=3),
        )
        self.shortcut = _upward_shortcut(in_channels, out_channels, scale)


def _upward_shortcut(in_channels: int, out_channels: int, scale: int) -> nn.Module:
    if scale == 1:
        return _shortcut(in_channels, out_channels, stride=1)
    return nn.Sequential(_conv3x3_or_up(in_channels, out_channels, scale), nn.BatchNorm2d(out_channels))


class BlockPair(NamedTuple):
    """A residual block, and its mirror image for decoders."""

    forward: Callable[..., nn.Module]
    inverted: Callable[..., nn.Module]


BLOCKS = {"bottleneck": BlockPair(Bottleneck, InvertedBottleneck), "basic": BlockPair(Basic, InvertedBasic)}


class ReverseDecoder(nn.Module):
    """Decodes the deepest features towards the shallow ones, level by level (a student of RD4AD and its descendants).

    Args:
        channels: of every level, shallow to deep; the last is the input's.
        scales: up-sampling from level i + 1 to level i, one fewer than ``channels``.
        blocks: how many every decoded level has, shallow to deep, or one number for all.
        block: a key of ``BLOCKS``.
    """

    def __init__(
        self, channels: list[int], scales: list[int], blocks: int | Sequence[int] = 2, block: str = "bottleneck"
    ) -> None:
        super().__init__()
        numbers = [blocks] * len(scales) if isinstance(blocks, int) else list(blocks)
        if len(numbers) != len(scales):
            raise ValueError(
                f"The decoder has {len(scales)} levels, but blocks are given for {len(numbers)}: {numbers}."
            )
        make = BLOCKS[block].inverted
        self.levels = nn.ModuleList()  # deep to shallow
        levels = list(zip(channels[:-1], channels[1:], scales, numbers, strict=True))
        for out_channels, in_channels, scale, number in reversed(levels):
            tail = [make(out_channels, out_channels) for _ in range(number - 1)]
            self.levels.append(nn.Sequential(make(in_channels, out_channels, scale), *tail))

    def forward(self, x: Tensor, priors: list[Tensor] | None = None) -> list[Tensor]:
        """(B, C_n, H_n, W_n) -> features of levels 1 to n - 1, shallow to deep.

        ``priors``, deep to shallow, are added to the inputs of the second and later levels.
        """
        features: list[Tensor] = []
        for index, level in enumerate(self.levels):
            if priors is not None and index > 0:
                x = x + priors[index - 1]
            x = level(x)
            features.insert(0, x)
        return features


def initialise(module: nn.Module) -> None:
    """He initialisation of the convolutions, as torchvision's ResNet and RD4AD have it."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
