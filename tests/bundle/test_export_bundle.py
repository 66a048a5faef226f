"""A model exported as a bundle of its own: what it holds, and that everything runs in it and nowhere else."""

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import timm
import torch
from monai.bundle import ConfigParser

from bundle.__main__ import main
from bundle.export import package
from bundle.export.package import merged_configs, write_bundle
from scripts.model.predictor import Predictor

ROOT = Path(__file__).parents[2]


def run(folder: Path, module: str, *words: str) -> str:
    """A command in a bundle's folder, which sees no other copy of its code."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, cwd=folder, env=environment, text=True, stdout=-1, stderr=-2, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def configs_of(model_bundle: Path, *names: str) -> list[str]:
    """As the model of ``model_bundle`` was trained."""
    return [*(str(ROOT / "configs" / name) for name in names), str(model_bundle.parent / "tiny.json")]


@pytest.fixture(scope="module")
def unpacked(model_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the same model as a zip, unpacked elsewhere."""
    folder = tmp_path_factory.mktemp("zoo")
    archive = folder / "medical_anomaly_pdd_v0.5.0.zip"
    words = ["--format", "bundle", "--output", str(archive), "--ckpt_path", str(model_bundle / "models" / "model.pt")]
    assert main(["export", *words, "--config_file", *configs_of(model_bundle, "train.json", "data/ct.json")]) == 0
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(folder)
    return folder / "medical_anomaly_pdd"


def test_it_has_the_files_of_the_zoo_and_none_of_a_working_copy(unpacked: Path) -> None:
    configs = ("metadata.json", "inference.json", "train.json", "evaluate.json", "logging.conf")
    wanted = [f"configs/{name}" for name in configs]
    wanted += ["docs/README.md", "docs/data_license.txt", "LICENSE", "models/model.pt", "models/calibration.json"]
    wanted += ["scripts/networks/selective_scan/native.c", "bundle/__main__.py"]
    assert not [name for name in wanted if not (unpacked / name).is_file()]
    names = {path.name for path in unpacked.rglob("*")}
    assert not {"__pycache__", ".git", "tests", "cache", "last.pt"} & names


def test_its_metadata_says_which_model_it_is(unpacked: Path) -> None:
    exported = json.loads((unpacked / "configs" / "metadata.json").read_text())
    about = exported.pop("exported")
    assert about["checkpoint_sha256"] == hashlib.sha256((unpacked / "models" / "model.pt").read_bytes()).hexdigest()
    assert exported == json.loads((ROOT / "configs" / "metadata.json").read_text())


def test_plain_commands_run_in_it(unpacked: Path, model_bundle: Path) -> None:
    datalist = str(model_bundle.parent / "datalist.json")
    scans = model_bundle.parent / "phantoms" / "anomalous"
    run(unpacked, "monai.bundle", "run", "inferring", "--config_file", "configs/inference.json", "--input", str(scans))
    scores = pd.read_csv(unpacked / "eval" / "inference" / "scores.csv").set_index("image")["score"]
    predictor = Predictor(model_bundle, "cpu")
    for subject in ("sub-12", "sub-13"):
        scan = str(scans / subject / "ct.nii.gz")
        assert scores[scan] == pytest.approx(predictor(scan).score)
    evaluate = ["configs/train.json", "configs/evaluate.json"]
    words = ["--datalist", datalist, "--config_file"]
    run(unpacked, "monai.bundle", "run", "evaluating", *words, str(evaluate))
    metrics = json.loads((unpacked / "eval" / "test" / "metrics.json").read_text())
    assert metrics["calibration"]["levels"]["pixel"]["rate"] == 0.25
    out = unpacked / "eval" / "calibration.json"
    rates = [f"--{level}-false-positive-rate=0.25" for level in ("volume", "image", "pixel")]
    run(unpacked, "bundle", "calibrate", "--datalist", datalist, "--out", str(out), *rates)
    again, before = (json.loads(path.read_text()) for path in (out, model_bundle / "models" / "calibration.json"))
    assert again["levels"] == before["levels"]
    assert "Written" in run(unpacked, "bundle", "export", "--format", "torchscript", "--output", "eval/model.ts")
    # Last, as it makes another model of the bundle's.
    run(unpacked, "monai.bundle", "run", "training", *words, "configs/train.json", "--epochs", "1")
    new, old = (torch.load(path / "models" / "model.pt", weights_only=True) for path in (unpacked, model_bundle))
    assert new["input"] == old["input"]
    assert new["model"].keys() == old["model"].keys()


def test_configs_have_the_overlays_merged_in_and_the_machine_left_out(model_bundle: Path) -> None:
    plain = json.loads((ROOT / "configs" / "inference.json").read_text())
    for name, base in (("inference.json", []), ("train.json", []), ("evaluate.json", ["train.json"])):
        config = json.loads((model_bundle / "configs" / name).read_text())
        parser = ConfigParser(
            ConfigParser.load_config_files([str(model_bundle / "configs" / file) for file in [*base, name]])
        )
        assert parser["image_size"] == 64
        assert parser["intensity"]["_target_"] == "scripts.transforms.Windowedd"
        assert parser["network_def"]["local_teacher"]["name"] == "test_resnet"
        assert parser["network_def"]["sigma"] == 2.0
        assert str(model_bundle.parent) not in json.dumps(config)
        assert parser["device"] == plain["device"]
    assert parser["pixel_bins"] == 65536  # of configs/data/ct.json, though evaluate.json comes after it


