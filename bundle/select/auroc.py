"""AUROC of altered slices against the normal slices of other patients."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scripts.metrics.intervals import draws, percentiles

PATIENTS = 5  # that an interval takes at least; of fewer, replicates hardly differ
_REPLICATES = 2000


class Measured(NamedTuple):
    """AUROC of each kind of anomaly, their mean, and the ends of its interval (95 %), NaN where there is none."""

    kinds: dict[str, float]
    mean: float
    low: float
    high: float


def measured(
    normal: NDArray[np.float64], altered: Mapping[str, NDArray[np.float64]], patients: NDArray, slices: NDArray
) -> Measured:
    """Compares altered slices with normal ones of other patients; ties count one half.

    An altered slice is not compared with itself as it was, nor with another slice of its patient: no test does that,
    and a bootstrap, which draws patients more than once, would count such pairs more often. Of a single patient, all
    pairs of different slices count.

    Args:
        normal: Scores of N slices as they are, (N,).
        altered: Scores of the same slices with an anomaly, by kind, (N,).
        patients: Patient of each slice, (N,).
        slices: Number of each slice, (N,), since one may be given more than once, with other anomalies.

    Raises:
        ValueError: If there is only one slice.

    >>> measured(np.array([1.0, 3.0]), {"lesion": np.array([2.0, 3.0])}, np.array(["anna", "ben"]), np.arange(2)).mean
    0.5
    """
    names, group = np.unique(patients, return_inverse=True)
    if len(names) == 1:
        group = np.unique(slices, return_inverse=True)[1]
    if group.max() == 0:
        raise ValueError("One normal slice is nothing to compare with: prepare more with --validation-fraction.")
    member = np.eye(group.max() + 1)[group].T  # (groups, N)
    pairs = _apart(np.outer(member.sum(1), member.sum(1)))
    wins = {
        kind: _apart(member @ ((scores > normal[:, None]) + 0.5 * (scores == normal[:, None])) @ member.T)
        for kind, scores in altered.items()
    }
    together = np.mean(list(wins.values()), axis=0)
    low = high = np.nan
    if len(names) >= PATIENTS:
        weights = draws(len(names), _REPLICATES, seed=0)
        counts = _total(weights, pairs)
        drawn = counts > 0  # not one patient alone
        low, high = percentiles((_total(weights, together)[drawn] / counts[drawn]).tolist(), 0.95)
    kinds = {kind: float(won.sum() / pairs.sum()) for kind, won in wins.items()}
    return Measured(kinds, float(together.sum() / pairs.sum()), low, high)


def _apart(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pairs of groups (G, G) without those within a group."""
    return pairs * (1 - np.eye(len(pairs)))


def _total(weights: NDArray, pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over pairs of groups (G, G) for each row of weights (R, G): (R,)."""
    return ((weights @ pairs) * weights).sum(1)
