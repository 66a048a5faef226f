"""What verbs that run by the bundle's configs have in common: their options, and the configs that these make."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser


def add_options(parser: argparse.ArgumentParser, files: Sequence[str], like: str) -> None:
    """Declare ``--config_file`` and ``--set``.

    Args:
        files: the default.
        like: which command's configs are meant, as "an evaluation".
    """
    text = f"as of {like} (default: {' '.join(files)})"
    parser.add_argument("--config_file", nargs="+", default=list(files), metavar="FILE", help=text)
    parser.add_argument(
        "--set", nargs=2, action="append", default=[], metavar=("ID", "VALUE"), help="override a config"
    )


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Gives those of the named options that were given, as config ids and values."""
    values = {name: getattr(args, name) for name in names}
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in values.items() if value is not None
    }


def parsed(files: Sequence[str], values: dict[str, Any], overrides: Sequence[tuple[str, str]]) -> ConfigParser:
    """Gives the merged configs.

    Args:
        files: in order, the later ones on top.
        values: by id.
        overrides: ids and their values as text, JSON where it is.
    """
    parser = ConfigParser(ConfigParser.load_config_files(list(files)))
    for name, value in [*values.items(), *((name, _value(text)) for name, text in overrides)]:
        parser[name] = value
    return parser


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