def test_overlays_come_in_their_order_and_overrides_last(tmp_path: Path) -> None:
    files = []
    for number, content in enumerate([{"image_size": 96, "seed": 1}, {"image_size": 128, "ckpt_path": "mine.pt"}]):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(content))
    merged = merged_configs([str(file) for file in files], {"seed": 3, "datalist": "mine.json"})
    assert {name: merged["train.json"][name] for name in ("image_size", "seed")} == {"image_size": 128, "seed": 3}
    assert merged["train.json"]["ckpt_path"] == "$@bundle_root + '/models/model.pt'"
    assert merged["train.json"]["datalist"] == "$@bundle_root + '/datalist.json'"


def test_weights_of_teachers_come_along_and_a_file_is_found_in_the_bundle(model_bundle: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    weights = tmp_path / "elsewhere" / "net.safetensors"
    weights.parent.mkdir()
    network = timm.create_model("test_resnet", features_only=True)
    safetensors.torch.save_file(network.state_dict(), weights)
    overrides = {"network_def#local_teacher#weights": str(weights)}
    overlays = configs_of(model_bundle, "data/ct.json")
    out = write_bundle(overlays, overrides, model_bundle / "models" / "model.pt", None, tmp_path / "out")
    weights.unlink()
    config = ConfigParser(ConfigParser.load_config_file(out / "configs" / "inference.json"))
    config["bundle_root"] = str(out)
    detector: Any = config.get_parsed_content("network_def")
    expected = network.eval()(torch.full((1, 3, 64, 64), 0.0))
    black = detector.teachers[0].mean.expand(1, 3, 64, 64)  # which the teacher makes 0
    for got, wanted in zip(detector.teachers[0](black), expected[1:], strict=False):
        np.testing.assert_allclose(got.numpy(), wanted.detach().numpy(), rtol=1e-3, atol=1e-5)
    assert not (out / "models" / "calibration.json").exists()


def test_weights_of_one_name_are_kept_apart(model_bundle: Path, tmp_path: Path) -> None:
    overrides: dict[str, Any] = {}
    for number, teacher in enumerate(("local_teacher", "global_teacher")):
        weights = tmp_path / teacher / "model.pt"  # the name of the checkpoint, too
        weights.parent.mkdir()
        weights.write_bytes(bytes([number]))
        overrides[f"network_def#{teacher}#weights"] = str(weights)
    checkpoint = model_bundle / "models" / "model.pt"
    out = write_bundle(configs_of(model_bundle, "data/ct.json"), overrides, checkpoint, None, tmp_path / "out")
    config = ConfigParser(ConfigParser.load_config_file(out / "configs" / "inference.json"))
    config["bundle_root"] = str(out)
    for number, teacher in enumerate(("local_teacher", "global_teacher")):
        copied = Path(config.get_parsed_content(f"network_def#{teacher}#weights"))
        assert copied.parent == out / "models"
        assert copied.read_bytes() == bytes([number])
    assert (out / "models" / "model.pt").read_bytes() == checkpoint.read_bytes()
    assert len(list((out / "models").iterdir())) == 3


def test_code_that_is_read_only_and_without_times_makes_a_bundle_that_can_be_written(
    model_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "code"
    shutil.copytree(model_bundle, code, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*code.rglob("*"), code):
        os.utime(path, (0, 0))
        path.chmod(path.stat().st_mode & ~0o222)
    monkeypatch.setattr(package, "ROOT", code)
    checkpoint = code / "models" / "model.pt"
    out = write_bundle([], {}, checkpoint, None, tmp_path / "medical_anomaly_pdd")
    assert [path for path in (out, *out.rglob("*")) if not path.stat().st_mode & stat.S_IWUSR] == []
    archive = write_bundle([], {}, checkpoint, None, tmp_path / "zoo.zip")
    with zipfile.ZipFile(archive) as zipped:
        names = {name for name in zipped.namelist() if not name.endswith("/")}
    assert names == {f"medical_anomaly_pdd/{path.relative_to(out)}" for path in out.rglob("*") if path.is_file()}
    for path in (code, *code.rglob("*")):  # for pytest to remove
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--output", "pdd_detection"], "for a detector of boxes. Call it medical_anomaly_pdd"),
        (["--output", "there"], "there exists: remove it, or name another --output"),
        (["--output", "new", "--set", "image_size", "96"], "other input settings than configured"),
        (["--output", "new", "--calibration_path", "other.json"], "was made for another checkpoint"),
    ],
)
def test_what_would_mislead_is_refused_and_nothing_is_left(
    options: list[str],
    text: str,
    model_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    other = json.loads((model_bundle / "models" / "calibration.json").read_text()) | {"checkpoint_sha256": "0" * 64}
    Path("other.json").write_text(json.dumps(other))
    words = ["--format", "bundle", "--config_file", *configs_of(model_bundle, "train.json", "data/ct.json")]
    checkpoint = ["--ckpt_path", str(model_bundle / "models" / "model.pt")]
    assert main(["export", *words, *checkpoint, *options]) == 1
    assert text in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.json", "there"]


def test_a_calibration_is_only_of_a_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--format", "torchscript", "--calibration_path", "calibration.json"]) == 1
    assert "--calibration_path is of --format bundle" in capsys.readouterr().err


def test_its_help_names_the_tools_that_take_it(capsys: pytest.CaptureFixture[str]) -> None:
    printed: Callable[[], Any] = capsys.readouterr
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    assert "label, deploy and listen" in " ".join(printed().out.split())
