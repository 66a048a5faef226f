"""Optional packages: training and evaluation work without them."""

import importlib
from typing import Any

EXPORT = 'pip install -c constraints.txt -e ".[export]"'
TENSORRT = "pip install torch-tensorrt, in the version that matches torch, on a machine with an NVIDIA GPU"


def import_extra(module: str, remedy: str) -> Any:
    """Imports a module of an optional package.

    Args:
        module: Name of the module.
        remedy: Way to install the package.

    Raises:
        RuntimeError: If the package is missing; the message names it and the remedy.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RuntimeError(f"{module.partition('.')[0]} is not installed: {remedy}") from error
