"""The histogram that normal MR volumes share (Nyúl and Udupa, Magn. Reson. Med. 42:1072, 1999)."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scripts.data.foreground import QUANTILES

logger = logging.getLogger(__name__)


class HistogramLandmarks:
    """Where each of ``QUANTILES`` lies, on average over normal volumes, when the first is 0 and the last 1.

    A checkpoint takes and restores them by ``state_dict`` and ``load_state_dict``.
    """

    def __init__(self) -> None:
        self._values: NDArray[np.float64] | None = None

    @property
    def values(self) -> NDArray[np.float64]:
        """Ascending from 0 to 1, (15,).

        Raises:
            RuntimeError: if they are neither learnt nor loaded.
        """
        if self._values is None:
            raise RuntimeError(
                "The histogram landmarks are not known yet: learn them from the training normals, "
                "or load a checkpoint that was trained with them."
            )
        return self._values

    def learn(self, volumes: Sequence[ArrayLike]) -> None:
        """Takes the ``foreground_quantiles`` of normal volumes, (15,) each; constant volumes do not count.

        Raises:
            ValueError: if all volumes are constant, or there are none.
        """
        quantiles = np.asarray(volumes, np.float64).reshape(-1, len(QUANTILES))
        low, high = quantiles[:, :1], quantiles[:, -1:]
        varied = (high > low)[:, 0]
        if not varied.any():
            raise ValueError(
                f"Histogram landmarks cannot be learnt from {len(quantiles)} volumes, none with any contrast: "
                "train on other volumes, or scale them by their own foreground."
            )
        if not varied.all():
            logger.warning("%d of %d training volumes are constant: no landmarks from them", sum(~varied), len(varied))
        self._values = ((quantiles - low)[varied] / (high - low)[varied]).mean(0)

    def state_dict(self) -> dict[str, Any]:
        """Primitives only; without landmarks as long as there are none."""
        return {"quantiles": list(QUANTILES), "landmarks": None if self._values is None else self._values.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Raises:
            ValueError: if the landmarks belong to other quantiles.
        """
        if state["quantiles"] != list(QUANTILES):
            raise ValueError(f"The landmarks are of the quantiles {state['quantiles']}, not {QUANTILES}: train again.")
        landmarks = state["landmarks"]
        self._values = None if landmarks is None else np.asarray(landmarks, np.float64)
