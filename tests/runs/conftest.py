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
    """A bundle's folder with all that its runs wrote.

    ``inputs`` was inferred: ``whole.png`` (64 x 64), ``part.png`` and ``more/part.png`` (40 x 56, the latter of 8 bits)
    and ``broken.png``. ``printed`` holds the output of each command by its run id.
    """

    root: Path
    inputs: Path
    datalist: Path
    printed: dict[str, str]

    @property
    def checkpoint(self) -> Path:
        return self.root / "models" / "model.pt"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.root}/eval/mlruns.db"


@pytest.fixture(scope="session")
def used(tiny_config: dict[str, Any], tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Used:
    root = tmp_path_factory.mktemp("user") / "medical_anomaly_pdd"
    root.mkdir()
    for folder in ("bundle", "configs", "scripts"):
        (root / folder).symlink_to(ROOT / folder)
    (root / "tiny.json").write_text(json.dumps(tiny_config | {"datalist": str(tiny_dataset)}))
    inputs = _write_inputs(root / "inputs", tiny_dataset)
    printed = {}
    rates = [
        f"--{level}-false-positive-rate=0.5" for level in ("volume", "image", "pixel")
    ]  # one patient allows no less
    for run_id, configs, options in (
        ("training", ("train",), ()),
        ("calibrate", ("train", "evaluate"), ("--datalist", str(tiny_dataset), *rates)),
        ("evaluating", ("train", "evaluate"), ()),
        ("inferring", ("inference",), ("--input", str(inputs))),
    ):
        files = [*(f"configs/{config}.json" for config in configs), "tiny.json"]
        if run_id == "calibrate":
            command = [sys.executable, "-m", "bundle", run_id, "--config_file", *files, *options]
        else:
            command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(files), *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=root, env=environment, text=True, stdout=-1, stderr=-2, check=False)
        expected = 3 if run_id == "inferring" else 0  # one of its inputs is broken
        assert done.returncode == expected, done.stdout
        printed[run_id] = done.stdout
    return Used(root, inputs, tiny_dataset, printed)


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
