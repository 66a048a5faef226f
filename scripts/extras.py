"""Packages that are not needed for training and evaluation, and so may be missing."""

import importlib
from typing import Any


def import_extra(module: str, extra: str) -> Any:
    """Gives a module of one of the project's extras.

    Raises:
        RuntimeError: if it is not installed; the text names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise RuntimeError(f'{package} is not installed: pip install -c constraints.txt -e ".[{extra}]"') from error
