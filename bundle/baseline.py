"""Scores two baselines that train nothing on a datalist's test images: what a detector has to beat.

mean_image: absolute difference to the mean normal image; the image's score is the map's mean.
nearest_neighbours: distance of the configured teachers' features to the nearest normal one; the score is the maximum.
Images are prepared as the configs say, and the metrics are those of the evaluation.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser
from tqdm import tqdm

from scripts.anomaly_map import anomaly_score
from scripts.baselines import mean_image, nearest_neighbours
from scripts.data.datalist import has_masks, load_items, load_test_items
from scripts.metrics.curves import detection_curve, detection_metrics

POOLING = {"mean_image": "mean", "nearest_neighbours": "max"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("method", choices=list(POOLING))
    parser.add_argument("--datalist", type=Path, required=True)
    parser.add_argument("--dataset_dir", type=Path, help="where the images are (default: as the datalist says)")
    parser.add_argument(
        "--config_file", nargs="+", default=["configs/train.json"], help="as in training (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the nearest neighbours' sample (default: %(default)s)")
    parser.add_argument(
        "--set", nargs=2, action="append", default=[], metavar=("ID", "VALUE"), help="override a config"
    )


def run(args: argparse.Namespace) -> int:
    """Print the metrics as JSON."""
    parser = ConfigParser(ConfigParser.load_config_files(args.config_file))
    for name, value in args.set:
        parser[name] = _value(value)
    print(json.dumps(evaluate(args.method, parser, args.datalist, args.dataset_dir, args.seed), indent=4))
    return 0


def evaluate(
    method: str, config: ConfigParser, datalist: Path, dataset_dir: Path | None = None, seed: int = 0
) -> dict[str, float]:
    """Gives the metrics of a baseline, named as the evaluation names them; pixel metrics without AUPRO.

    Args:
        method: a key of ``POOLING``.
        config: with ``preprocessing`` and ``network_def``, as a training's.
        datalist, dataset_dir: see ``load_items``.
        seed: of the nearest neighbours' sample.
    """
    preprocessing: Any = config.get_parsed_content("preprocessing")
    training, test = load_items(datalist, "training", dataset_dir), load_test_items(datalist, dataset_dir)
    images = (preprocessing({"image": item["image"]})["image"].as_tensor() for item in tqdm(training, "training"))
    if method == "mean_image":
        scorer = mean_image(images)
    else:
        scorer = nearest_neighbours(images, config.get_parsed_content("network_def"), seed)
    maps, masks, labels = [], [], np.array([item["label"] for item in test])
    for item in tqdm(test, "test"):
        loaded = preprocessing({key: item[key] for key in ("image", "mask") if key in item})
        maps.append(scorer(loaded["image"].as_tensor()))
        masks.append(loaded["mask"][0].numpy() if "mask" in item else np.zeros(maps[-1].shape))
    scores = np.array([float(anomaly_score(map_[None, None], POOLING[method])) for map_ in maps])
    metrics = {f"image_{name}": value for name, value in detection_metrics(scores, labels).items()}
    if has_masks(test):
        curve = detection_curve(np.concatenate([map_.numpy().ravel() for map_ in maps]), np.concatenate(masks).ravel())
        metrics |= {"pixel_auroc": curve.auroc(), "pixel_ap": curve.average_precision()}
    return metrics


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
