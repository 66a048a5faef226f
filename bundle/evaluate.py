"""Evaluates a model on the test split of its datalist: metrics, curves, heat maps, an MLflow run.

    python -m bundle evaluate models/brain         then: python -m bundle report models/brain

Every scan or image is scored, each on its own grid. Writes MODEL/eval/test: metrics.json (with false alarms promised
and observed), scores.csv, slices.csv, detections.csv, pixels.npz, curves, best and worst cases; and the scores into the
model card, MODEL/docs/README.md.
"""

import argparse
from pathlib import Path

from bundle.model_arguments import add_model, given
from scripts.model.folder import ModelFolder


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the verb."""
    add_model(parser, datalist=True)
    parser.add_argument(
        "-o", "--output-dir", type=Path, metavar="DIR", help="folder of the results (default: MODEL/eval/test)"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the evaluation, and prints its metrics."""
    folder = ModelFolder(args.model)
    evaluator = folder.run("evaluate", **given(args, folder)).parser.get_parsed_content("evaluator")
    for name, value in sorted(evaluator.state.metrics.items()):
        print(f"{name:28} {value:.4f}")
    return 0
