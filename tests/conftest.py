"""A small data set, and an overlay that makes the bundle's configs small enough to be run in seconds."""

import argparse
import copy
import json
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve processes that share few cores

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism

from bundle import prepare
from bundle.phantom.slices import write_phantoms
from scripts.model.command import training_workflow
from tests.model_folder import make_model_folder
from tests.programs import find_program

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)  # make test has a worker for each of two cores

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The datalist of phantom images, 64 pixels wide: 16 to train on, 2 for validation, 8 for test (2 abnormal)."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder / "images", subjects=13, slices=2, size=64, abnormal_fraction=0.15)
    parser = argparse.ArgumentParser()
    prepare.configure(parser)
    out = folder / "datalist.json"
    assert prepare.run(parser.parse_args([str(folder / "images"), "--out", str(out), "--modality", "CT"])) == 0
    return out


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store that all tests share, as making one takes seconds; experiments keep them apart."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlruns.db"


def tiny_network(method: str) -> dict[str, Any]:
    """Overrides that make a method's network small."""
    resnet = {"_target_": "scripts.networks.Teacher", "name": "test_resnet", "weights": "untrained"}
    if method == "pdd":
        vmamba = {**resnet, "name": "vmamba_pico"}
        return {"network_def#local_teacher": resnet, "network_def#global_teacher": vmamba}
    if method == "memory":
        levels = {**resnet, "levels": [2, 3]}
        return {"network_def#teachers": [levels, {**levels, "name": "vmamba_pico", "levels": [0, 1]}]}
    return {
        "network_def#teacher": {**resnet, "levels": [1, 2, 3]},
        "network_def#block": "basic",
        "network_def#decoder_blocks": 1,
        "network_def#embedding_blocks": 1,
    }


@pytest.fixture
def method(request: pytest.FixtureRequest) -> str:
    """The method that a test's configs train: PDD, or as ``@pytest.mark.parametrize("method", ..., indirect=True)``."""
    return getattr(request, "param", "pdd")


@pytest.fixture
def of_method(method: str) -> Callable[..., list[str]]:
    """``of_method("train.json")``: the configs with the overlay of the method behind them."""

    def add(*configs: str) -> list[str]:
        return [*configs, *([] if method == "pdd" else [f"methods/{method}.json"])]

    return add


@pytest.fixture(scope="session")
def tiny_config() -> dict[str, Any]:
    """What makes any of the bundle's configs small enough for a test."""
    return {
        "device": "$torch.device('cpu')",
        "image_size": 64,
        "intensity#intensity_range": [0, 4095],
        "epochs": 2,
        "batch_size": 4,
        **tiny_network("pdd"),
    }


@pytest.fixture
def bundle_args(
    tiny_config: dict[str, Any], tiny_dataset: Path, tracking_uri: str, tmp_path: Path, method: str
) -> dict[str, Any]:
    """Overrides of any of the bundle's configs; ``tmp_path`` takes all that is written, and names the experiment."""
    common = {name: value for name, value in tiny_config.items() if not name.startswith("network_def")}
    return {
        "bundle_root": str(tmp_path),
        "datalist": str(tiny_dataset),
        "tracking_uri": tracking_uri,
        "experiment_name": str(tmp_path),
        "model_dir": str(tmp_path / "model"),
        "tracking#registered_model": "",
        **copy.deepcopy(common),  # a config parser writes its overrides into the dicts it is given
        **tiny_network(method),
    }


@pytest.fixture
def tiny_overlay(bundle_args: dict[str, Any], tmp_path: Path) -> Path:
    """``bundle_args`` as a config file, to come last in ``--config_file``."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(bundle_args))
    return path


@pytest.fixture
def config_in_process() -> Iterator[None]:
    """Undoes what a config that runs in this process leaves behind: its import path and its seeds."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    set_determinism(None)


@pytest.fixture
def workflow(
    bundle_args: dict[str, Any], of_method: Callable[..., list[str]], config_in_process: None
) -> Callable[..., ConfigWorkflow]:
    """``workflow("train.json", epochs=3)``: a training in this process, initialised and not yet run."""

    def build(*configs: str, **overrides: Any) -> ConfigWorkflow:
        files = [str(CONFIGS / config) for config in of_method(*configs)]
        given = copy.deepcopy(bundle_args)
        if any(config.startswith("data/") for config in configs):  # which bring an intensity transform of their own
            given.pop("intensity#intensity_range")
        made = training_workflow(files, **(given | overrides))
        made.initialize()
        return made

    return build


@pytest.fixture
def scoring(config_in_process: None) -> Callable[..., ConfigWorkflow]:
    """``scoring(model, "evaluate")``: a config of a model folder in this process, initialised and not yet run."""

    def build(model: Path, verb: str, **overrides: Any) -> ConfigWorkflow:
        file, given = str(model / "configs" / f"{verb}.json"), {"bundle_root": str(model), **overrides}
        made = ConfigWorkflow(file, workflow_type="inference", logging_file=False, **given)
        made.initialize()
        return made

    return build


@pytest.fixture
def raises_because() -> Callable[..., AbstractContextManager[None]]:
    """Like ``pytest.raises``, for an error that MONAI wraps in its own while it evaluates a config."""

    @contextmanager
    def check(kind: type[BaseException], *texts: str) -> Iterator[None]:
        with pytest.raises(Exception) as caught:
            yield
        error: BaseException | None = caught.value
        while error is not None and not isinstance(error, kind):
            error = error.__cause__
        if error is None:
            raise caught.value
        assert all(text in str(error) for text in texts), str(error)

    return check


@pytest.fixture
def command(tiny_overlay: Path, of_method: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """``command("training", "train.json", "--resume", "True")``: words of the bundle's command line."""

    def build(verb: str, *words: str, launcher: tuple[str, ...] = (sys.executable,)) -> list[str]:
        configs = [f"configs/{word}" for word in of_method(*(word for word in words if word.endswith(".json")))]
        options = [word for word in words if not word.endswith(".json")]
        files = str([*configs, str(tiny_overlay)])
        return [*launcher, "-m", "monai.bundle", "run", verb, "--config_file", files, *options]

    return build


@pytest.fixture
def run_command(command: Callable[..., list[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``command(...)`` in the repository's root, and gives its exit code and all that it printed."""

    def run(*args: Any, **more: Any) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            command(*args, **more), cwd=ROOT, env=environment, text=True, stdout=-1, stderr=-2, timeout=300, check=False
        )

    return run


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and calibrated model, see ``make_model_folder``; not to be changed."""
    return make_model_folder(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """``program("dciodvfy")``, see ``find_program``."""
    return find_program
