"""Origin of a model, a run or a result: data, seed, versions, commit, machine."""

import json
import subprocess
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from scripts.data.datalist import datalist_facts

PACKAGES = ("monai", "torch", "torchvision", "timm", "pytorch-ignite", "numpy", "mlflow", "mamba-ssm")


class Provenance:
    """Facts about a training, filled in by it and restored from the checkpoint by everything after it.

    Args:
        datalist: Path of the datalist that is trained on; None where the facts come from a checkpoint.
        facts: JSON values by name; None is left out.

    >>> Provenance(method="PDD", seed=0, early_stop_patience=None).facts
    {'method': 'PDD', 'seed': 0}
    """

    def __init__(self, datalist: str | Path | None = None, **facts: Any) -> None:
        self.facts = {name: value for name, value in facts.items() if value is not None}
        if datalist is not None:
            self.facts |= datalist_facts(datalist) | {"version": software_version(), "git_commit": git_commit()}

    @property
    def run_name(self) -> str:
        """Name of a run of this training where none is given."""
        return "{method} {data} seed {seed}".format(
            **{"method": "a method", "data": "unknown data", "seed": "?"} | self.facts
        )

    def state_dict(self) -> dict[str, Any]:
        return dict(self.facts)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.facts = dict(state)


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
    """Versions of those of the packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def software_version() -> str:
    """Version of this code, by the metadata beside it."""
    path = Path(__file__).parents[2] / "configs" / "metadata.json"
    return json.loads(path.read_text(encoding="utf-8"))["version"]


def git_commit() -> str:
    """Commit of this code, with ``-dirty`` behind it if files differ from it; ``unknown`` outside a checkout."""
    describe = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run([*describe, "--exclude=*"], capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def device_name() -> str:
    """Name of the accelerator, or the processor and its threads."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
