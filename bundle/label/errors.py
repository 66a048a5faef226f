"""Errors of the server, and how clients are told of them."""

from __future__ import annotations

from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelException
from requests import RequestException

from scripts.errors import cause_of


class OptionError(ValueError):
    """Request for something that does not exist."""


class NotCalibratedError(RuntimeError):
    """Request that needs a calibration, while the model has none."""


class NotScoredError(RuntimeError):
    """Request that needs scores, while the model in use has scored no image."""


class EmptyMaskError(RuntimeError):
    """Mask without any voxel, which dcmqi cannot write."""


_STATUS: dict[type[Exception], int] = {  # the first that fits counts
    ImageNotFoundException: 404,
    LabelNotFoundException: 404,
    FileNotFoundError: 404,
    NotCalibratedError: 409,
    NotScoredError: 409,
    EmptyMaskError: 409,
    RequestException: 502,  # the DICOMweb server is to blame
    MONAILabelException: 400,
    ValueError: 422,
    RuntimeError: 500,
    Exception: 500,
}
EXPECTED = tuple(_STATUS)


def status_of(error: Exception) -> int:
    """HTTP status of an error."""
    cause = cause_of(error)
    return next(status for kind, status in _STATUS.items() if isinstance(cause, kind))


def text_of(error: Exception) -> str:
    """Text for a client; names the type of an error that nobody foresaw."""
    cause = cause_of(error)
    text = str(getattr(cause, "msg", None) or cause)
    return text if status_of(error) != 500 or type(cause) is RuntimeError else f"{type(cause).__name__}: {text}"
