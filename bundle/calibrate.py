"""Calibrates a model: thresholds that promise a rate of false alarms, and what p-values need.

    python -m bundle calibrate models/brain

Scores the normal patients of the datalist's validation split, and writes MODEL/models/calibration.json, which later
verbs read. A rate r needs at least 1 / r - 1 patients: 19 for 0.05, 199 for 0.005. What is promised holds for new
normal patients who resemble them: same scanners, protocols, population. The training must not have seen the patients:
neither slices held out of training scans (held_out) nor a split that a training was stopped by (early_stop_patience)
qualify. A calibration counts for one way of scoring alone: checkpoint, precision, runtime, pooling and pre-processing.
"""

import argparse

from bundle.model_arguments import add_model, given
from scripts.model.calibration import LEVELS
from scripts.model.folder import ModelFolder


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the verb."""
    add_model(parser, datalist=True)
    texts = {
        "scan": "promised share of normal patients with a scan above the scan threshold (default: 0.05)",
        "slice": "promised share of a normal patient's slices above the slice threshold (default: 0.05)",
        "mask": "promised share of a normal patient's foreground in the mask (default: 0.005)",
    }
    for level in LEVELS:
        parser.add_argument(f"--{level}-false-positive-rate", type=float, metavar="RATE", help=texts[level])


def run(args: argparse.Namespace) -> int:
    """Writes the calibration and logs what it promises."""
    folder = ModelFolder(args.model)
    names = [f"{level}_false_positive_rate" for level in LEVELS]
    rates = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    folder.run("calibrate", **given(args, folder), **rates)
    return 0
