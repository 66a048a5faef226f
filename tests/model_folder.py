"""A small model folder, trained and calibrated by the usual commands; works in MONAI Label's environment too."""

import json
import os
import subprocess
import sys
from pathlib import Path

from bundle.phantom.volumes import write_phantom_volumes

ROOT = Path(__file__).parents[1]
RATE = 0.25  # that four patients allow, with some pixels to spare
TINY = {
    "device": "$torch.device('cpu')",
    "image_size": 64,
    "epochs": 2,
    "batch_size": 8,
    "tracking#registered_model": "",
    "network_def#local_teacher": {
        "_target_": "scripts.networks.Teacher",
        "name": "test_resnet",
        "weights": "untrained",
    },
    "network_def#global_teacher": {
        "_target_": "scripts.networks.Teacher",
        "name": "vmamba_pico",
        "weights": "untrained",
    },
    "network_def#sigma": 2.0,
}


def make_model_folder(folder: Path) -> Path:
    """Trains and calibrates ``model`` in a new folder and returns its path.

    Beside it lie ``phantoms/``: ``normal/`` and ``anomalous/sub-NN/ct.nii.gz``, 48 x 48 x 10 voxels in HU, and of
    sub-13 ``dicom/sub-13/``; and ``datalist.json``.
    """
    phantoms = folder / "phantoms"
    write_phantom_volumes(phantoms, normal=11, anomalous=2, shape=(48, 48, 10), spacing=(4, 4, 7), dicom=1)
    normals = sorted(path.relative_to(folder).as_posix() for path in phantoms.glob("normal/*/ct.nii.gz"))
    items = [{"image": path, "label": 0, "group": Path(path).parent.name} for path in normals]
    content = {"name": "phantoms", "modality": "CT", "classes": [], "seed": 0, "dataset_dir": ".", "made_by": "tests"}
    anomalous = [
        {"image": f"{place}/ct.nii.gz", "label": 1, "mask": f"{place}/lesion.nii.gz", "group": Path(place).name}
        for place in ("phantoms/anomalous/sub-12", "phantoms/anomalous/sub-13")
    ]
    splits = {"training": items[:6], "validation": items[6:10], "test": [*items[10:], *anomalous]}
    datalist = folder / "datalist.json"
    datalist.write_text(json.dumps({**content, **splits}))
    out, cache = folder / "model", folder / "cache"
    values = {
        "datalist": datalist,
        "model_dir": out,
        "cache_dir": cache,
        "tracking_uri": f"sqlite:///{folder}/mlruns.db",
    }
    tiny = folder / "tiny.json"
    tiny.write_text(json.dumps({**TINY, **{name: str(value) for name, value in values.items()}}))
    train = ["configs/train.json", "configs/data/ct.json", str(tiny)]
    rates = [f"--{level}-false-positive-rate={RATE}" for level in ("scan", "slice", "mask")]
    _run("monai.bundle", "run", "training", "--config_file", str(train))
    _run("bundle", "calibrate", str(out), "--cache-dir", str(cache), *rates)
    return out


def _run(module: str, *words: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, stdout=-1, stderr=-2, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}")
