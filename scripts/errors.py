"""How an error reaches the user of ``python -m monai.bundle``."""

import sys
from types import TracebackType

_WRAPPINGS = ("Failed to evaluate", "Failed to instantiate")  # how MONAI's configuration errors begin


def end_with_the_cause() -> None:
    """Lets a traceback end with the error that MONAI wrapped.

    Whatever goes wrong in a configuration ends as "Failed to evaluate ...", with file and remedy hidden far above.
    """
    sys.excepthook = _excepthook


def _excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    sys.__excepthook__(kind, error, traceback)
    cause = error
    while cause.__cause__ is not None and str(cause).startswith(_WRAPPINGS):
        cause = cause.__cause__
    if cause is not error:
        print(f"\nThe cause: {type(cause).__name__}: {cause}", file=sys.stderr)
