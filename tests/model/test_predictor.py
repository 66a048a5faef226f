"""The predictor of a model folder against the folder's own inference."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from scripts.engines import MixedPrecisionInferer
from scripts.model.predictor import Predictor


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As many as the commands have, as sums depend on them in their last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def predictor(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(model_folder, "cpu", cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def inferred(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the plain command inside the folder leaves of the anomalous scans."""
    out = tmp_path_factory.mktemp("inferred")
    scans = model_folder.parent / "phantoms" / "anomalous" / "*" / "ct.nii.gz"
    words = ["--input", str(scans), "--output_dir", str(out), "--tracking_uri", f"sqlite:///{out}/mlruns.db"]
    words += ["--cache_dir", str(out / "cache"), "--config_file", "configs/inference.json"]
    command = [sys.executable, "-m", "monai.bundle", "run", "inferring", *words]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums depend on it in their last bit
    done = subprocess.run(command, cwd=model_folder, env=environment, text=True, stdout=-1, stderr=-2, check=False)
    assert done.returncode == 0, done.stdout
    return out


@pytest.mark.parametrize("subject", ["sub-12", "sub-13"])
def test_maps_scores_and_masks_are_those_of_inferring(
    subject: str, predictor: Predictor, inferred: Path, model_folder: Path
) -> None:
    scan = model_folder.parent / "phantoms" / "anomalous" / subject / "ct.nii.gz"
    found = predictor(scan)
    scores = pd.read_csv(inferred / "scores.csv").set_index("image").loc[str(scan)]
    slices = pd.read_csv(inferred / "slices.csv").set_index("image").loc[str(scan)]
    theirs = nib.load(inferred / scores["map"])
    np.testing.assert_allclose(found.anomaly_map[0], np.asarray(theirs.dataobj), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.anomaly_map.affine, nib.load(scan).affine, atol=1e-5)
    assert found.verdict() == {name: scores[name] for name in found.verdict()}  # to the last bit
    np.testing.assert_array_equal(found.slice_scores, slices["score"])
    np.testing.assert_allclose(np.array(found.slice_p_values, float), slices["p_value"], rtol=1e-6)
    assert found.top_slices[0] == scores["top_slice"] == int(np.argmax(slices["score"]))
    mask = np.asarray(nib.load(inferred / scores["mask"]).dataobj)
    np.testing.assert_array_equal(found.mask[0], mask)
    assert mask.any()


def test_what_cannot_be_read_is_said_as_the_reader_says_it(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        predictor(tmp_path / "nothing.nii.gz")
    cut = tmp_path / "cut.nii"
    cut.write_bytes(b"half a header")
    with pytest.raises(ValueError, match=r"cut\.nii"):
        predictor(cut)


def test_thresholds_are_those_of_the_calibration(predictor: Predictor, model_folder: Path) -> None:
    mask = json.loads((model_folder / "models" / "calibration.json").read_text())["levels"]["mask"]
    assert predictor.rates == [one["rate"] for one in mask["thresholds"]] == [0.5, 0.25, 0.2]
    assert predictor.mask_threshold() == predictor.mask_threshold(0.25) == mask["threshold"]
    assert predictor.mask_threshold(0.5) == mask["thresholds"][0]["threshold"]
    with pytest.raises(ValueError, match=r"no threshold for a false-positive rate of 0.01; calibrated are: 0.5, 0.25"):
        predictor.mask_threshold(0.01)


def test_it_says_what_the_model_is(predictor: Predictor) -> None:
    facts = predictor.facts
    assert facts["method"] == "PDD"
    assert facts["untrained"] == ["test_resnet", "vmamba_pico"]
    assert (predictor.plane, predictor.modality) == ("axial", "CT")
    algorithm = predictor.algorithm
    assert (algorithm.name, algorithm.version, algorithm.untrained) == ("PDD", facts["version"], True)
    assert facts["checkpoint_sha256"].startswith(algorithm.model_hash)


def test_a_new_calibration_is_noticed(model_folder: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(model_folder, tmp_path / "medical_anomaly_pdd")
    predictor = Predictor(mine, "cpu")
    assert predictor.calibration.patients == 4
    (mine / "models" / "calibration.json").unlink()
    assert predictor.calibration.patients == 0
    assert predictor.mask_threshold() is None
    assert predictor.rates == []


def test_a_scan_keeps_nobody_waiting_who_asks_what_the_model_is(
    predictor: Predictor, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, asked, meanwhile = threading.Event(), threading.Event(), []
    call = MixedPrecisionInferer.__call__

    def infer(self: MixedPrecisionInferer, *args: Any, **options: Any) -> Any:
        started.set()
        meanwhile.append(asked.wait(20))
        return call(self, *args, **options)

    monkeypatch.setattr(MixedPrecisionInferer, "__call__", infer)
    scan = model_folder.parent / "phantoms" / "anomalous" / "sub-12" / "ct.nii.gz"
    thread = threading.Thread(target=predictor, args=(scan,))
    thread.start()
    started.wait()
    assert (predictor.facts["method"], predictor.mask_threshold()) == ("PDD", predictor.mask_threshold(0.25))
    asked.set()
    thread.join()
    assert meanwhile == [True]


def test_a_folder_of_another_kind_is_refused_with_the_remedy(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is no model folder: it has no configs.*Training writes one"):
        Predictor(tmp_path)
    bare = tmp_path / "bare"
    shutil.copytree(model_folder / "configs", bare / "configs")
    with pytest.raises(FileNotFoundError, match=r"has no trained model models/model\.pt.*Training writes one"):
        Predictor(bare, "cpu")
