"""How an error reaches the user of ``python -m monai.bundle``."""

import sys
from types import TracebackType

# How the errors begin that MONAI's configurations and Compose make of others.
_WRAPPINGS = ("Failed to evaluate", "Failed to instantiate", "applying transform")


def end_with_the_cause() -> None:
    """Lets a traceback end with the error that MONAI wrapped.

    Whatever goes wrong in a configuration ends as "Failed to evaluate ...", with file and remedy hidden far above.
    """
    sys.excepthook = _excepthook


def cause_of(error: BaseException) -> BaseException:
    """The error that MONAI wrapped; the error itself where it did not."""
    while error.__cause__ is not None and str(error).startswith(_WRAPPINGS):
        error = error.__cause__
    return error


def _excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    sys.__excepthook__(kind, error, traceback)
    cause = cause_of(error)
    if cause is not error:
        print(f"\nThe cause: {type(cause).__name__}: {cause}", file=sys.stderr)
