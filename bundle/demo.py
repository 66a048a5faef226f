"""Shows the way from scans to anomaly maps on made-up head CT, in minutes and without any download.

Writes phantom volumes (NIfTI, and one of them as a DICOM series too), prepares them, trains PDD on the normal ones,
calibrates it, evaluates and infers, each by the command that you would use on your own data.
The teachers are small and UNTRAINED: it shows the way, not the quality.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bundle.baseline import evaluate as evaluate_baseline

ROOT = Path(__file__).parent.parent
# 32 normal scans: 18 to train on, 9 to calibrate on, the fewest that allow a rate of 0.1, and 5 to test.
_PHANTOMS = ("--volumes", "--subjects", "40")
_SPLIT = ("--train-fraction", "0.85", "--validation-fraction", "0.34")
_RATES = (
    "--scan-false-positive-rate",
    "0.1",
    "--slice-false-positive-rate",
    "0.1",
    "--mask-false-positive-rate",
    "0.105",  # at 0.1 nine patients allow no false voxel at all, here some 0.5 % of theirs
)
TRAIN = ("configs/train.json", "configs/data/ct.json", "configs/demo.json")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the verb."""
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo"), help="new folder (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="of the training (default: as configs/demo.json says)")


def run(args: argparse.Namespace) -> int:
    """Runs every step as a user would, then prints scores, baseline and where to look."""
    folder: Path = args.folder.resolve()
    if folder.exists():
        raise FileExistsError(f"{folder}: exists from an earlier demo. Remove it (make clean), or name another folder.")
    started = time.time()
    folder.mkdir(parents=True)
    phantoms, datalist, model = str(folder / "phantoms"), str(folder / "datalist.json"), str(folder / "model")
    cache = ["--cache-dir", f"{folder}/cache"]
    train = ["--datalist", datalist, "--model_dir", model, "--cache_dir", f"{folder}/cache"]
    train += ["--tracking_uri", f"sqlite:///{folder}/mlruns.db"]
    train += ["--epochs", str(args.epochs)] if args.epochs else []
    train += ["--val_interval", "10"]  # the loss on them is only looked at
    _step("1/7 A data set of its own", "phantom", phantoms, *_PHANTOMS)
    _step("2/7 Prepare it", "prepare", phantoms, "--out", datalist, "--modality", "CT", "--layout", "nifti", *_SPLIT)
    files = "[" + ",".join(f"'{config}'" for config in TRAIN) + "]"
    title = "3/7 Train on the slices of its normal scans"
    _run(title, "monai.bundle", "run", "training", "--config_file", files, *train)
    _step("4/7 Calibrate on normal scans that it was not trained on", "calibrate", model, *cache, *_RATES)
    _step("5/7 Evaluate", "evaluate", model, *cache)
    _step("6/7 Infer the scans of the test split", "infer", model, datalist, "-o", f"{folder}/inference", *cache)
    dicom = ["infer", model, f"{phantoms}/dicom", "-o", f"{folder}/inference_dicom", *cache]
    _step("7/7 Infer a DICOM series", *dicom)
    _studies(json.loads(Path(datalist).read_text(encoding="utf-8")), Path(phantoms), folder / "studies")
    values = {"datalist": datalist, "cache_dir": f"{folder}/cache"}
    trivial = evaluate_baseline("mean_image", [str(ROOT / config) for config in TRAIN], values)
    pdd = json.loads((folder / "model" / "eval" / "test" / "metrics.json").read_text())["metrics"]
    _report(folder, pdd, trivial, time.time() - started)
    return 0


def _studies(datalist: dict[str, Any], phantoms: Path, studies: Path) -> None:
    """Copies the scans of the test split as MONAI Label takes them: each under a name of its own, without masks."""
    studies.mkdir()
    for item in datalist["test"]:
        scan = phantoms / item["image"]
        shutil.copy(scan, studies / f"{scan.parent.name}.nii.gz")


def _step(title: str, verb: str, *options: str) -> None:
    _run(title, "bundle", verb, *options)


def _run(title: str, module: str, *arguments: str) -> None:
    quoted = " ".join(f'"{argument}"' if "'" in argument else shlex.quote(argument) for argument in arguments)
    print(f"\n=== {title}\n$ python -m {module} {quoted}\n", flush=True)
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, env=_quiet(), check=True)


def _quiet() -> dict[str, str]:
    """Without the libraries' warnings, which a newcomer would have to read past."""
    return {**os.environ, "PYTHONWARNINGS": "ignore"}


def _report(folder: Path, pdd: dict[str, float], trivial: dict[str, float], seconds: float) -> None:
    mlflow = [f"{Path(sys.executable).parent}/mlflow", "ui", "--backend-store-uri", f"sqlite:///{folder}/mlruns.db"]
    print(
        f"\n=== Done in {seconds:.0f} s. UNTRAINED teachers on made-up scans: this shows the way, not the quality.\n\n"
        f"                             pixel AUROC   slice AUROC   patient AUROC\n"
        f"PDD                          {_row(pdd)}\n"
        f"difference to mean image     {_row(trivial)}\n\n"
        f"Verdicts       {folder}/inference/scores.csv, slices.csv\n"
        f"Pictures       {folder}/inference/overlays\n"
        f"NIfTI          {folder}/inference/maps (float32), masks; on the grid of each scan\n"
        f"DICOM          {folder}/inference_dicom/dicom (segmentation, parametric map, structured report)\n"
        f"Evaluation     {folder}/model/eval/test/heat_maps.png, roc_pr.png, scores.png, metrics.json\n"
        f"The data       {folder}/datalist.png\n"
        f"The model      {folder}/model (what every verb takes; scans to label: studies/)\n"
        f"MLflow         {shlex.join(mlflow)}\n"
        "               then open http://127.0.0.1:5000\n"
    )


def _row(metrics: dict[str, float]) -> str:
    pixel, image, patient = (metrics[f"{kind}_auroc"] for kind in ("pixel", "image", "patient"))
    return f"{pixel:11.3f}   {image:11.3f}   {patient:13.3f}"
