"""Show the way from scans to anomaly maps on made-up head CT, in minutes and without any download.

Writes phantom volumes (NIfTI, and one of them as a DICOM series too), prepares them, trains PDD on the normal ones,
calibrates its scores, evaluates, infers and exports it, each by the command that you would use on your own data. The
teachers are small and UNTRAINED: it shows the way, not the quality.
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

from scripts.model.predictor import NAME

ROOT = Path(__file__).parent.parent
# 32 normal scans: 18 to train on, 9 to calibrate on, the fewest that allow a rate of 0.1, and 5 to test.
_PHANTOMS = ("--volumes", "--subjects", "40")
_SPLIT = ("--train-fraction", "0.85", "--validation-fraction", "0.34")
_RATES = (
    "--volume-false-positive-rate",
    "0.1",
    "--image-false-positive-rate",
    "0.1",
    "--pixel-false-positive-rate",
    "0.105",  # at 0.1 nine patients allow no false pixel at all, here some 0.5 % of theirs
)
TRAIN = ("configs/train.json", "configs/data/ct.json", "configs/demo.json")
EVALUATE = ("configs/train.json", "configs/evaluate.json", "configs/data/ct.json", "configs/demo.json")
INFER = ("configs/inference.json", "configs/data/ct.json", "configs/demo.json")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo"), help="new folder (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="of the training (default: as configs/demo.json says)")


def run(args: argparse.Namespace) -> int:
    """Run every step as a user would, then print scores, baseline and where to look."""
    folder: Path = args.folder.resolve()
    if folder.exists():
        raise FileExistsError(f"{folder}: exists from an earlier demo. Remove it (make clean), or name another folder.")
    started = time.time()
    folder.mkdir(parents=True)
    phantoms, datalist = str(folder / "phantoms"), str(folder / "datalist.json")
    common = ["--ckpt_path", f"{folder}/models/model.pt", "--tracking_uri", f"sqlite:///{folder}/mlruns.db"]
    common += ["--scan_cache_dir", f"{folder}/cache"]
    calibration = f"{folder}/models/calibration.json"
    train = ["--datalist", datalist, "--resume_path", f"{folder}/models/last.pt", *common]
    train += ["--epochs", str(args.epochs)] if args.epochs else []
    train += ["--val_interval", "10"]  # the loss on them is only looked at
    calibrate = ["--datalist", datalist, "--config_file", *EVALUATE, "--ckpt_path", f"{folder}/models/model.pt"]
    calibrate += ["--out", calibration, "--set", "scan_cache_dir", f"{folder}/cache", *_RATES]
    calibrated = ["--calibration_path", calibration, *common]
    evaluate = ["--datalist", datalist, "--results_dir", f"{folder}/test", *calibrated]
    infer = ["--input", datalist, "--output_dir", f"{folder}/inference", *calibrated]
    dicom = ["--input", f"{phantoms}/dicom", "--output_dir", f"{folder}/inference_dicom", *calibrated]
    _step("1/8 A data set of its own", "phantom", phantoms, *_PHANTOMS)
    _step("2/8 Prepare it", "prepare", phantoms, "--out", datalist, "--modality", "CT", "--layout", "nifti", *_SPLIT)
    _bundle("3/8 Train on the slices of its normal scans", "training", TRAIN, train)
    _step("4/8 Calibrate on normal scans that it was not trained on", "calibrate", *calibrate)
    _bundle("5/8 Evaluate", "evaluating", EVALUATE, evaluate)
    _bundle("6/8 Infer the scans of the test split", "inferring", INFER, infer)
    _bundle("7/8 Infer a DICOM series", "inferring", INFER, dicom)
    export = ["--format", "bundle", "--output", f"{folder}/{NAME}", "--ckpt_path", f"{folder}/models/model.pt"]
    export += ["--calibration_path", calibration, "--config_file", *TRAIN]
    _step("8/8 Export it for MONAI Label, MONAI Deploy and hospitals", "export", *export)
    _studies(json.loads(Path(datalist).read_text(encoding="utf-8")), Path(phantoms), folder / "studies")
    baseline = ["bundle", "baseline", "mean_image", "--datalist", datalist, "--config_file", *EVALUATE]
    trivial = json.loads(_output(*baseline, "--set", "scan_cache_dir", f"{folder}/cache"))
    pdd = json.loads((folder / "test" / "metrics.json").read_text())["metrics"]
    _report(folder, pdd, trivial, time.time() - started)
    return 0


def _studies(datalist: dict[str, Any], phantoms: Path, studies: Path) -> None:
    """Copies the scans of the test split as MONAI Label takes them: each under a name of its own, without masks."""
    studies.mkdir()
    for item in datalist["test"]:
        scan = phantoms / item["image"]
        shutil.copy(scan, studies / f"{scan.parent.name}.nii.gz")


def _bundle(title: str, run_id: str, configs: tuple[str, ...], options: list[str]) -> None:
    files = "[" + ",".join(f"'{config}'" for config in configs) + "]"
    _run(title, "monai.bundle", "run", run_id, "--config_file", files, *options)


def _step(title: str, verb: str, *options: str) -> None:
    _run(title, "bundle", verb, *options)


def _run(title: str, module: str, *arguments: str) -> None:
    quoted = " ".join(f'"{argument}"' if "'" in argument else shlex.quote(argument) for argument in arguments)
    print(f"\n=== {title}\n$ python -m {module} {quoted}\n", flush=True)
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, env=_quiet(), check=True)


def _output(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, env=_quiet(), check=True, stdout=subprocess.PIPE, text=True).stdout


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
        f"Pictures       {folder}/inference/overlays\n"
        f"NIfTI          {folder}/inference/maps (float32), masks; on the grid of each scan\n"
        f"DICOM          {folder}/inference_dicom/dicom (segmentation, parametric map, structured report)\n"
        f"Scores         {folder}/inference/scores.csv, slices.csv\n"
        f"Evaluation     {folder}/test/heat_maps.png, roc_pr.png, scores.png, metrics.json\n"
        f"The data       {folder}/datalist.png\n"
        f"The model      {folder}/{NAME} (what the verbs deploy, listen and label take; scans to label: studies/)\n"
        f"MLflow         {shlex.join(mlflow)}\n"
        "               then open http://127.0.0.1:5000\n"
    )


def _row(metrics: dict[str, float]) -> str:
    pixel, image, patient = (metrics[f"{kind}_auroc"] for kind in ("pixel", "image", "patient"))
    return f"{pixel:11.3f}   {image:11.3f}   {patient:13.3f}"
