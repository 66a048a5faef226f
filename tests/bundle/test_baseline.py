"""``python -m bundle baseline``: its metrics are those of a mean image by hand, and what it leaves behind."""

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from bundle.__main__ import main


def baseline(name: str, overlay: Path, *options: str) -> int:
    return main(["baseline", name, "--config-file", "configs/train.json", str(overlay), *options])


def pixels(datalist: Path, split: str) -> list[np.ndarray]:
    """Images (64, 64) as the configs scale them: 0..4095 to 0..1."""
    content = json.loads(datalist.read_text())
    folder = datalist.parent / content["dataset_dir"]
    return [np.asarray(Image.open(folder / item["image"])).astype(float) / 4095 for item in content[split]]


def test_the_mean_images_evaluation_is_named_after_it_and_scores_as_by_hand(
    tiny_overlay: Path, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    assert baseline("mean_image", tiny_overlay, "--results-dir", str(results)) == 0
    summary = json.loads((results / "metrics.json").read_text())
    assert summary["model"]["method"] == "mean image"
    assert summary["teachers"] == []
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.index("{\n") :]) == summary["metrics"]  # behind the lines of the log

    mean = np.mean(pixels(tiny_dataset, "training"), axis=0)
    by_hand = [np.abs(image - mean).mean() for image in pixels(tiny_dataset, "test")]
    table = pd.read_csv(results / "scores.csv")
    np.testing.assert_allclose(table["score"], sorted(by_hand, reverse=True), rtol=1e-5)
    metrics = summary["metrics"]
    assert metrics["image_auroc"] == pytest.approx(roc_auc_score(table["label"], table["score"]), abs=1e-12)
    assert metrics["image_ap"] == pytest.approx(average_precision_score(table["label"], table["score"]), abs=1e-12)


def test_without_a_folder_metrics_are_printed_and_nothing_is_written(
    tiny_overlay: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert baseline("mean_image", tiny_overlay) == 0
    metrics: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert {"image_auroc", "pixel_ap"} <= metrics.keys()
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != "cache"] == before


def test_a_name_that_was_given_is_kept(tiny_overlay: Path, tracking_uri: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert (
        baseline(
            "mean_image", tiny_overlay, "--results-dir", str(results), "--set", "model_folder#provenance#method", "ours"
        )
        == 0
    )
    assert json.loads((results / "metrics.json").read_text())["model"]["method"] == "ours"
    client = mlflow.MlflowClient(tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name(str(tmp_path)).experiment_id])
    assert run.info.run_name.startswith("evaluation of ours ")
