"""SCRD4AD: scale-aware contrastive reverse distillation (ICLR 2025, arXiv 2503.13828)."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from scripts.networks.detector import Detector, Distillation
from scripts.networks.rd4ad import EMBEDDING_STRIDE, ReverseDistiller
from scripts.networks.teachers import Teacher


class ScaleAwareDistiller(ReverseDistiller):
    """RD4AD's distiller, and a head that weighs the levels of an image (section 3.3).

    ``p = floor / n + (1 - floor) softmax(Linear(max over the embedding))`` for n levels. The paper has ``floor`` 0; but
    p stands in the numerator and the denominator of its loss, which is lowest where all weight lies on the level of the
    smallest ratio, and the others are then no longer trained. With a floor each level keeps at least ``floor / n``.

    Args:
        scale_floor: in 0..1; 1 weighs all levels alike.
        others: as of ``ReverseDistiller``.

    Raises:
        ValueError: if ``scale_floor`` is not in 0..1.
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
    """SCRD4AD with any teacher (the paper: wide_resnet50_2, levels 1 to 3). The level weights act in the loss alone.

    Args:
        teacher: whose levels the student imitates, and from which it is driven away where an anomaly was added.
        decoder_blocks, embedding_blocks, block: see ``ReverseDistiller``.
        scale_floor: see ``ScaleAwareDistiller``.
        sigma: of the anomaly map's Gaussian, in pixels.
    """

    def __init__(
        self,
        teacher: Teacher,
        decoder_blocks: int | Sequence[int] = (6, 4, 3),
        embedding_blocks: int = 3,
        block: str = "bottleneck",
        scale_floor: float = 0.3,
        sigma: float = 4.0,
    ) -> None:
        distiller = ScaleAwareDistiller(
            teacher.channels, teacher.strides, decoder_blocks, embedding_blocks, block, scale_floor=scale_floor
        )
        super().__init__([teacher], distiller, sigma, stride=EMBEDDING_STRIDE * teacher.strides[-1])
