"""Studies of a phantom, and the application run on them in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest

from bundle.__main__ import main
from bundle.phantom.dicom import write_series
from tests.dicom.conftest import errors, frame_affines

__all__ = ["errors", "frame_affines"]

pytest.importorskip("holoscan", reason="MONAI Deploy is for Linux")


class Run(NamedTuple):
    """What one run leaves."""

    code: int
    out: Path
    results: dict[str, Any]  # empty where there are none
    said: str  # on the terminal


@pytest.fixture(scope="session")
def phantom(model_folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """A head CT with a lesion, (48, 48, 10) HU, and its RAS affine, as DICOM has its axes."""
    image = nib.load(model_folder.parent / "phantoms" / "anomalous" / "sub-13" / "ct.nii.gz")
    return np.asarray(image.dataobj), image.affine


@pytest.fixture
def study(phantom: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> Callable[..., Path]:
    """``study(series=1, description="Thin")``: adds the phantom as a series to a folder, and gives the folder."""

    def add(slices: int | None = None, **options: Any) -> Path:
        array, affine = phantom
        write_series(tmp_path / "study", array[..., :slices], affine, **options)
        return tmp_path / "study"

    return add


@pytest.fixture
def deploy(
    model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[..., Run]:
    """``deploy(study, "--secondary-capture")``: the verb with the small model."""

    def run(folder: Path, *words: str, out: Path = tmp_path / "out") -> Run:
        caplog.clear()
        code = main(["deploy", str(model_folder), "-i", str(folder), "-o", str(out), *words])
        file = out / "results.json"
        said = "".join([*capfd.readouterr(), caplog.text])
        return Run(code, out, json.loads(file.read_text()) if file.is_file() else {}, said)

    return run


@pytest.fixture
def rules(tmp_path: Path) -> Callable[..., str]:
    """``rules({"take": "first"}, order="alternatives")``: a file of rules."""

    def write(*given: Any, **more: Any) -> str:
        path = tmp_path / "rules.json"
        path.write_text(json.dumps({"rules": list(given), **more}))
        return str(path)

    return write


@pytest.fixture(scope="session")
def read_results() -> Callable[[Path], dict[str, Any]]:
    """``read_results(out)``: what results.json says."""
    return lambda out: json.loads((out / "results.json").read_text())
