"""The bundle trained, evaluated and used once by its documented commands, in a folder as a user has it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


class Used(NamedTuple):
    """A clone's folder with all that its runs wrote, and the model folder of its training.

    ``inputs`` was inferred: ``whole.png`` (64 x 64), ``part.png`` and ``more/part.png`` (40 x 56, the latter of 8 bits)
    and ``broken.png``. ``printed`` holds the output of each command by its verb.
    """

    root: Path
    model: Path
    inputs: Path
    datalist: Path
    printed: dict[str, str]

    @property
    def checkpoint(self) -> Path:
        return self.model / "models" / "model.pt"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.root}/eval/mlruns.db"


@pytest.fixture(scope="session")
def used(tiny_config: dict[str, Any], tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Used:
    root = tmp_path_factory.mktemp("user") / "clone"
    root.mkdir()
    for folder in ("bundle", "configs", "scripts"):
        (root / folder).symlink_to(ROOT / folder)
    (root / "tiny.json").write_text(json.dumps(tiny_config | {"datalist": str(tiny_dataset)}))
    inputs = _write_inputs(root / "inputs", tiny_dataset)
    model = f"models/PDD-{json.loads(tiny_dataset.read_text())['name']}-seed-0"
    rates = [f"--{level}-false-positive-rate=0.5" for level in ("scan", "slice", "mask")]  # one patient allows no less
    monai = ["monai.bundle", "run"]
    printed = {}
    for verb, words in {
        "training": [*monai, "training", "--config_file", "['configs/train.json','tiny.json']"],
        "calibrate": ["bundle", "calibrate", model, *rates],
        "evaluating": [*monai, "evaluating", "--bundle_root", model, "--config_file", f"{model}/configs/evaluate.json"],
        "infer": ["bundle", "infer", model, str(inputs), "-o", f"{model}/eval/inference"],
    }.items():
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, cwd=root, env=environment, text=True, stdout=-1, stderr=-2, check=False)
        expected = 3 if verb == "infer" else 0  # one of its inputs is broken
        assert done.returncode == expected, done.stdout
        printed[verb] = done.stdout
    return Used(root, root / model, inputs, tiny_dataset, printed)


@pytest.fixture
def infer(used: Used, scoring: Any, tmp_path: Path) -> Any:
    """``infer(input)`` in this process with the trained model, returns the folder of results."""

    def run(path: Any, **overrides: Any) -> Path:
        values = {"output_dir": str(tmp_path / "out"), "tracking_uri": f"sqlite:///{tmp_path}/mlruns.db"}
        scoring(used.model, "inference", **{"input": str(path), **values, **overrides}).run()
        return tmp_path / "out"

    return run


def _write_inputs(folder: Path, datalist: Path) -> Path:
    content = json.loads(datalist.read_text())
    source = datalist.parent / content["dataset_dir"] / content["test"][0]["image"]
    (folder / "more").mkdir(parents=True)
    (folder / "whole.png").write_bytes(source.read_bytes())
    (folder / "broken.png").write_bytes(source.read_bytes()[:-100])
    with Image.open(source) as image:
        part = np.asarray(image)[10:50, 4:60]
    Image.fromarray(part.astype(np.uint16)).save(folder / "part.png")
    Image.fromarray((part >> 4).astype(np.uint8)).save(folder / "more" / "part.png")
    return folder
