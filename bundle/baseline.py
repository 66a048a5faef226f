"""Score two baselines that train nothing on a datalist's test images: what a detector has to beat.

mean_image: absolute difference to the mean normal image; an image's score is the map's mean.
nearest_neighbours: distance of the configured teachers' features to the nearest normal one; the score is the maximum.
Images are prepared as the configs say, and the metrics are those of the evaluation.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from tqdm import tqdm

from bundle.configured import add_options, given, parsed

BASELINES: dict[str, dict[str, Any]] = {
    "mean_image": {"score_pooling": "mean", "network_def": {"_target_": "scripts.networks.baselines.MeanImage"}},
    "nearest_neighbours": {"score_pooling": "max"},
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("method", choices=list(BASELINES))
    parser.add_argument("--datalist", type=Path, help="default: as the configs say")
    parser.add_argument("--dataset_dir", type=Path, help="where the images are (default: as the datalist says)")
    add_options(parser, ["configs/train.json", "configs/evaluate.json"], "an evaluation")
    parser.add_argument("--seed", type=int, default=0, help="of the nearest neighbours' sample (default: %(default)s)")
    parser.add_argument("--results_dir", type=Path, help="write the evaluation's files there and an MLflow run")


def run(args: argparse.Namespace) -> int:
    """Print the metrics as JSON."""
    parser = parsed(args.config_file, given(args, "datalist", "dataset_dir"), args.set)
    metrics = evaluate(args.method, parser, args.seed, args.results_dir)
    print(json.dumps({name: value if math.isfinite(value) else None for name, value in metrics.items()}, indent=4))
    return 0


def evaluate(method: str, config: ConfigParser, seed: int = 0, results_dir: Path | None = None) -> dict[str, float]:
    """Gives the metrics of a baseline, named as the evaluation names them; NaN for what is not defined.

    Args:
        method: a key of ``BASELINES``.
        config: of an evaluation; its checkpoint is not read.
        seed: of the nearest neighbours' sample.
        results_dir: where the evaluation's files go; None writes none, and no MLflow run.
    """
    if method == "nearest_neighbours":
        nearest = {
            "_target_": "scripts.networks.baselines.NearestNeighbours",
            "detector": config["network_def"],
            "seed": seed,
        }
        config["network_def"] = nearest
    for name, value in BASELINES[method].items():
        config[name] = value
    config["seed"], config["device"] = seed, "$torch.device('cpu')"
    if config["method"] == "PDD":  # unless it has been given a name of its own
        config["method"] = method.replace("_", " ")
    config["calibration#path"] = ""  # that of a trained model says nothing about a baseline's maps
    kept = [] if results_dir is None else [h for h in config["validate#handlers"] if "Checkpoint" not in h["_target_"]]
    config["validate#handlers"] = kept
    if results_dir is not None:
        config["results_dir"] = str(results_dir)
    training: Any = config.get_parsed_content("train#dataset")
    network: Any = config.get_parsed_content("network_def")
    network.fit(item["image"].as_tensor() for item in tqdm(training, "training"))
    evaluator: Any = config.get_parsed_content("validate#evaluator")
    evaluator.run()
    return evaluator.state.metrics
