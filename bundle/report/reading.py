"""Files of an evaluation, as ``scripts.results.evaluation.EvaluationResults`` writes them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SUMMARY = "metrics.json"
SCORES = "scores.csv"
EVALUATE = "`python -m bundle evaluate MODEL`"
OPTIONAL = (
    "slices.csv",
    "pixels.npz",
    "detections.csv",
    "heat_maps.png",
    "best_cases.png",
    "worst_cases.png",
)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation.

    Attributes:
        folder: Folder of its files.
        source: Name of the folder or of the MLflow run.
        summary: Content of ``metrics.json``.
        items: Table with a row for each item: ``image``, ``group``, ``label``, ``score``, and where there are any
            ``class``, ``p_value`` and ``lesions``.
        images: Table with a row for each image that the image metrics count: the slices of scans, else the items.
        sliced: Whether the images are slices.
        detections: Table with a row for each detection: ``item``, ``score``, ``found``; None if there is none.
        method: Name of the method in the report; see ``labelled``.
    """

    folder: Path
    source: str
    summary: dict[str, Any]
    items: pd.DataFrame
    images: pd.DataFrame
    sliced: bool
    detections: pd.DataFrame | None
    method: str

    @property
    def model(self) -> dict[str, Any]:
        """Facts of the model."""
        return self.summary.get("model") or {}

    @property
    def data(self) -> str:
        """Name of the data set."""
        return str(self.model.get("data", "unknown data"))

    @property
    def seed(self) -> int | None:
        """Seed of the training."""
        return self.model.get("seed")

    @property
    def name(self) -> str:
        """Name that differs from those of all other evaluations on the same data."""
        return self.method if self.seed is None else f"{self.method}, seed {self.seed}"

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics as the evaluation wrote them; NaN where one is not defined."""
        return {name: float("nan" if value is None else value) for name, value in self.summary["metrics"].items()}

    @property
    def teachers(self) -> list[dict[str, str]]:
        """``name``, ``weights`` and ``sha256`` of each teacher."""
        return self.summary.get("teachers") or []

    @property
    def groups(self) -> pd.DataFrame:
        """Highest ``label`` and ``score`` among the items of each group (patient)."""
        return self.items.groupby("group")[["label", "score"]].max()

    @property
    def test_set(self) -> tuple[Any, ...]:
        """Key that is equal for evaluations of the same images, labels and groups, wherever the images are."""
        return self.data, *sorted(_keys(self.images))

    def aligned(self) -> pd.DataFrame:
        """Returns the images in an order that is the same for all evaluations of one test set."""
        keys = _keys(self.images)
        return self.images.iloc[sorted(range(len(keys)), key=keys.__getitem__)].reset_index(drop=True)

    def file(self, name: str) -> Path | None:
        """Returns the path of a file, or None if the evaluation did not write it."""
        path = self.folder / name
        return path if path.is_file() else None


def read_evaluation(folder: Path, source: str | None = None) -> Evaluation:
    """Reads one evaluation.

    Args:
        folder: Folder of the evaluation's files.
        source: Name of the source; None takes the end of the folder's path.

    Raises:
        FileNotFoundError: If there is no ``metrics.json`` or no ``scores.csv``.
        ValueError: If these files are not those of an evaluation.
    """
    for name in (SUMMARY, SCORES):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: not an evaluation, since it has no {name}. {EVALUATE} makes one.")
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / SUMMARY}: not JSON ({error}). Run the evaluation again.") from error
    if not isinstance(summary, dict) or not isinstance(summary.get("metrics"), dict):
        raise ValueError(
            f"{folder / SUMMARY}: not of an evaluation, since it has no metrics. Run the evaluation again."
        )
    items = _table(folder / SCORES, ("image", "group", "label", "score"))
    slices, detections = folder / "slices.csv", folder / "detections.csv"
    sliced = slices.is_file()
    images = _table(slices, ("image", "group", "slice", "label", "score")) if sliced else items
    return Evaluation(
        folder=folder,
        source=source or "/".join(folder.resolve().parts[-2:]),
        summary=summary,
        items=items,
        images=images,
        sliced=sliced,
        detections=_table(detections, ("item", "score", "found")) if detections.is_file() else None,
        method=str((summary.get("model") or {}).get("method", "unknown method")),
    )


def labelled(evaluations: list[Evaluation]) -> list[Evaluation]:
    """Renames the methods of evaluations that differ in more than the seed: by teachers, and by source at equal seeds.

    Runs of one name on one data set are then seeds of one method.
    """
    teachers: dict[tuple[str, str], set[str]] = {}
    for one in evaluations:
        teachers.setdefault((one.data, one.method), set()).add(_teachers(one))
    named = [
        one
        if len(teachers[one.data, one.method]) == 1
        else dataclasses.replace(one, method=f"{one.method} with {_teachers(one) or 'no teachers'}")
        for one in evaluations
    ]
    for attempt in (lambda one, _: one.source, lambda one, number: f"{one.source}, {number}"):
        often = Counter((one.data, one.name) for one in named)
        named = [
            one
            if often[one.data, one.name] == 1
            else dataclasses.replace(one, method=f"{one.method} ({attempt(one, number)})")
            for number, one in enumerate(named, start=1)
        ]
    return named


def _teachers(one: Evaluation) -> str:
    return ", ".join(f"{teacher['name']} {teacher['weights']}" for teacher in one.teachers)


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_csv(
            path,
            dtype={"image": str, "group": str, "class": str},
            keep_default_na=False,
            na_values={"score": ["", "nan"], "p_value": [""]},
        )
    except ValueError as error:  # pandas' errors of parsing are ValueErrors
        raise ValueError(f"{path}: not a table ({error}). Run the evaluation again.") from error
    lacking = [name for name in columns if name not in table]
    if lacking or table.empty:
        fault = f"it has no column {', '.join(lacking)}" if lacking else "it has no row"
        raise ValueError(f"{path}: not of an evaluation, since {fault}. Run the evaluation again.")
    if not np.isfinite(pd.to_numeric(table["score"], errors="coerce")).all():
        raise ValueError(f"{path}: a score is missing or not finite. Check the model, and run the evaluation again.")
    if "label" in columns and not table["label"].isin([0, 1]).all():
        raise ValueError(f"{path}: a label is neither 0 (normal) nor 1 (anomalous). Run the evaluation again.")
    return table


def _keys(images: pd.DataFrame) -> list[tuple[str, int, int, str]]:
    root = os.path.commonpath([Path(image).parent.as_posix() for image in images["image"]])
    names = [Path(image).as_posix().removeprefix(root) for image in images["image"]]
    numbers = images["slice"] if "slice" in images else [0] * len(images)
    return list(zip(names, map(int, numbers), images["label"].astype(int), images["group"], strict=True))
