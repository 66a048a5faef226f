"""Packages that are not needed for training and evaluation, and so may be missing."""

import importlib
from typing import Any

EXPORT = 'pip install -c constraints.txt -e ".[export]"'
TENSORRT = "pip install torch-tensorrt, in the version that belongs to torch's, on a machine with an NVIDIA GPU"


def import_extra(module: str, remedy: str) -> Any:
    """Gives a module that may be missing.

    Args:
        remedy: how to install it.

    Raises:
        RuntimeError: if it is; the text names package and remedy.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RuntimeError(f"{module.partition('.')[0]} is not installed: {remedy}") from error
