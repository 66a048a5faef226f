"""Suites: data sets, methods and seeds that are compared."""

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from bundle.baseline import POOLING

_PARTS = {"configs", "values", "seeds", "baseline"}
_PARTS_OF_DATA = {"prepare", "calibrate", "select"}


class Cell(NamedTuple):
    """One training and evaluation.

    Attributes:
        data, method: their names in the suite.
        seed: Seed of the run.
        baseline: Key of ``bundle.baseline.POOLING``, or None for a method that is trained.
        configs: overlays, in order.
        values: id to value, set after the overlays.
        prepare: Arguments of ``bundle prepare``, which makes the datalist of each seed; None where values name one.
        calibrate: Arguments of ``bundle calibrate`` after the training; None calibrates nothing.
        select: Arguments of ``bundle select`` after the evaluation; None ranks nothing by synthetic anomalies.
    """

    data: str
    method: str
    seed: int
    baseline: str | None
    configs: list[str]
    values: dict[str, Any]
    prepare: list[str] | None = None
    calibrate: list[str] | None = None
    select: list[str] | None = None

    @property
    def name(self) -> str:
        return f"{self.data}, {self.method}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Where it keeps its files, below the suite's folder."""
        return Path(_file_name(self.data), _file_name(self.method), f"seed{self.seed}")

    @property
    def datalist(self) -> Path:
        """The datalist that is prepared for its seed, below the suite's folder; the same for all methods."""
        return Path(_file_name(self.data), "datalists", f"seed{self.seed}.json")


def load_suite(path: Path) -> dict[str, Any]:
    """Reads a suite and checks it.

    Raises:
        FileNotFoundError: If it, or an overlay that it names, is missing.
        ValueError: If it is not a suite; names what is wrong.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such suite; docs/results/suites has examples.")
    try:
        suite = json.loads(_expanded(path.read_text(encoding="utf-8"), path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}).") from error
    missing = [key for key in ("name", "seeds", "data", "methods") if not (isinstance(suite, dict) and suite.get(key))]
    if missing:
        raise ValueError(f"{path}: no suite, it lacks {', '.join(missing)}; see python -m bundle benchmark --help.")
    for kind in ("data", "methods"):
        for name, part in suite[kind].items():
            known = _PARTS | (_PARTS_OF_DATA if kind == "data" else set())
            if unknown := part.keys() - known:
                there = ", ".join(sorted(known))
                raise ValueError(f"{path}: {kind}, {name}: unknown {', '.join(sorted(unknown))}; there are {there}.")
            for config in part.get("configs", []):
                if not Path(config).is_file():
                    raise FileNotFoundError(f"{path}: {kind}, {name}: there is no overlay {config}.")
            if part.get("baseline", "mean_image") not in POOLING:
                raise ValueError(f"{path}: {name}: no baseline {part['baseline']}; there are {', '.join(POOLING)}.")
    return suite


def cells(suite: dict[str, Any]) -> list[Cell]:
    """Cells of a suite, seed by seed, so that each method has a first result early."""
    found = []
    for data, of_data in suite["data"].items():
        for method, of_method in suite["methods"].items():
            values = {**suite.get("values", {}), **of_data.get("values", {}), **of_method.get("values", {})}
            configs = [*of_data.get("configs", []), *of_method.get("configs", [])]
            seeds = of_method.get("seeds", suite["seeds"])
            more = [of_data.get(name) for name in ("prepare", "calibrate", "select")]
            found += [Cell(data, method, seed, of_method.get("baseline"), configs, values, *more) for seed in seeds]
    return sorted(found, key=lambda cell: cell.seed)


def _expanded(text: str, path: Path) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ValueError(f"{path}: the environment variable {match[1]} is not set: export {match[1]}=...")
        return json.dumps(os.environ[match[1]])[1:-1]

    return re.sub(r"\$\{(\w+)\}", value, text)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)
