"""Meaning of a score for normal patients: thresholds with a promised rate of false alarms, and p-values.

Conformal risk control (Angelopoulos et al., arXiv 2208.02814) over normal patients whom the training never saw. The
unit is the patient, never the slice or the pixel: slices of one head resemble each other, those of two heads do not. Of
each calibration patient i let r_i(t), in 0..1, be the part of their units whose score lies above t (a score equal to t
does not):

- scan: 1 if any of their scans scores above t, else 0;
- slice: the part of their slices (an image is one), empty slices of scans not counted;
- mask: the part of the foreground voxels of all their scans.

The threshold of n patients at a rate a is ``t = inf { t : (r_1(t) + … + r_n(t) + 1) / (n + 1) <= a }``. For a new
normal patient, exchangeable with these n, E[r(t)] <= a: in finite samples, for any model and distribution of scores. At
the scan level this is split conformal prediction. The expectation is over the draw of the calibration patients too;
one draw of few may give more or less. There is such a t only if n >= 1 / a - 1.

The p-value of a scan with score s is ``(1 + #{i : highest score of patient i >= s}) / (n + 1)``, that of a slice
``(1 + sum of the parts of their slices that score >= s) / (n + 1)``. Of a new normal patient, P(p <= a) <= a for every
a: for the lowest of all their scans, and for one of their slices drawn at random.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scripts.files import file_sha256
from scripts.metrics.float_bits import ordered_bits, scores_of

if TYPE_CHECKING:
    from scripts.transforms import AnomalyScored, Preprocessing

logger = logging.getLogger(__name__)

METHOD = "conformal risk control over patients, arXiv 2208.02814"
LEVELS = ("scan", "slice", "mask")
MASK_RATES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)  # a viewer may choose from these
REMEDY = "Calibrate the model: `python -m bundle calibrate MODEL`."

_TOLERANCE = 1e-9  # of sums of parts of patients
_DROPPED_BITS = 12  # of a float32: what is left tells pixels apart to 0.05 %, in 2^20 bins
_BINS = 1 << (32 - _DROPPED_BITS)


class TooFewPatientsError(ValueError):
    """There is no threshold of this rate for so few patients."""


def patients_needed(rate: float) -> int:
    """Smallest number of patients that can promise a rate in (0, 1).

    Raises:
        ValueError: If the rate is not in (0, 1).
    """
    if not 0 < rate < 1:
        raise ValueError(f"A false-positive rate must be between 0 and 1, got {rate}.")
    return max(math.ceil(1 / rate - 1 - _TOLERANCE), 1)


def risk_budget(patients: int, rate: float) -> float:
    """Bound on the sum of the parts r_i(t) of all patients.

    Raises:
        TooFewPatientsError: If the rate needs more patients.
        ValueError: If the rate is not in (0, 1).
    """
    needed = patients_needed(rate)
    if patients < needed:
        raise TooFewPatientsError(
            f"a rate of {rate:g} needs {needed} normal patients, there are {patients}, which support no rate below "
            f"{1 / (patients + 1):.3g}"
        )
    return rate * (patients + 1) - 1


def risk_controlling_threshold(patients: Sequence[np.ndarray], rate: float) -> float:
    """The smallest score t for which the parts of patients' scores above t sum up to no more than the rate allows.

    Args:
        patients: Scores (N_i,) of each patient, finite; one without scores counts as a patient without false alarms.
        rate: promised, in (0, 1).

    Raises:
        TooFewPatientsError: If the rate needs more patients.
        ValueError: If the rate is not in (0, 1), or there is no score.
    """
    budget = risk_budget(len(patients), rate)
    values, weights = _weighted(patients)
    distinct, number = np.unique(values, return_inverse=True)
    return float(distinct[_first_within(np.bincount(number, weights), budget)])


def p_values(scores: np.ndarray, patients: Sequence[np.ndarray]) -> np.ndarray:
    """Says how unusual scores (M,) are among normal patients, in (0, 1], (M,).

    Args:
        scores: Scores of the new scans or slices.
        patients: Scores (N_i,) of each patient to compare with, for scans the highest alone.
    """
    values, weights = _weighted(patients)
    order = np.argsort(values)
    at_least = np.append(np.cumsum(weights[order][::-1])[::-1], 0.0)
    return (1 + at_least[np.searchsorted(values[order], scores)]) / (len(patients) + 1)


class VoxelTail:
    """Threshold of voxels, as ``risk_controlling_threshold``, in constant memory.

    Scores are told apart by the leading bits of their float32 pattern. A threshold is the highest score of such a bin,
    so the promise holds as it is, and the threshold is at most 0.05 % above the exact one.
    """

    def __init__(self) -> None:
        self.patients = self.voxels = 0
        self._done: set[str] = set()
        self._patient: str | None = None
        self._counts = np.zeros(_BINS, np.int64)  # of the patient at hand
        self._parts = np.zeros(_BINS)  # summed over those before

    def add(self, patient: str, scores: np.ndarray) -> None:
        """Adds the foreground voxels (N,) of a scan; the scans of a patient follow one another.

        Raises:
            ValueError: If a score is not finite, or a patient comes back after another one.
        """
        if patient != self._patient:
            if patient in self._done:
                raise ValueError(f"The scans of patient {patient} do not follow one another.")
            self._close()
            self._done.add(patient)
            self._patient, self.patients = patient, self.patients + 1
        bins = (ordered_bits(_finite(scores).astype(np.float32)) >> _DROPPED_BITS) + _BINS // 2
        self._counts += np.bincount(bins, minlength=_BINS)
        self.voxels += scores.size

    def threshold(self, rate: float) -> float:
        """Threshold of all patients so far; raises as ``risk_controlling_threshold``."""
        budget = risk_budget(self.patients, rate)
        self._close()
        if not self.voxels:
            raise ValueError("no voxel of a calibration patient is foreground")
        first = max(_first_within(self._parts, budget), int(np.flatnonzero(self._parts)[0]))
        highest = (first - _BINS // 2 << _DROPPED_BITS) | (1 << _DROPPED_BITS) - 1
        return float(scores_of(np.array([highest], np.int32))[0])

    def _close(self) -> None:
        """Moves the patient at hand to those before."""
        self._parts += self._counts / max(self._counts.sum(), 1)
        self._counts[:] = 0
        self._patient = None


def scorer(
    checkpoint: str | Path, network: Any, amp: bool, preprocessing: Preprocessing, scoring: AnomalyScored
) -> dict[str, Any]:
    """Names all that changes a score: a calibration counts for scores of just these.

    Args:
        checkpoint: Checkpoint that the network is restored from; hashed where it is there.
        network: Detector, or an exported one in its place.
        amp: Whether a detector computes in bfloat16.
        preprocessing: Way of an image to the network.
        scoring: Way of a map to scores.

    Returns:
        JSON values by name.
    """
    exported = getattr(network, "runtime", None)
    return {
        "checkpoint": file_sha256(checkpoint) if Path(checkpoint).is_file() else None,
        "runtime": exported or "PyTorch",
        "export": network.sha256 if exported else None,
        "precision": network.precision if exported else "bfloat16" if amp else "float32",
        **preprocessing.settings,
        **scoring.settings,
    }


class Calibration:
    """Thresholds and p-values that ``python -m bundle calibrate`` has found for a model; without the file, none.

    Args:
        path: Calibration file; "" where none is wanted.
        scorer: What scores are made by, see `scorer`; the same as in the file.

    Attributes:
        patients: Number of normal patients that were calibrated on; 0 without a file.
        scan_threshold, slice_threshold, mask_threshold: None where there is none.
        mask_thresholds: Thresholds of the mask at other rates that the patients allow, by rate.
        rates: Promised false-positive rates by level.

    Raises:
        ValueError: If the file is no calibration, or one of other scores.

    >>> Calibration().scan_threshold is None
    True
    """

    def __init__(self, path: str | Path = "", scorer: Mapping[str, Any] | None = None) -> None:
        self.path, self.scorer = Path(path), dict(scorer or {})
        self.patients, self.rates = 0, dict[str, float]()
        self.scan_threshold: float | None = None
        self.slice_threshold: float | None = None
        self.mask_threshold: float | None = None
        self.mask_thresholds: dict[float, float] = {}
        self._facts: dict[str, Any] | None = None
        if not str(path):
            return
        if not self.path.is_file():
            logger.warning(
                "There is no calibration %s, so no thresholds, no masks and no p-values. %s", self.path, REMEDY
            )
            return
        content = self._read()
        self._check(content["scorer"])
        try:
            self._take(content)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is no calibration of this version ({error!r}). {REMEDY}") from error

    @property
    def facts(self) -> dict[str, Any] | None:
        """All that the file says, but the patients' scores; None without a file."""
        return self._facts

    @property
    def thresholds(self) -> dict[str, float | None]:
        """The three thresholds under the names that every output uses."""
        return {f"{level}_threshold": getattr(self, f"{level}_threshold") for level in LEVELS}

    def scan_p_value(self, score: float) -> float:
        """P-value of a scan against the highest scores of patients, in (0, 1]; NaN without a file."""
        return float(p_values(np.array([score]), self._highest)[0]) if self.patients else math.nan

    def slice_p_values(self, scores: np.ndarray) -> np.ndarray:
        """P-values (N,) of slices, each as one drawn from a patient at random, in (0, 1]; NaN without a file."""
        return p_values(scores, self._slices) if self.patients else np.full(len(scores), math.nan)

    def _read(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.path} is no calibration ({error}). {REMEDY}") from error
        if not isinstance(content, dict) or "scorer" not in content:
            raise ValueError(f"{self.path} is no calibration of this version. {REMEDY}")
        return content

    def _check(self, theirs: Mapping[str, Any]) -> None:
        ours = {**self.scorer}
        if ours.get("checkpoint", "") is None:  # a checkpoint that is missing is reported by its reader
            ours["checkpoint"] = theirs.get("checkpoint")
        different = sorted(name for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
        if different:
            pairs = ", ".join(f"{name} {_short(theirs.get(name))}, now {_short(ours.get(name))}" for name in different)
            raise ValueError(f"{self.path} was made for other scores than these ({pairs}). {REMEDY}")

    def _take(self, content: dict[str, Any]) -> None:
        levels = content["levels"]
        self.scan_threshold, self.slice_threshold, self.mask_threshold = (
            levels[level]["threshold"] for level in LEVELS
        )
        self.mask_thresholds = {one["rate"]: one["threshold"] for one in levels["mask"]["thresholds"]}
        self.rates = {level: levels[level]["rate"] for level in LEVELS}
        self._highest = [np.array([patient["score"]]) for patient in content["scores"]]
        self._slices = [np.array(patient["slices"], float) for patient in content["scores"]]
        self.patients = len(self._highest)
        self._facts = {name: value for name, value in content.items() if name != "scores"}


def _short(value: Any) -> str:
    """Names a value, of a hash its first digits."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else "none" if value is None else str(value)


def _weighted(patients: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All scores (N,), and as the weight of each the part that it is of its patient (N,)."""
    values = _finite(np.concatenate([np.empty(0), *patients]))
    if not values.size:
        raise ValueError("no calibration patient has a score")
    return values, np.concatenate([np.full(len(scores), 1 / max(len(scores), 1)) for scores in patients])


def _first_within(parts: np.ndarray, budget: float) -> int:
    """The first of ascending scores above which no more than the budget lies; ``parts`` (N,) is what each adds."""
    above = np.append(np.cumsum(parts[::-1])[::-1][1:], 0.0)
    return int(np.argmax(above <= budget + _TOLERANCE))


def _finite(scores: np.ndarray) -> np.ndarray:
    if not np.isfinite(scores).all():
        raise ValueError("A score is NaN or infinite; look at the model's output.")
    return scores
