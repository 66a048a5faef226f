"""What goes wrong, and the status by which a client is told."""

from __future__ import annotations

from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelException
from requests import RequestException

from scripts.errors import cause_of


class OptionError(ValueError):
    """A request asks for what there is not."""


class NotCalibratedError(RuntimeError):
    """A request needs a calibration, and the model has none."""


class NotScoredError(RuntimeError):
    """No image has a score of the model in use."""


class EmptyMaskError(RuntimeError):
    """A mask is empty, which dcmqi cannot write."""


_STATUS: dict[type[Exception], int] = {  # the first that fits
    ImageNotFoundException: 404,
    LabelNotFoundException: 404,
    FileNotFoundError: 404,
    NotCalibratedError: 409,
    NotScoredError: 409,
    EmptyMaskError: 409,
    RequestException: 502,  # of the DICOMweb server
    MONAILabelException: 400,
    ValueError: 422,
    RuntimeError: 500,  # says what went wrong in words of its own
    Exception: 500,
}
EXPECTED = tuple(_STATUS)


def status_of(error: Exception) -> int:
    """Gives the HTTP status of an error."""
    cause = cause_of(error)
    return next(status for kind, status in _STATUS.items() if isinstance(cause, kind))


def text_of(error: Exception) -> str:
    """Gives what a client is told; of an error that nobody foresaw, its kind too."""
    cause = cause_of(error)
    text = str(getattr(cause, "msg", None) or cause)
    return text if status_of(error) != 500 or type(cause) is RuntimeError else f"{type(cause).__name__}: {text}"
