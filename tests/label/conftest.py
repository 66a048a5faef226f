"""A model bundle small enough for a test, scans for it, and the app that serves both, in MONAI Label's environment.

Run by ``python -m pytest -c tests/label/pytest.ini tests/label``, which leaves aside the other tests' conftest, as that
needs what MONAI Label's environment lacks.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["MONAI_LABEL_AUTO_UPDATE_SCORING"] = "false"  # when it happens is up to each test

import pytest
import torch
from bundle.export.package import write_bundle
from fastapi.testclient import TestClient
from monai.bundle import ConfigWorkflow
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance, clear_cache

from bundle import label
from bundle.__main__ import main
from bundle.label.app import AnomalyApp
from bundle.phantom.volumes import write_phantom_volumes
from scripts.model.predictor import NAME
from tests.model_folder import TINY
from tests.programs import find_program

torch.set_num_threads(1)

ROOT = Path(__file__).parents[2]
RATES = {"volume": "0.25", "image": "0.25", "pixel": "0.4"}  # that three patients allow
CT = str(ROOT / "configs" / "data" / "ct.json")


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``normal/sub-0N/ct.nii.gz`` and ``anomalous/sub-0N/ct.nii.gz``: 5 and 2 heads of 64 x 64 x 8 voxels."""
    folder = tmp_path_factory.mktemp("phantoms") / "heads"
    write_phantom_volumes(folder, normal=5, anomalous=2, shape=(64, 64, 8), dicom=0)
    return folder


@pytest.fixture(scope="session")
def trained_bundle(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model bundle trained on two of the heads and calibrated on three; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    items = [{"image": str(p), "group": p.parent.name, "label": 0} for p in sorted(phantoms.glob("normal/*/ct.nii.gz"))]
    datalist, model, calibration = folder / "datalist.json", folder / "model.pt", folder / "calibration.json"
    datalist.write_text(json.dumps({"training": items[:2], "validation": items[2:]}))
    tiny = folder / "tiny.json"
    tiny.write_text(json.dumps(TINY))
    given = {"bundle_root": folder, "datalist": datalist, "ckpt_path": model, "resume_path": folder / "last.pt"}
    train = [str(ROOT / "configs" / "train.json"), CT, str(tiny)]
    workflow = ConfigWorkflow(train, logging_file=False, **{name: str(value) for name, value in given.items()})
    workflow.initialize()
    workflow.run()
    words = ["--ckpt_path", str(model), "--out", str(calibration), "--set", "bundle_root", str(folder)]
    for level, rate in RATES.items():
        words += [f"--{level}-false-positive-rate", rate]
    with contextlib.chdir(ROOT):
        configs = ["configs/train.json", "configs/evaluate.json", CT, str(tiny)]
        assert main(["calibrate", "--datalist", str(datalist), "--config_file", *configs, *words]) == 0
    return write_bundle([CT], TINY, model, calibration, folder / NAME)


@pytest.fixture
def model_bundle(trained_bundle: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(trained_bundle, tmp_path / "model of the clinic" / NAME))


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
def serve(model_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., TestClient]]:
    """``serve(studies)``: a client of the app over these studies, in this process."""

    def start(studies: Path | str, bundle: Path = model_bundle, modality: str = "CT") -> TestClient:
        app = label.write_app(tmp_path / "work", bundle)
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
    """Of the app over ``studies``."""
    return serve(studies)


@pytest.fixture
def app(client: TestClient) -> AnomalyApp:
    """The app behind ``client``."""
    return app_instance()


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """``program("dciodvfy")``, see ``find_program``."""
    return find_program
