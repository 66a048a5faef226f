"""How an error reaches the user of ``python -m monai.bundle``."""

import sys
from types import TracebackType


def end_with_the_cause() -> None:
    """Lets a traceback end with the error that caused it.

    MONAI wraps whatever goes wrong in a configuration into "Failed to evaluate ...", which hides file and remedy above.
    """
    sys.excepthook = _excepthook


def _excepthook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    sys.__excepthook__(kind, error, traceback)
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if cause is not error:
        print(f"\nThe cause: {type(cause).__name__}: {cause}", file=sys.stderr)
