"""A model folder in MONAI Label's own app for bundles, without any code of ours around it."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import monailabel.app
import nibabel as nib
import numpy as np
import pytest
from fastapi.testclient import TestClient
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance, clear_cache
from monailabel.main import Main
from requests_toolbelt.multipart import decoder

from bundle.label import NAME
from scripts.model.predictor import Predictor


@pytest.fixture
def stock(model_folder: Path, studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    folder = tmp_path / "apps"
    monkeypatch.setattr(
        sys, "argv", ["monailabel", "apps", "--download", "--name", "monaibundle", "--output", str(folder)]
    )
    Main().run()
    app = folder / "monaibundle"
    (app / "model").mkdir()
    (app / "model" / NAME).symlink_to(model_folder)
    conf = {"models": NAME, "zoo_source": "local", "sam2": "false"}
    for name, value in (("APP_DIR", str(app)), ("STUDIES", str(studies)), ("APP_CONF", conf)):
        monkeypatch.setattr(settings, f"MONAI_LABEL_{name}", value)
    modules = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "scripts"}
    clear_cache()
    app_instance().server_mode(True)
    yield TestClient(importlib.reload(monailabel.app).app)  # without what our server adds to it
    clear_cache()
    for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
        del sys.modules[name]  # the app has put the bundle's own in their place
    sys.modules.update(modules)


def test_a_model_folder_infers_as_it_is(stock: TestClient, studies: Path, model_folder: Path) -> None:
    info = stock.get("/info/").json()["models"][NAME]
    assert info["type"] == "segmentation"
    assert info["labels"] == {"anomaly": 1}
    answer = stock.post(f"/infer/{NAME}?image=anomalous1&output=all", data={"params": "{}"})
    assert answer.status_code == 200, answer.text
    about_text, image = (
        part.content for part in decoder.MultipartDecoder(answer.content, answer.headers["content-type"]).parts
    )
    about: dict[str, Any] = json.loads(about_text)
    file = studies.parent / "answer.nii.gz"
    file.write_bytes(image)
    mask, scan = nib.load(file), nib.load(studies / "anomalous1.nii.gz")
    ours = Predictor(model_folder)(studies / "anomalous1.nii.gz")
    assert about["score"] == pytest.approx(ours.score)
    assert about["p_value"] == ours.p_value
    assert about["slice_scores"] == pytest.approx(ours.slice_scores)
    assert about["top_slices"] == ours.top_slices
    assert about["abnormal"] is ours.abnormal
    assert np.allclose(mask.affine, scan.affine, atol=1e-4)
    assert np.array_equal(mask.get_fdata(), ours.mask[0].numpy())
