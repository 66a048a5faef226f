"""The configuration of this process's ``python -m monai.bundle run``, merged as MONAI merges it.

MONAI passes a bundle's objects their own arguments alone, but a model folder keeps the whole configuration of its
training. So the configuration is read once more from the command that started the process, and handed on explicitly.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import fire
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.scripts import update_kwargs

_NOT_CONFIG = ("run_id", "init_id", "final_id", "meta_file", "logging_file", "tracking")  # arguments of MONAI's run


def command_config(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Merges the files and options of a command line of MONAI's bundles.

    Args:
        words: Words behind ``python -m monai.bundle``; None takes those of this process.

    Returns:
        The configuration before anything in it is resolved.

    Raises:
        ValueError: If the words are no ``run`` with a ``--config_file``.
    """
    words = sys.argv[1:] if words is None else words
    arguments: dict[str, Any] = {}

    def run(run_id: str | None = None, **given: Any) -> None:
        arguments.update(given)

    if words[:1] != ["run"]:
        raise ValueError(
            "The configuration of this training is not known, as the process is no `python -m monai.bundle run`. "
            "In Python, start it by scripts.model.command.training_workflow."
        )
    fire.Fire({"run": run}, command=list(words))
    arguments = update_kwargs(arguments.pop("args_file", None), **arguments)
    if "config_file" not in arguments:
        raise ValueError("The command names no --config_file.")
    values = {name: value for name, value in arguments.items() if name not in (*_NOT_CONFIG, "config_file")}
    return merged(arguments["config_file"], values)


def merged(files: str | Sequence[str], values: dict[str, Any]) -> dict[str, Any]:
    """Merges config files, the later ones on top, and values by id over them; nothing is resolved."""
    parser = ConfigParser(ConfigParser.load_config_files(files))
    parser.update(values)
    return {name: value for name, value in parser.get().items() if name != ConfigParser.meta_key}


def training_workflow(files: str | Sequence[str], **values: Any) -> ConfigWorkflow:
    """Makes a training as ``python -m monai.bundle run training`` does, for Python programs.

    Args:
        files: ``configs/train.json`` and its overlays, in order.
        values: Values by id, over the files.

    Returns:
        A workflow to ``initialize()``, ``run()`` and ``finalize()``.
    """
    config = json.dumps(merged(files, values))
    more = {"model_folder#config": config}
    return ConfigWorkflow(files, workflow_type="train", logging_file=False, **values, **more)


def value_of(text: str) -> Any:
    """Reads a value that was typed, as MONAI's command line does: a Python literal where it is one, else a text.

    >>> value_of("False"), value_of("[0, 4095]"), value_of("true"), value_of("null"), value_of("models/a.pt")
    (False, [0, 4095], True, None, 'models/a.pt')
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return fire.parser.DefaultParseValue(text)
