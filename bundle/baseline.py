"""Scores a baseline that trains nothing on a datalist's test images: what a detector has to beat.

mean_image: absolute difference to the mean normal image; an image's score is the map's mean.
Images are prepared as the training's configs say, and the metrics are those of the evaluation:

    python -m bundle baseline mean_image --config-file configs/train.json configs/data/ct.json --datalist datalist.json
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from tqdm import tqdm

from scripts.model.command import merged, value_of
from scripts.model.configs import folder_configs
from scripts.model.provenance import Provenance

POOLING = {"mean_image": "mean"}  # of the names of the baselines
_OF_A_MODEL = ("Restored", "EvaluatedCard")  # handlers that a baseline has no files for


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the verb."""
    parser.add_argument("method", choices=list(POOLING))
    parser.add_argument("--datalist", type=Path, metavar="FILE", help="default: as the configs say")
    parser.add_argument("--dataset-dir", type=Path, metavar="DIR", help="where the images are")
    files = ["configs/train.json"]
    parser.add_argument("--config-file", nargs="+", default=files, metavar="FILE", help="train.json and its overlays")
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("ID", "VALUE"), help="override a value")
    parser.add_argument("--results-dir", type=Path, metavar="DIR", help="folder of the evaluation, and an MLflow run")


def run(args: argparse.Namespace) -> int:
    """Prints the metrics as JSON."""
    values: dict[str, Any] = {name: value_of(text) for name, text in args.set}
    given = {"datalist": args.datalist, "dataset_dir": args.dataset_dir}
    values |= {name: str(path) for name, path in given.items() if path is not None}
    metrics = evaluate(args.method, args.config_file, values, args.results_dir)
    print(json.dumps({name: value if math.isfinite(value) else None for name, value in metrics.items()}, indent=4))
    return 0


def evaluate(
    method: str, files: list[str], values: dict[str, Any], results_dir: Path | None = None
) -> dict[str, float]:
    """Metrics of a baseline, named as the evaluation names them; NaN for what is not defined.

    Args:
        method: Key of ``POOLING``.
        files: ``configs/train.json`` and its overlays.
        values: Values by id, over the files.
        results_dir: Folder of the evaluation's files; None writes none, and no MLflow run.
    """
    trained = merged(files, {**values, "reference": None, "scoring#pooling": POOLING[method]})
    training = ConfigParser(trained)
    training["device"] = "$torch.device('cpu')"
    training["network_def"] = {"_target_": "scripts.networks.baselines.MeanImage"}
    network: Any = training.get_parsed_content("network_def")
    dataset: Any = training.get_parsed_content("train#dataset")
    network.fit(item["image"].as_tensor() for item in tqdm(dataset, "training"))
    remembered = {name: training.get_parsed_content(name) for name in ("datalist", "dataset_dir", "tracking_uri")}
    config = ConfigParser(folder_configs(trained, remembered)["evaluate.json"])
    named = trained["model_folder"]["provenance"]["method"]
    named = method.replace("_", " ") if named.startswith("$") else named  # unless it has been given a name of its own
    facts = Provenance(remembered["datalist"], method=named, seed=training.get_parsed_content("seed"))
    facts.facts["mlflow_run_name"] = trained["run_name"] or facts.run_name
    handlers = [] if results_dir is None else config["handlers"]
    config["handlers"] = [one for one in handlers if not one["_target_"].endswith(_OF_A_MODEL)]
    more = {"network_def": network, "device": "$torch.device('cpu')", "provenance": facts}
    more |= {"calibration#path": "", "calibration#scorer": None}  # a trained model's says nothing of these maps
    more |= {"cache_dir": training.get_parsed_content("cache_dir"), "run_name": trained["run_name"]}
    more["tracking#parent_run_id"] = training["tracking#parent_run_id"]
    config.update(more | ({} if results_dir is None else {"output_dir": str(results_dir)}))
    evaluator: Any = config.get_parsed_content("evaluator")
    evaluator.run()
    return evaluator.state.metrics
