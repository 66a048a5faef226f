"""What a model, a run or a result was made of: configuration, versions, commit, machine."""

import inspect
import subprocess
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

PACKAGES = ("monai", "torch", "torchvision", "timm", "pytorch-ignite", "numpy", "mlflow", "mamba-ssm")


class Provenance:
    """Where a model comes from: filled in training, restored from the checkpoint by evaluation and inference.

    Args:
        facts: name to JSON value; None is left out.
    """

    def __init__(self, **facts: Any) -> None:
        self.facts = {name: value for name, value in facts.items() if value is not None}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.facts)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.facts = dict(state)


def current_config() -> dict[str, Any]:
    """The merged configuration that is being resolved further up the call stack, overrides included; empty outside one.

    A bundle's objects get their arguments only, never the whole configuration they belong to, and MONAI saves it only
    for its own tracking settings; the parser that is building the caller is the one place where it can be had.
    """
    frame = inspect.currentframe()
    while frame is not None:
        parser = frame.f_locals.get("self")
        if isinstance(parser, ConfigParser):
            return {name: value for name, value in parser.get().items() if name != "_meta_"}
        frame = frame.f_back
    return {}


def flattened(config: dict[str, Any]) -> dict[str, Any]:
    """Leaves of a configuration by their ids (``train#trainer#max_epochs``), references followed to their values."""
    leaves = dict(_leaves(config, ""))
    return {name: _followed(value, leaves) for name, value in leaves.items()}


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None or not value or (isinstance(value, list) and not any(isinstance(v, dict | list) for v in value)):
        yield name, value
        return
    for key, child in items:
        yield from _leaves(child, f"{name}#{key}" if name else str(key))


def _followed(value: Any, leaves: dict[str, Any]) -> Any:
    seen = set()
    while isinstance(value, str) and value[:1] == "@" and value[1:] in leaves and value not in seen:
        seen.add(value)
        value = leaves[value[1:]]
    return value


def versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Installed versions of the packages that results depend on, and of ``more``."""
    return {f"version_{package}": number for package, number in installed([*PACKAGES, *more]).items()}


def installed(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those of the packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str:
    """Commit of this code, with ``-dirty`` behind it if files differ from it; ``unknown`` outside a checkout."""
    describe = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def device_name() -> str:
    """The accelerator's name, or the processor and its threads."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
