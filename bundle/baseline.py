"""Scores two baselines that train nothing on a datalist's test images: what a detector has to beat.

mean_image: absolute difference to the mean normal image; an image's score is the map's mean.
nearest_neighbours: distance of the configured teachers' features to the nearest normal one; the score is the maximum.
Images are prepared as the configs say, and the metrics are those of the evaluation.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn
from tqdm import tqdm

from scripts.baselines import Scorer, mean_image, nearest_neighbours

POOLING = {"mean_image": "mean", "nearest_neighbours": "max"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("method", choices=list(POOLING))
    parser.add_argument("--datalist", type=Path, required=True)
    parser.add_argument("--dataset_dir", type=Path, help="where the images are (default: as the datalist says)")
    parser.add_argument(
        "--config_file",
        nargs="+",
        default=["configs/train.json", "configs/evaluate.json"],
        help="as of an evaluation (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the nearest neighbours' sample (default: %(default)s)")
    parser.add_argument(
        "--set", nargs=2, action="append", default=[], metavar=("ID", "VALUE"), help="override a config"
    )


def run(args: argparse.Namespace) -> int:
    """Print the metrics as JSON."""
    given = {"datalist": str(args.datalist), "dataset_dir": args.dataset_dir and str(args.dataset_dir)}
    parser = parsed(args.config_file, given, args.set)
    metrics = evaluate(args.method, parser, args.seed)
    print(json.dumps({name: value if math.isfinite(value) else None for name, value in metrics.items()}, indent=4))
    return 0


def parsed(files: list[str], given: dict[str, Any], overrides: list[tuple[str, str]]) -> ConfigParser:
    """Gives the merged configs.

    Args:
        files: in order, the later ones on top.
        given: ids and their values.
        overrides: ids and their values as text, JSON where it is.
    """
    parser = ConfigParser(ConfigParser.load_config_files(files))
    for name, value in [*given.items(), *((name, _value(text)) for name, text in overrides)]:
        parser[name] = value
    return parser


def evaluate(method: str, config: ConfigParser, seed: int = 0) -> dict[str, float]:
    """Gives the metrics of a baseline, named as the evaluation names them; NaN for what is not defined.

    Args:
        method: a key of ``POOLING``.
        config: of an evaluation; its checkpoint is not read.
        seed: of the nearest neighbours' sample.
    """
    config["score_pooling"] = POOLING[method]
    config["validate#handlers"] = []
    config["threshold"] = None  # that of a checkpoint says nothing about a baseline's maps
    training: Any = config.get_parsed_content("train#dataset")
    images = (item["image"].as_tensor() for item in tqdm(training, "training"))
    if method == "mean_image":
        scorer = mean_image(images)
    else:
        scorer = nearest_neighbours(images, config.get_parsed_content("network_def"), seed)
    evaluator: Any = config.get_parsed_content("validate#evaluator")
    evaluator.network = _Baseline(scorer)
    evaluator.run()
    return evaluator.state.metrics


class _Baseline(nn.Module):
    """(B, 3, H, W) -> anomaly maps (B, 1, H, W), in place of a detector."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([self.scorer(image)[None] for image in images])


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
