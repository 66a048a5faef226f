"""Shows the way from images to heat maps on made-up head CT slices, in minutes and without any download.

Writes a phantom data set, prepares it, trains PDD on its normal images, evaluates and infers, each by the command that
you would use on your own data. The teachers are small and UNTRAINED: it shows the way, not the quality.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONFIGS = ("configs/train.json", "configs/demo.json")
TRAIN = "['configs/train.json','configs/demo.json']"
EVALUATE = "['configs/train.json','configs/evaluate.json','configs/demo.json']"
INFER = "['configs/inference.json','configs/demo.json']"


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
    datalist, ckpt = folder / "datalist.json", folder / "models" / "model.pt"
    tracking = ["--tracking_uri", f"sqlite:///{folder}/mlruns.db"]
    common = ["--ckpt_path", str(ckpt), *tracking]
    epochs = ["--epochs", str(args.epochs)] if args.epochs else []
    _step("1/5 A data set of its own", "bundle", "phantom", str(folder / "phantoms"))
    _step("2/5 Prepare it", "bundle", "prepare", str(folder / "phantoms"), "--out", str(datalist), "--modality", "CT")
    train = ["--datalist", str(datalist), "--resume_path", str(folder / "models" / "last.pt"), *common, *epochs]
    _step("3/5 Train on its normal images", "monai.bundle", "run", "training", "--config_file", TRAIN, *train)
    results = folder / "test"
    evaluate = ["--datalist", str(datalist), "--results_dir", str(results), *common]
    _step("4/5 Evaluate", "monai.bundle", "run", "evaluating", "--config_file", EVALUATE, *evaluate)
    infer = ["--input", str(datalist), "--output_dir", str(folder / "inference"), *common]
    _step("5/5 Infer", "monai.bundle", "run", "inferring", "--config_file", INFER, *infer)
    trivial = json.loads(
        _output("bundle", "baseline", "mean_image", "--datalist", str(datalist), "--config_file", *CONFIGS)
    )
    _report(folder, json.loads((results / "metrics.json").read_text())["metrics"], trivial, time.time() - started)
    return 0


def _step(title: str, module: str, *arguments: str) -> None:
    quoted = " ".join(f'"{argument}"' if "[" in argument else argument for argument in arguments)
    print(f"\n=== {title}\n$ python -m {module} {quoted}\n", flush=True)
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, env=_quiet(), check=True)


def _output(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, env=_quiet(), check=True, stdout=subprocess.PIPE, text=True).stdout


def _quiet() -> dict[str, str]:
    """Without the libraries' warnings, which a newcomer would have to read past."""
    return {**os.environ, "PYTHONWARNINGS": "ignore"}


def _report(folder: Path, pdd: dict[str, float], trivial: dict[str, float], seconds: float) -> None:
    print(
        f"\n=== Done in {seconds:.0f} s. UNTRAINED teachers on made-up images: this shows the way, not the quality.\n\n"
        f"                             image AUROC   pixel AUROC\n"
        f"PDD                          {pdd['image_auroc']:11.3f}   {pdd['pixel_auroc']:11.3f}\n"
        f"difference to mean image     {trivial['image_auroc']:11.3f}   {trivial['pixel_auroc']:11.3f}\n\n"
        f"Heat maps      {folder}/inference/overlays (pictures), {folder}/inference/maps (float32)\n"
        f"Scores         {folder}/inference/scores.csv\n"
        f"Evaluation     {folder}/test/heat_maps.png, roc_pr.png, scores.png, metrics.json\n"
        f"The data       {folder}/datalist.png\n"
        f"MLflow         {Path(sys.executable).parent}/mlflow ui --backend-store-uri sqlite:///{folder}/mlruns.db\n"
        "               then open http://127.0.0.1:5000\n"
    )
