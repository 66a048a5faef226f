"""Histogram landmarks shared by normal MR volumes (Nyúl and Udupa, Magn. Reson. Med. 42:1072, 1999)."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scripts.data.foreground import QUANTILES

logger = logging.getLogger(__name__)


class HistogramLandmarks:
    """Mean positions of ``QUANTILES`` over normal volumes, with the first scaled to 0 and the last to 1.

    A checkpoint saves and restores them by ``state_dict`` and ``load_state_dict``.

    >>> landmarks = HistogramLandmarks()
    >>> landmarks.learn([np.arange(15), 10 * np.arange(15)])
    >>> landmarks.values[[0, 7, 14]].tolist()
    [0.0, 0.5, 1.0]
    """

    def __init__(self) -> None:
        self._values: NDArray[np.float64] | None = None

    @property
    def values(self) -> NDArray[np.float64]:
        """Landmarks, (15,), ascending from 0 to 1.

        Raises:
            RuntimeError: If they are neither learnt nor loaded.
        """
        if self._values is None:
            raise RuntimeError(
                "The histogram landmarks are not known yet: learn them from normal training volumes, "
                "or load a checkpoint that was trained with them."
            )
        return self._values

    def learn(self, volumes: Sequence[ArrayLike]) -> None:
        """Learns from normal volumes; constant ones do not count.

        Args:
            volumes: ``foreground_quantiles`` of each volume, (15,).

        Raises:
            ValueError: If there are no volumes, or all are constant.
        """
        quantiles = np.asarray(volumes, np.float64).reshape(-1, len(QUANTILES))
        low, high = quantiles[:, :1], quantiles[:, -1:]
        varied = (high > low)[:, 0]
        if not varied.any():
            raise ValueError(
                f"Histogram landmarks cannot be learnt from {len(quantiles)} volumes, none of which has any contrast: "
                "train on other volumes, or scale each by its own foreground."
            )
        if not varied.all():
            logger.warning(
                "%d of %d training volumes are constant; the landmarks leave them out.", sum(~varied), len(varied)
            )
        self._values = ((quantiles - low)[varied] / (high - low)[varied]).mean(0)

    def state_dict(self) -> dict[str, Any]:
        """State in plain types; its ``landmarks`` are None until they are learnt."""
        return {"quantiles": list(QUANTILES), "landmarks": None if self._values is None else self._values.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state.

        Raises:
            ValueError: If the landmarks belong to other quantiles.
        """
        if state["quantiles"] != list(QUANTILES):
            raise ValueError(f"The landmarks are of the quantiles {state['quantiles']}, not {QUANTILES}: train again.")
        landmarks = state["landmarks"]
        self._values = None if landmarks is None else np.asarray(landmarks, np.float64)
