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
    """Convolution without bias, followed by batch normalisation; keeps the size at stride 1."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class Adapter(nn.Module):
    """Maps features of the global teacher to the channels of the local one (part of PDD's MMU and InA).

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
    """Residual block of a reverse decoder, RD4AD's mirror image of a wide ResNet bottleneck.

    (B, in_channels, H, W) -> (B, out_channels, scale H, scale W). The convolution in the middle is 3x3 for ``scale`` 1,
    and transposed, 2x2 with stride 2, for ``scale`` 2.
    """

    def __init__(self, in_channels: int, out_channels: int, scale: int = 1) -> None:
        super().__init__()
        width = out_channels // 2  # "width 128": twice the planes of a plain bottleneck, with its 4 x planes outputs
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
    """Mirror image of ResNet's basic block, with the shapes of ``InvertedBottleneck``."""

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
    """Residual block, and its mirror image for decoders."""

    forward: Callable[..., nn.Module]
    inverted: Callable[..., nn.Module]


BLOCKS = {"bottleneck": BlockPair(Bottleneck, InvertedBottleneck), "basic": BlockPair(Basic, InvertedBasic)}


class ReverseDecoder(nn.Module):
    """Decodes the deepest features back to the shallow ones, level by level (student of RD4AD and its descendants).

    Args:
        channels: Channels of each level, shallow to deep; the last are those of the input.
        scales: Up-sampling factors from level i + 1 to level i, one fewer than ``channels``.
        blocks: Residual blocks of each decoded level, shallow to deep, or one number for all levels.
        block: Type of the residual blocks, a key of ``BLOCKS``.
        width: Channels inside the decoder in multiples of ``channels``, to which a linear 1x1 convolution then leads,
            for teachers of few channels or with negative features; None ends in the blocks' own ReLU.

    Attributes:
        inner: Channels of the levels inside the decoder, and of its input.

    Raises:
        ValueError: If ``blocks`` does not have one number a decoded level.
    """

    def __init__(
        self,
        channels: list[int],
        scales: list[int],
        blocks: int | Sequence[int] = 2,
        block: str = "bottleneck",
        width: int | None = None,
    ) -> None:
        super().__init__()
        self.inner = [*((width or 1) * one for one in channels[:-1]), channels[-1]]
        self.heads = nn.ModuleList(
            nn.Conv2d(wide, narrow, 1) if width else nn.Identity()
            for wide, narrow in zip(self.inner[:-1], channels[:-1], strict=True)
        )
        numbers = [blocks] * len(scales) if isinstance(blocks, int) else list(blocks)
        if len(numbers) != len(scales):
            raise ValueError(
                f"The decoder has {len(scales)} levels, but blocks are given for {len(numbers)}: {numbers}."
            )
        make = BLOCKS[block].inverted
        self.levels = nn.ModuleList()  # deep to shallow
        levels = list(zip(self.inner[:-1], self.inner[1:], scales, numbers, strict=True))
        for out_channels, in_channels, scale, number in reversed(levels):
            tail = [make(out_channels, out_channels) for _ in range(number - 1)]
            self.levels.append(nn.Sequential(make(in_channels, out_channels, scale), *tail))

    def forward(self, x: Tensor, priors: list[Tensor] | None = None) -> list[Tensor]:
        """Decodes features (B, C_n, H_n, W_n).

        Args:
            x: Features of the deepest level.
            priors: Tensors to add to the inputs of the second and later decoded levels, deep to shallow.

        Returns:
            Features of levels 1 to n - 1, shallow to deep.
        """
        features: list[Tensor] = []
        for index, level in enumerate(self.levels):
            if priors is not None and index > 0:
                x = x + priors[index - 1]
            x = level(x)
            features.insert(0, x)
        return [head(level) for head, level in zip(self.heads, features, strict=True)]


def initialise(module: nn.Module) -> None:
    """Initialises the convolutions as He et al. do, like torchvision's ResNet and RD4AD."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
