"""Evaluation folders with known scores, as an evaluation writes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

Writer = Callable[..., Path]


def scores_of(seed: int, shift: float, images: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels, half of them anomalous and ``shift`` higher on average."""
    labels = np.arange(images) % 2
    return np.random.default_rng(seed).normal(size=images) + shift * labels, labels


@pytest.fixture
def evaluation(tmp_path: Path) -> Writer:
    """Writes the folder of an evaluation of single images, each of a different patient, and returns its path."""

    def write(
        name: str = "run",
        scores: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        model: dict[str, Any] | None = None,
        weights: str = "pretrained",
        metrics: dict[str, Any] | None = None,
        root: str = "/images",
        groups: list[str] | None = None,
        calibration: dict[str, Any] | None = None,
        **more: Any,
    ) -> Path:
        if scores is None or labels is None:
            scores, labels = scores_of(0, 1.0)
        folder = tmp_path / name
        folder.mkdir(parents=True)
        groups = groups or [f"patient {number}" for number in range(len(scores))]
        images = [f"{root}/{number}.png" for number in range(len(scores))]
        table = pd.DataFrame({"image": images, "group": groups, "label": labels, "score": scores})
        table.sample(frac=1, random_state=1).to_csv(folder / "scores.csv", index=False)  # the order must not matter
        facts = {
            "metrics": metrics or {},
            "images": {"normal": int(sum(labels == 0)), "anomalous": int(sum(labels == 1))},
            "items": len(scores),
            "groups": len(set(groups)),
            **dict.fromkeys(("scan_threshold", "slice_threshold", "mask_threshold")),
            "teachers": [{"name": "resnet18", "weights": weights, "sha256": "ab" * 32}],
            "model": {"method": "PDD", "seed": 0, "data": "phantoms", "datalist_sha256": "cd" * 32} | (model or {}),
            **({"calibration": calibration} if calibration else {}),
            **more,
        }
        (folder / "metrics.json").write_text(json.dumps(facts))
        return folder

    return write


def add_slices(folder: Path, per_scan: int = 10) -> None:
    """Turns the items of a folder into scans; the first slices of an anomalous one hold its lesion and score high."""
    items = pd.read_csv(folder / "scores.csv")
    rows = [
        {"image": item.image, "group": item.group, "slice": number, "label": label, "score": item.score - number / 100}
        for item in items.itertuples()
        for number in range(per_scan)
        for label in [int(item.label and number < 3)]
    ]
    pd.DataFrame(rows).to_csv(folder / "slices.csv", index=False)


def add_picture(folder: Path, name: str) -> None:
    """Writes a small PNG file."""
    Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)).save(folder / name)
