"""SCRD4AD: scale-aware contrastive reverse distillation (ICLR 2025, arXiv 2503.13828)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from scripts.networks.detector import Detector, Distillation
from scripts.networks.rd4ad import EMBEDDING_STRIDE, ReverseDistiller
from scripts.networks.teachers import Teacher


class ScaleAwareDistiller(ReverseDistiller):
    """RD4AD's distiller with a head that weights the levels of each image (section 3.3).

    With n levels, ``p = floor / n + (1 - floor) softmax(Linear(max over the embedding))``. The paper uses ``floor`` 0.
    But p occurs in the numerator and the denominator of its loss, which is lowest where all weight lies on the level
    with the smallest ratio; the other levels are then no longer trained. The floor gives each level a weight of at
    least ``floor / n``.

    Args:
        channels: Channels of the teacher's levels, shallow to deep.
        strides: Strides of the teacher's levels in input pixels, shallow to deep.
        others: Further arguments of ``ReverseDistiller``.
        scale_floor: Share of the weight, in [0, 1], that is spread evenly over the levels.

    Raises:
        ValueError: If ``scale_floor`` is not in [0, 1].
    """

    def __init__(self, channels: list[int], strides: list[int], *others: Any, scale_floor: float = 0.3) -> None:
        super().__init__(channels, strides, *others)
        if not 0 <= scale_floor <= 1:
            raise ValueError(f"scale_floor must be in [0, 1], got {scale_floor}.")
        self.scale_floor = scale_floor
        self.scale_head = nn.Linear(2 * channels[-1], len(channels))

    def forward(self, features: list[list[Tensor]]) -> Distillation:
        (levels,) = features
        embedding = self.bottleneck(levels)
        softmax = self.scale_head(embedding.amax((2, 3))).float().softmax(1)
        weights = self.scale_floor / len(levels) + (1 - self.scale_floor) * softmax
        return Distillation(levels, [self.student(embedding)], level_weights=weights)


class SCRD4AD(Detector):
    """SCRD4AD with any teacher (in the paper wide_resnet50_2, levels 1 to 3); level weights affect the loss only.

    Args:
        teacher: Teacher whose features of the clean image the student imitates, and whose features of the same image
            with an anomaly added it is pushed away from.
        decoder_blocks: Residual blocks of each level of the student, shallow to deep, or one number for all levels.
        embedding_blocks: Residual blocks of the embedding.
        block: Type of the residual blocks, a key of ``BLOCKS``.
        scale_floor: Share of the level weights, in [0, 1], that is spread evenly over the levels.
        sigma: Standard deviation of the anomaly map's Gaussian, in pixels.
        scaling: Scaling of the features: ``"off"``, ``"standardise"`` or ``"whiten"``; see ``FeatureScaling``.
        shrinkage: Shrinkage of the scaling, see ``FeatureScaling``.

    >>> import torch
    >>> network = SCRD4AD(Teacher("test_resnet", "untrained"), decoder_blocks=1, embedding_blocks=1)
    >>> network(torch.rand(2, 3, 64, 64)).level_weights.shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        teacher: Teacher,
        decoder_blocks: int | Sequence[int] = (6, 4, 3),
        embedding_blocks: int = 3,
        block: str = "bottleneck",
        scale_floor: float = 0.3,
        sigma: float = 4.0,
        scaling: str = "off",
        shrinkage: float = 0.3,
    ) -> None:
        distiller = ScaleAwareDistiller(
            teacher.channels, teacher.strides, decoder_blocks, embedding_blocks, block, scale_floor=scale_floor
        )
        stride = EMBEDDING_STRIDE * teacher.strides[-1]
        super().__init__([teacher], distiller, sigma, stride, scaling, shrinkage)
