"""Building blocks of the distillers."""

import torch.nn.functional as F
from torch import Tensor, nn


def resize_like(x: Tensor, reference: Tensor) -> Tensor:
    """Bilinear resampling of (B, C, h, w) to the height and width of ``reference``."""
    if x.shape[-2:] == reference.shape[-2:]:
        return x
    return F.interpolate(x, size=reference.shape[-2:], mode="bilinear", align_corners=False)


def _conv_bn(in_channels: int, out_channels: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False),
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
            _conv_bn(in_channels, mid),
            nn.GELU(),
            _conv_bn(mid, mid, kernel=3, dilation=2),
            nn.GELU(),
            _conv_bn(mid, out_channels),
        )
        self.projection = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.body(x) + self.projection(x))


def _conv3x3_or_up(in_channels: int, out_channels: int, scale: int) -> nn.Module:
    if scale == 1:
        return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return nn.ConvTranspose2d(in_channels, out_channels, scale, stride=scale, bias=False)


class InvertedBottleneck(nn.Module):
    """A residual block of a reverse decoder, RD4AD's mirror image of a wide ResNet bottleneck.

    (B, in_channels, H, W) -> (B, out_channels, scale H, scale W). ``scale`` 1 takes a 3x3 convolution in the middle, 2
    a 2x2 transposed one with stride 2.
    """

    def __init__(self, in_channels: int, out_channels: int, scale: int = 1) -> None:
        super().__init__()
        width = out_channels // 2  # "width 128": twice the planes of a plain bottleneck, whose output is 4 x planes
        self.body = nn.Sequential(
            _conv_bn(in_channels, width),
            nn.ReLU(),
            _conv3x3_or_up(width, width, scale),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            _conv_bn(width, out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if scale != 1:
            self.shortcut = nn.Sequential(
                _conv3x3_or_up(in_channels, out_channels, scale), nn.BatchNorm2d(out_channels)
            )
        elif in_channels != out_channels:
            self.shortcut = _conv_bn(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class ReverseDecoder(nn.Module):
    """Decodes the deepest features towards the shallow ones, level by level (a student of RD4AD and its descendants).

    Args:
        channels: of every level, shallow to deep; the last is the input's.
        scales: up-sampling from level i + 1 to level i, one fewer than ``channels``.
        blocks: blocks of every decoded level.
    """

    def __init__(self, channels: list[int], scales: list[int], blocks: int = 2) -> None:
        super().__init__()
        self.levels = nn.ModuleList()  # deep to shallow
        for out_channels, in_channels, scale in reversed(list(zip(channels[:-1], channels[1:], scales, strict=True))):
            tail = [InvertedBottleneck(out_channels, out_channels) for _ in range(blocks - 1)]
            self.levels.append(nn.Sequential(InvertedBottleneck(in_channels, out_channels, scale), *tail))

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
