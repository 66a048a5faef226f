"""Test AUROCs by pooling: those of as many evaluations."""

import json
import shutil
from pathlib import Path

import pytest

from bundle.benchmark.poolings import pooled_aurocs
from scripts.model.folder import ModelFolder


def test_each_pooling_has_the_auroc_of_an_evaluation_with_it(model_folder: Path, tmp_path: Path) -> None:
    folder = ModelFolder(shutil.copytree(model_folder, tmp_path / "model"))  # as an evaluation writes into its card
    found = pooled_aurocs(folder, ["mean", "max"])
    assert list(found) == ["mean", "max"]
    folder.calibration.unlink()  # which counts for one pooling alone
    for pooling in found:
        values = {"scoring#pooling": pooling, "tracking_uri": f"sqlite:///{tmp_path}/mlruns.db"}
        folder.run("evaluate", **values, output_dir=str(tmp_path / pooling))
        metrics = json.loads((tmp_path / pooling / "metrics.json").read_text())["metrics"]
        assert found[pooling] == pytest.approx(metrics["image_auroc"], abs=1e-9)
