"""Mean losses of an epoch."""

from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from ignite.metrics import Metric


class LossMeans(Metric):
    """``loss`` and its parts as ``loss_NAME``, averaged over the images of an epoch and over all ranks.

    Takes outputs with ``loss``, ``parts`` (name to float) and ``batch_size``, as the engines of this bundle give them.

    Args:
        prefix: of the names.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        super().__init__(lambda output: (output["loss"], output["parts"], output["batch_size"]), skip_unrolling=True)

    def reset(self) -> None:
        self._sums: dict[str, float] = {}
        self._images = 0

    def update(self, output: tuple[float, dict[str, float], int]) -> None:
        loss, parts, images = output
        for name, value in {"loss": loss, **{f"loss_{name}": value for name, value in parts.items()}}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * images
        self._images += images

    def compute(self) -> dict[str, float]:
        totals = torch.tensor([*self._sums.values(), self._images], dtype=torch.float64, device=idist.device())
        reduced: Any = idist.all_reduce(totals)
        *sums, images = reduced.tolist()
        return {f"{self.prefix}{name}": total / images for name, total in zip(self._sums, sums, strict=True)}

    def completed(self, engine: Engine, name: str) -> None:
        engine.state.metrics.update(self.compute())
