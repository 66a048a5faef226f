"""RD4AD: reverse distillation from a one-class embedding (Deng and Li, CVPR 2022)."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scripts.networks.blocks import BLOCKS, ReverseDecoder, conv_bn, initialise
from scripts.networks.detector import Detector, Distillation
from scripts.networks.teachers import Teacher

EMBEDDING_STRIDE = 2  # stride of the embedding relative to the deepest level


class OneClassEmbedding(nn.Module):
    """MFF and OCBE (section 3.3): fuses all levels and embeds them.

    All levels are brought to the size and channels of the deepest; the embedding has half that size and twice as many
    channels.

    Args:
        channels: Channels of each level, shallow to deep.
        strides: Strides of the levels in input pixels, shallow to deep.
        blocks: Number of residual blocks; the first has stride 2.
        block: Type of the residual blocks, a key of ``BLOCKS``.
    """

    def __init__(self, channels: list[int], strides: list[int], blocks: int = 3, block: str = "bottleneck") -> None:
        super().__init__()
        deepest, make = channels[-1], BLOCKS[block].forward
        self.fusion = nn.ModuleList(_downward(channels[i:], strides[i:]) for i in range(len(channels) - 1))
        tail = [make(2 * deepest, 2 * deepest) for _ in range(blocks - 1)]
        self.embedding = nn.Sequential(make(len(channels) * deepest, 2 * deepest, EMBEDDING_STRIDE), *tail)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Embeds n levels: (B, C_i, H_i, W_i), shallow to deep -> (B, 2 C_n, H_n / 2, W_n / 2)."""
        fused = [down(level) for down, level in zip(self.fusion, levels[:-1], strict=True)]
        return self.embedding(torch.cat([*fused, levels[-1]], dim=1))


def _downward(channels: list[int], strides: list[int]) -> nn.Sequential:
    """3x3 convolutions that bring the first level to the size and channels of the last."""
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
        channels: Channels of the teacher's levels, shallow to deep.
        strides: Strides of the teacher's levels in input pixels, shallow to deep.
        decoder_blocks: Residual blocks of each level of the student, shallow to deep, or one number for all levels.
        embedding_blocks: Residual blocks of the embedding.
        block: Type of the residual blocks, a key of ``BLOCKS``.

    Raises:
        ValueError: If there are fewer than two levels, or ``decoder_blocks`` does not have one number a level.
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
            raise ValueError("Reverse distillation needs a teacher with at least two levels: set its 'levels'.")
        self.bottleneck = OneClassEmbedding(channels, strides, embedding_blocks, block)
        scales = [deep // shallow for shallow, deep in itertools.pairwise(strides)]
        self.student = ReverseDecoder([*channels, 2 * channels[-1]], [*scales, EMBEDDING_STRIDE], decoder_blocks, block)
        initialise(self)

    def forward(self, features: list[list[Tensor]]) -> Distillation:
        (levels,) = features
        return Distillation(levels, [self.student(self.bottleneck(levels))])


class RD4AD(Detector):
    """RD4AD with any teacher (in the paper wide_resnet50_2, levels 1 to 3).

    Args:
        teacher: Teacher whose features the student imitates.
        decoder_blocks: Residual blocks of each level of the student, shallow to deep, or one number for all levels.
        embedding_blocks: Residual blocks of the embedding.
        block: Type of the residual blocks, a key of ``BLOCKS``.
        sigma: Standard deviation of the anomaly map's Gaussian, in pixels.
        scaling: Scaling of the features: ``"off"``, ``"standardise"`` or ``"whiten"``; see ``FeatureScaling``.
        shrinkage: Shrinkage of the scaling, see ``FeatureScaling``.

    >>> network = RD4AD(Teacher("test_resnet", "untrained"), decoder_blocks=1, embedding_blocks=1)
    >>> network.stride, network.eval()(torch.rand(1, 3, 64, 64)).shape
    (64, torch.Size([1, 1, 64, 64]))
    """

    def __init__(
        self,
        teacher: Teacher,
        decoder_blocks: int | Sequence[int] = (6, 4, 3),
        embedding_blocks: int = 3,
        block: str = "bottleneck",
        sigma: float = 4.0,
        scaling: str = "off",
        shrinkage: float = 0.3,
    ) -> None:
        distiller = ReverseDistiller(teacher.channels, teacher.strides, decoder_blocks, embedding_blocks, block)
        stride = EMBEDDING_STRIDE * teacher.strides[-1]
        super().__init__([teacher], distiller, sigma, stride, scaling, shrinkage)
