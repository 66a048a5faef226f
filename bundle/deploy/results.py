"""Results of all series, without anything of a patient."""

from __future__ import annotations

import hashlib
import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bundle.deploy.messages import Scored
from scripts.files import replacing
from scripts.model.provenance import installed
from scripts.results.result import NOTICE

logger = logging.getLogger(__name__)

FILE = "results.json"
PACKAGES = ("monai", "monai-deploy-app-sdk", "holoscan-cu13", "torch", "numpy", "pydicom", "highdicom")
_PRIVATE = "the log says why"  # as reasons may name files, and files patients


class Results:
    """Gathers what ``results.json`` says.

    Args:
        facts: What is known of the model, see ``scripts.model.predictor.Predictor.facts``.

    Attributes:
        chosen: Names of the series that are wanted.
        series: What is told of each series that is written, in JSON values.
        left_out: Why series were not wanted, by their names.
        unreadable: Why series or files have no results, by their names.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self._model = {name: facts[name] for name in ("method", "version", "checkpoint_sha256", "untrained")}
        self._sentences: list[str] = []
        self.chosen: set[str] = set()
        self.series: list[dict[str, Any]] = []
        self.left_out: dict[str, str] = {}
        self.unreadable: dict[str, str] = {}

    @property
    def waiting(self) -> set[str]:
        """Names of the chosen series that are neither written nor have failed."""
        return self.chosen - {one["series"] for one in self.series} - self.unreadable.keys()

    @property
    def exit_code(self) -> int:
        """Exit code of the verb: 0, or 3 if something could not be read, or 4 if no series was wanted."""
        if self.unreadable:
            return 3
        return 0 if self.series else 4

    def add(self, scored: Scored, volume: float | None, files: list[str]) -> None:
        """Adds a series that is written.

        Args:
            scored: The series and its result.
            volume: Volume of its mask in cubic millimetres; None where there is none.
            files: Paths of its files in the folder of the results.
        """
        millilitres = None if volume is None else round(volume / 1000, 6)
        self.series.append(
            {
                "series": scored.name,
                **scored.result.verdict(),
                "volume_mm3": None if volume is None else round(volume, 3),
                "volume_ml": millilitres,
                "files": files,
            }
        )
        mask = "" if millilitres is None else f", mask {millilitres:.4g} ml"
        self._sentences.append(f"{scored.name}: {scored.result.sentence()}{mask}")

    def leave_out(self, name: str, reason: str) -> None:
        """Adds a series that was not wanted; the reason tells nothing of a patient."""
        logger.info("Left out: %s: %s", name, reason)
        self.left_out[name] = reason

    def fail(self, name: str, error: Exception) -> None:
        """Adds a series that was wanted and has no results."""
        logger.error("%s: %s", name, error)
        self.unreadable[name] = f"cannot be used: {_PRIVATE}"

    def refuse(self, path: str, reason: str) -> None:
        """Adds a file that cannot be read."""
        logger.error("Unreadable: %s", reason)
        key = hashlib.sha256(path.encode()).hexdigest()[:12]
        self.unreadable[f"file-{key}"] = f"cannot be read as DICOM: {_PRIVATE}"

    def summary(self) -> str:
        """Says on a few lines what came out."""
        lines = [*self._sentences]
        if not self.series and self.left_out:
            lines.append("No series passes the rules:")
            lines += [f"  {name}: {reason}" for name, reason in self.left_out.items()]
        if self.unreadable:
            lines.append(f"Without results: {', '.join(self.unreadable)}")
        return "\n".join([*lines, NOTICE])

    def write(self, folder: Path) -> Path:
        """Writes ``results.json``, and returns its path.

        Raises:
            OSError: If the file cannot be written; names it.
        """
        content = {
            "notice": NOTICE,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": self._model,
            "series": self.series,
            "left_out": self.left_out,
            "unreadable": self.unreadable,
            "versions": installed(PACKAGES),
        }
        path = folder / FILE
        try:
            with replacing(path) as part:
                part.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
        except OSError as error:
            raise OSError(
                f"Cannot write {path}: {error}. Free space, or choose a folder that can be written."
            ) from error
        return path
