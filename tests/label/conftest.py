"""A model folder small enough for a test, scans for it, and the app that serves both, in MONAI Label's environment.

Run by ``python -m pytest -c tests/label/pytest.ini tests/label``, which leaves aside the other tests' conftest, as that
needs what MONAI Label's environment lacks.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["MONAI_LABEL_AUTO_UPDATE_SCORING"] = "false"  # when it happens is up to each test

import pytest
import torch
from fastapi.testclient import TestClient
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance, clear_cache

from bundle import label
from bundle.__main__ import main
from bundle.label.app import AnomalyApp
from bundle.phantom.volumes import write_phantom_volumes
from scripts.model.command import training_workflow
from scripts.model.folder import CALIBRATION
from tests.model_folder import TINY
from tests.programs import find_program

torch.set_num_threads(1)

ROOT = Path(__file__).parents[2]
RATES = {"scan": 0.25, "slice": 0.25, "mask": 0.4}  # that three patients allow


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``normal/sub-0N/ct.nii.gz`` and ``anomalous/sub-0N/ct.nii.gz``: 5 and 2 heads of 64 x 64 x 8 voxels."""
    folder = tmp_path_factory.mktemp("phantoms") / "heads"
    write_phantom_volumes(folder, normal=5, anomalous=2, shape=(64, 64, 8), dicom=0)
    return folder


@pytest.fixture(scope="session")
def trained_model(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder trained on two of the heads and calibrated on three; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    items = [{"image": str(p), "group": p.parent.name, "label": 0} for p in sorted(phantoms.glob("normal/*/ct.nii.gz"))]
    datalist, model, cache = folder / "datalist.json", folder / "model", folder / "cache"
    datalist.write_text(json.dumps({"modality": "CT", "training": items[:2], "validation": items[2:]}))
    values = {"datalist": str(datalist), "model_dir": str(model), "cache_dir": str(cache)}
    values["tracking_uri"] = f"sqlite:///{folder}/mlruns.db"
    configs = [str(ROOT / "configs" / name) for name in ("train.json", "data/ct.json")]
    workflow = training_workflow(configs, **copy.deepcopy(TINY), **values)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    rates = [f"--{level}-false-positive-rate={rate}" for level, rate in RATES.items()]
    assert main(["calibrate", str(model), "--cache-dir", str(cache), *rates]) == 0
    return model


@pytest.fixture
def model_folder(trained_model: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(trained_model, tmp_path / "models of the clinic" / "head CT"))


@pytest.fixture
def calibration(model_folder: Path) -> dict[str, Any]:
    """What the calibration file of `model_folder` says."""
    return json.loads((model_folder / CALIBRATION).read_text())


@pytest.fixture
def studies(phantoms: Path, tmp_path: Path) -> Path:
    """A folder of NIfTI: ``normal1`` to ``normal4``, and ``anomalous1``."""
    folder = tmp_path / "the studies"
    folder.mkdir()
    for kind, count in (("normal", 4), ("anomalous", 1)):
        for number, file in enumerate(sorted(phantoms.glob(f"{kind}/*/ct.nii.gz"))[:count], 1):
            shutil.copy(file, folder / f"{kind}{number}.nii.gz")
    return folder


@pytest.fixture
def serve(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., TestClient]]:
    """``serve(studies)``: a client of the app over these studies, in this process."""

    def start(studies: Path | str, model: Path = model_folder, modality: str = "CT") -> TestClient:
        app = label.write_app(tmp_path / "work", model)
        for name, value in label.settings(app, Path(sys.executable), modality).items():
            monkeypatch.setenv(name, value)
            if hasattr(settings, name):
                monkeypatch.setattr(settings, name, json.loads(value) if value[0] in "[{" else value)
        monkeypatch.setattr(settings, "MONAI_LABEL_APP_DIR", str(app))
        monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", str(studies))
        monkeypatch.setattr(settings, "MONAI_LABEL_AUTO_UPDATE_SCORING", False)
        from bundle.label.server import app as web

        app_instance().server_mode(True)
        return TestClient(web, raise_server_exceptions=False)

    clear_cache()
    yield start
    clear_cache()


@pytest.fixture
def client(serve: Callable[..., TestClient], studies: Path) -> TestClient:
    """A client of the app over ``studies``."""
    return serve(studies)


@pytest.fixture
def app(client: TestClient) -> AnomalyApp:
    """The app behind ``client``."""
    return app_instance()


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """``program("dciodvfy")``, see ``find_program``."""
    return find_program
