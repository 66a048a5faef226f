"""Mean losses of an epoch."""

from typing import Any

import ignite.distributed as idist
import torch

from .scalars import ScalarMetrics


class LossMeans(ScalarMetrics):
    """``loss`` and its parts as ``loss_NAME``, averaged over the images of an epoch and over all ranks.

    It takes the outputs of the bundle's engines: ``loss``, ``parts`` (floats by name) and ``batch_size``.

    Args:
        prefix: Beginning of the names.

    Example:
        >>> means = LossMeans(prefix="val_")
        >>> means.update((0.5, {"kd": 0.25}, 4))
        >>> means.compute()
        {'val_loss': 0.5, 'val_loss_kd': 0.25}
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        super().__init__(lambda output: (output["loss"], output["parts"], output["batch_size"]))

    def reset(self) -> None:
        """Forgets all images."""
        self._sums: dict[str, float] = {}
        self._images = 0

    def update(self, output: tuple[float, dict[str, float], int]) -> None:
        """Adds a batch (loss, parts, batch size)."""
        loss, parts, images = output
        for name, value in {"loss": loss, **{f"loss_{name}": value for name, value in parts.items()}}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * images
        self._images += images

    def compute(self) -> dict[str, float]:
        """Computes the means over the images of all ranks."""
        totals = torch.tensor([*self._sums.values(), self._images], dtype=torch.float64, device=idist.device())
        reduced: Any = idist.all_reduce(totals)
        *sums, images = reduced.tolist()
        return {f"{self.prefix}{name}": total / images for name, total in zip(self._sums, sums, strict=True)}
