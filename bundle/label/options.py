"""Options of an inference: those offered to a client, and the checks of those that it sends."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bundle.label.errors import OptionError
from scripts.model.predictor import Predictor

DISPLAYS = ("mask", "bands")
LABELS = ("anomaly", "anomaly, medium", "anomaly, high")  # values 1 to 3; a mask has 1 alone
_FACTORS = (1.0, 1.5, 2.0)  # bands of a typed threshold begin at these multiples of it
NO_WINDOW = "none"
_DTYPES = ("uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")  # that ITK can write
_EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".mha")


@dataclass(frozen=True)
class Options:
    """Checked options of one inference.

    Attributes:
        mask_threshold: Value of the anomaly map above which a voxel belongs to the mask; None where not calibrated.
        band_thresholds: Values above which a voxel has the label 1, 2 or 3: one to three, ascending; None where there
            is no threshold of the mask.
        display: One of `DISPLAYS`.
    """

    mask_threshold: float | None
    band_thresholds: list[float] | None
    display: str = DISPLAYS[0]


def offered(predictor: Predictor) -> dict[str, Any]:
    """Options as a viewer's panel shows them: a text to type over, or a list to choose from with the default first.

    A threshold of 0 is the calibrated one. It is a text, as OHIF would cut the decimals off a number typed over it.
    """
    shown: dict[str, Any] = {"mask_threshold": "0"}
    if rates := _rates(predictor):
        shown["false_positive_rate"] = [f"{rate:g}" for rate in rates]
    return shown | {name: [value] for name, value in _trained_with(predictor).items()}


def checked(request: Mapping[str, Any], predictor: Predictor) -> Options:
    """Reads the options of a request, as JSON or as text; missing ones and ``""`` are the defaults.

    A list stands for its first value, as clients send back what `offered` returned.

    Raises:
        OptionError: If the model does not have an option; names those that it has.
    """
    for name, trained in _trained_with(predictor).items():
        if (asked := _first(request.get(name))) not in (None, trained):
            raise OptionError(f"{name} {asked!r}: the model was trained with {trained!r}, and takes no other.")
    display = _first(request.get("display")) or DISPLAYS[0]
    if display not in DISPLAYS:
        raise OptionError(f"display {display!r} is not one of {', '.join(DISPLAYS)}.")
    threshold = _number("mask_threshold", request) or 0.0
    if threshold < 0:
        raise OptionError(f"mask_threshold {threshold:g}: give one above 0, or 0 for the calibrated one.")
    rate = _number("false_positive_rate", request)  # checked even where a threshold overrides it
    calibrated = _calibrated(predictor, rate)
    if threshold > 0:
        return Options(threshold, [factor * threshold for factor in _FACTORS], str(display))
    return Options(calibrated, None if calibrated is None else _bands(predictor, calibrated), str(display))


def result_dtype(request: Mapping[str, Any], default: str) -> np.dtype[Any]:
    """Type of voxels that a client asks for.

    Raises:
        OptionError: If ITK cannot write it.
    """
    asked = request.get("result_dtype") or default
    if asked not in _DTYPES:
        raise OptionError(f"result_dtype {asked!r} is not one of {', '.join(_DTYPES)}.")
    return np.dtype(asked)


def result_extension(request: Mapping[str, Any]) -> str:
    """Kind of file that a client asks for, as its suffix.

    Raises:
        OptionError: If it cannot be written.
    """
    asked = request.get("result_extension") or _EXTENSIONS[0]
    if asked not in _EXTENSIONS:
        raise OptionError(f"result_extension {asked!r} is not one of {', '.join(_EXTENSIONS)}.")
    return str(asked)


def identity(predictor: Predictor) -> str:
    """Text that changes with the checkpoint or calibration in use."""
    calibration = predictor.calibration.facts or {}
    return f"{predictor.facts['checkpoint_sha256']} {calibration.get('created', 'not calibrated')}"


def _trained_with(predictor: Predictor) -> dict[str, str]:
    """Options that the network was trained with, which no request can change."""
    config = json.loads((predictor.folder.path / "configs" / "inference.json").read_text(encoding="utf-8"))
    windows = [
        one if isinstance(one, str) else "/".join(f"{part:g}" for part in one) for one in config.get("windows", [])
    ]
    return {"plane": config["plane"], "window": ", ".join(windows) or NO_WINDOW}


def _rates(predictor: Predictor) -> list[float]:
    """False-positive rates that have a calibrated threshold, that of the default first."""
    known, default = predictor.rates, predictor.calibration.rates.get("mask")
    return sorted(known, key=lambda rate: rate != default)


def _calibrated(predictor: Predictor, rate: float | None) -> float | None:
    if rate is None:
        return predictor.mask_threshold()
    known = _rates(predictor)
    for one in known:
        if math.isclose(rate, one, rel_tol=1e-5):  # `offered` shows six digits
            return predictor.mask_threshold(one)
    rates = ", ".join(f"{one:g}" for one in known) or "none, as the model is not calibrated"
    raise OptionError(f"There is no threshold for a false_positive_rate of {rate:g}. Calibrated rates: {rates}.")


def _bands(predictor: Predictor, threshold: float) -> list[float]:
    """Thresholds of the bands: the mask's as the highest, below it those of the next higher false-positive rates."""
    known = sorted(set(predictor.calibration.mask_thresholds.values()), reverse=True)
    return sorted([threshold, *[one for one in known if one < threshold][: len(LABELS) - 1]])


def _number(name: str, request: Mapping[str, Any]) -> float | None:
    value = _first(request.get(name))
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise OptionError(f"{name} {value!r} is not a number.")
    return number


def _first(value: Any) -> Any:
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    return None if value == "" else value
