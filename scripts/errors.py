"""Readable errors for users of ``python -m monai.bundle``."""

import sys
from types import TracebackType

# First words of the errors in which MONAI's config parser and Compose wrap others.
_WRAPPINGS = ("Failed to evaluate", "Failed to instantiate", "applying transform")


def end_with_the_cause() -> None:
    """Makes tracebacks end with the error that MONAI wrapped.

    Otherwise any error in a config ends in "Failed to evaluate ...", with the file and the remedy far above.
    """
    sys.excepthook = _excepthook


def cause_of(error: BaseException) -> BaseException:
    """Error that MONAI wrapped, or the error itself if it is not a wrapper.

    >>> wrapper = RuntimeError("Failed to evaluate 'network'")
    >>> wrapper.__cause__ = ValueError("no weights")
    >>> cause_of(wrapper)
    ValueError('no weights')
    """
    while error.__cause__ is not None and str(error).startswith(_WRAPPINGS):
        error = error.__cause__
    return error


def in_one_line(error: BaseException) -> str:
    """Kind of an error and the first line of its message.

    >>> in_one_line(ValueError("no weights\\nat all")), in_one_line(EOFError())
    ('ValueError: no weights', 'EOFError')
    """
    return f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__


def _excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    sys.__excepthook__(kind, error, traceback)
    cause = cause_of(error)
    if cause is not error:
        print(f"\nThe cause: {type(cause).__name__}: {cause}", file=sys.stderr)
