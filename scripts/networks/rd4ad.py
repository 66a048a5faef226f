"""RD4AD: reverse distillation from a one-class embedding (Deng and Li, CVPR 2022)."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scripts.networks.blocks import BLOCKS, ReverseDecoder, conv_bn, initialise
from scripts.networks.detector import Detector, Distillation
from scripts.networks.teachers import Teacher

EMBEDDING_STRIDE = 2  # of the embedding against the deepest level


class OneClassEmbedding(nn.Module):
    """MFF and OCBE: brings all levels to the size and channels of the deepest, and embeds them at half of that size in
    twice as many channels (section 3.3).

    Args:
        channels: of every level, shallow to deep.
        strides: of every level, in input pixels.
        blocks: of the embedding; the first has stride 2.
        block: a key of ``BLOCKS``.
    """

    def __init__(self, channels: list[int], strides: list[int], blocks: int = 3, block: str = "bottleneck") -> None:
        super().__init__()
        deepest, make = channels[-1], BLOCKS[block].forward
        self.fusion = nn.ModuleList(_downward(channels[i:], strides[i:]) for i in range(len(channels) - 1))
        tail = [make(2 * deepest, 2 * deepest) for _ in range(blocks - 1)]
        self.embedding = nn.Sequential(make(len(channels) * deepest, 2 * deepest, EMBEDDING_STRIDE), *tail)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """(B, C_i, H_i, W_i), shallow to deep -> (B, 2 C_n, H_n / 2, W_n / 2)."""
        fused = [down(level) for down, level in zip(self.fusion, levels[:-1], strict=True)]
        return self.embedding(torch.cat([*fused, levels[-1]], dim=1))


def _downward(channels: list[int], strides: list[int]) -> nn.Sequential:
    """3x3 convolutions from the first level to the size and channels of the last."""
    steps = [
        nn.Sequential(conv_bn(shallow, deep, kernel=3, stride=deep_stride // shallow_stride), nn.ReLU(inplace=True))
        for (shallow, deep), (shallow_stride, deep_stride) in zip(
            itertools.pairwise(channels), itertools.pairwise(strides), strict=True
        )
    ]
    return nn.Sequential(*steps)


class ReverseDistiller(nn.Module):
    """One-class embedding and one student, which decodes it back into the levels of the teacher.

    Args:
        channels, strides: of the teacher's levels, shallow to deep.
        decoder_blocks: of the student's levels, shallow to deep, or one number for all.
        embedding_blocks: of the embedding.
        block: a key of ``BLOCKS``.

    Raises:
        ValueError: if there are fewer than two levels, or ``decoder_blocks`` are not one a level.
    """

    def __init__(
        self,
        channels: list[int],
        strides: list[int],
        decoder_blocks: int | Sequence[int] = (6, 4, 3),
        embedding_blocks: int = 3,
        block: str = "bottleneck",
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError("Reverse distillation needs a teacher with at least two levels: choose with its 'levels'.")
        self.bottleneck = OneClassEmbedding(channels, strides, embedding_blocks, block)
        scales = [deep // shallow for shallow, deep in itertools.pairwise(strides)]
        self.student = ReverseDecoder([*channels, 2 * channels[-1]], [*scales, EMBEDDING_STRIDE], decoder_blocks, block)
        initialise(self)

    def forward(self, features: list[list[Tensor]]) -> Distillation:
        (levels,) = features
        return Distillation(levels, [self.student(self.bottleneck(levels))])


class RD4AD(Detector):
    """RD4AD with any teacher (the paper: wide_resnet50_2, levels 1 to 3).

    Args:
        teacher: whose levels the student imitates.
        decoder_blocks, embedding_blocks, block: see ``ReverseDistiller``.
        sigma: of the anomaly map's Gaussian, in pixels.
    """

    def __init__(
        self,
        teacher: Teacher,
        decoder_blocks: int | Sequence[int] = (6, 4, 3),
        embedding_blocks: int = 3,
        block: str = "bottleneck",
        sigma: float = 4.0,
    ) -> None:
        distiller = ReverseDistiller(teacher.channels, teacher.strides, decoder_blocks, embedding_blocks, block)
        super().__init__([teacher], distiller, sigma, stride=EMBEDDING_STRIDE * teacher.strides[-1])
