"""Shows the way from scans to anomaly maps on made-up head CT, in minutes and without any download.

Writes phantom volumes (NIfTI, and one of them as a DICOM series too), prepares them, trains PDD and a memory on the
normal ones, calibrates, evaluates and infers, each by the command that you would use on your own data. The teachers are
light ones with ImageNet weights, which pip has installed.
"""

import argparse
import json
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from bundle.baseline import evaluate as evaluate_baseline
from scripts.model.command import training_workflow

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
PDD = ("configs/train.json", "configs/data/ct.json", "configs/teachers/light.json", "configs/demo.json")
MEMORY = (*PDD, "configs/methods/memory.json")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the verb."""
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo"), help="new folder (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="of PDD's training (default: as configs/demo.json says)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the phantoms (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Runs every step as a user would, then prints scores, baseline and where to look."""
    folder: Path = args.folder.resolve()
    if folder.exists():
        raise FileExistsError(f"{folder}: exists from an earlier demo. Remove it (make clean), or name another folder.")
    started = time.time()
    folder.mkdir(parents=True)
    phantoms, datalist, model = str(folder / "phantoms"), str(folder / "datalist.json"), str(folder / "model")
    memory, cache = str(folder / "memory"), ["--cache-dir", f"{folder}/cache"]
    given = {"datalist": datalist, "cache_dir": f"{folder}/cache", "tracking_uri": f"sqlite:///{folder}/mlruns.db"}
    of_pdd = {"epochs": args.epochs} if args.epochs else {}
    seed = ["--seed", str(args.seed)]
    _step("1/8 A data set of its own", "phantom", phantoms, *_PHANTOMS, *seed)
    _step("2/8 Prepare it", "prepare", phantoms, "--out", datalist, "--modality", "CT", "--layout", "nifti", *_SPLIT)
    _train("3/8 Train PDD on the slices of its normal scans", PDD, {**given, "model_dir": model, **of_pdd})
    _step("4/8 Calibrate on normal scans that it was not trained on", "calibrate", model, *cache, *_RATES)
    _step("5/8 Evaluate", "evaluate", model, *cache)
    _step("6/8 Infer the scans of the test split", "infer", model, datalist, "-o", f"{folder}/inference", *cache)
    dicom = ["infer", model, f"{phantoms}/dicom", "-o", f"{folder}/inference_dicom", *cache]
    _step("7/8 Infer a DICOM series", *dicom)
    _train("8/8 Build a memory, in seconds, and evaluate it", MEMORY, {**given, "model_dir": memory})
    _step("", "evaluate", memory, *cache)
    _studies(json.loads(Path(datalist).read_text(encoding="utf-8")), Path(phantoms), folder / "studies")
    values = {name: given[name] for name in ("datalist", "cache_dir")}
    found = {"PDD": _metrics(model), "memory": _metrics(memory)}
    found["difference to mean image"] = evaluate_baseline("mean_image", [str(ROOT / one) for one in PDD], values)
    _report(folder, found, time.time() - started)
    return 0


def _studies(datalist: dict[str, Any], phantoms: Path, studies: Path) -> None:
    """Copies the scans of the test split as MONAI Label takes them: each under a name of its own, without masks."""
    studies.mkdir()
    for item in datalist["test"]:
        scan = phantoms / item["image"]
        shutil.copy(scan, studies / f"{scan.parent.name}.nii.gz")


def _step(title: str, verb: str, *options: str) -> None:
    """Runs a verb in this process, as importing its libraries takes longer than most verbs do.

    Raises:
        RuntimeError: If it fails; it has said why.
    """
    from bundle.__main__ import main

    _announce(title, "bundle", verb, *options)
    if main([verb, *options]):
        raise RuntimeError(f"{verb} failed")


def _train(title: str, files: tuple[str, ...], values: dict[str, Any]) -> None:
    options = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    configs = "[" + ",".join(f"'{config}'" for config in files) + "]"
    _announce(title, "monai.bundle", "run", "training", "--config_file", configs, *options)
    workflow = training_workflow([str(ROOT / config) for config in files], bundle_root=str(ROOT), **values)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def _announce(title: str, module: str, *arguments: str) -> None:
    quoted = " ".join(f'"{argument}"' if "'" in argument else shlex.quote(argument) for argument in arguments)
    print(
        f"\n=== {title}\n$ python -m {module} {quoted}\n" if title else f"\n$ python -m {module} {quoted}\n", flush=True
    )


def _metrics(model: str) -> dict[str, float]:
    return json.loads((Path(model) / "eval" / "test" / "metrics.json").read_text(encoding="utf-8"))["metrics"]


def _report(folder: Path, found: dict[str, dict[str, float]], seconds: float) -> None:
    mlflow = [f"{Path(sys.executable).parent}/mlflow", "ui", "--backend-store-uri", f"sqlite:///{folder}/mlruns.db"]
    rows = "".join(f"{name:29}{_row(metrics)}\n" for name, metrics in found.items())
    print(
        f"\n=== Done in {seconds:.0f} s, on made-up scans.\n\n"
        f"                             pixel AUROC   slice AUROC   patient AUROC\n"
        f"{rows}\n"
        f"Verdicts       {folder}/inference/scores.csv, slices.csv\n"
        f"Pictures       {folder}/inference/overlays\n"
        f"NIfTI          {folder}/inference/maps (float32), masks; on the grid of each scan\n"
        f"DICOM          {folder}/inference_dicom/dicom (segmentation, parametric map, structured report)\n"
        f"Evaluation     {folder}/model/eval/test/heat_maps.png, roc_pr.png, scores.png, metrics.json\n"
        f"The data       {folder}/datalist.png\n"
        f"The models     {folder}/model (what every verb takes; scans to label: studies/), {folder}/memory\n"
        f"MLflow         {shlex.join(mlflow)}\n"
        "               then open http://127.0.0.1:5000\n"
    )


def _row(metrics: dict[str, float]) -> str:
    pixel, image, patient = (metrics[f"{kind}_auroc"] for kind in ("pixel", "image", "patient"))
    return f"{pixel:11.3f}   {image:11.3f}   {patient:13.3f}"
