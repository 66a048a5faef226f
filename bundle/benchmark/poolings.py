"""Writes the image AUROC of a model on its test split by each pooling of its maps, from one pass over the images.

    python -m bundle.benchmark.poolings MODEL --ranking select.json --out poolings.json

An evaluation pools in one way. This tells what each of those that `python -m bundle select` has ranked would bring.
"""

import argparse
import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.transforms import Transform
from torch import Tensor

from scripts.files import replacing
from scripts.metrics.curves import detection_curve
from scripts.model.folder import ModelFolder
from scripts.transforms import AnomalyScored, SliceLabelsd

_HANDLERS = ("Restored", "ProgressBar")  # of an evaluation, that this takes


class PooledScores(Transform):
    """Adds ``pooled``, what metrics rank by each pooling (P, n), to a scored and labelled item.

    Args:
        poolings: Poolings of the maps, see ``AnomalyScored``.
        scan_pooling: Pooling of a scan's slices.
        min_area: Smallest area of an anomalous slice's mask, see ``SliceLabelsd``.

    >>> item = {"pred": torch.tensor([0.2, 0.6]).view(1, 1, 2, 1), "image": torch.ones(3, 1, 2, 1)}
    >>> PooledScores(["max", "mean"], "max")({**item, "label": 1, "group": "anna"})["pooled"]
    tensor([[0.6000],
            [0.4000]])
    """

    def __init__(self, poolings: Sequence[str], scan_pooling: str, min_area: float = 0.0) -> None:
        # The maps are standardised and masked already.
        self.scorings = [AnomalyScored(pooling, scan_pooling) for pooling in poolings]
        self.labels = SliceLabelsd(min_area)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {
            **data,
            "pooled": torch.stack([self.labels(scoring(data))["image_scores"] for scoring in self.scorings]),
        }


def pooled_aurocs(folder: ModelFolder, poolings: Sequence[str], **values: Any) -> dict[str, float]:
    """Image AUROC of the test split by pooling.

    Args:
        folder: Model folder.
        poolings: Poolings of the maps.
        values: Config values by id.
    """
    config = folder.config("evaluate", **values, key_metric=None, additional_metrics=None)
    config["handlers"] = [one for one in config["handlers"] if one["_target_"].endswith(_HANDLERS)]
    pooled = PooledScores(poolings, config["scoring#scan_pooling"], config["min_lesion_area"])
    config["postprocessing#transforms"] = [*config["postprocessing#transforms"], pooled]
    evaluator: Any = config.get_parsed_content("evaluator")
    scores: list[Tensor] = []
    labels: list[Tensor] = []

    def collect() -> None:
        for item in evaluator.state.output:
            scores.append(item["pooled"].cpu())
            labels.append(item["image_labels"].cpu())

    evaluator.add_event_handler(Events.ITERATION_COMPLETED, collect)
    evaluator.run()
    truth = torch.cat(labels).numpy()
    rows = torch.cat(scores, 1).double().numpy()
    return {name: detection_curve(row, truth).auroc() for name, row in zip(poolings, rows, strict=True)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bundle.benchmark.poolings", description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--ranking", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    ranking = json.loads(args.ranking.read_text(encoding="utf-8"))["ranking"]
    aurocs = pooled_aurocs(ModelFolder(args.model), [row["pooling"] for row in ranking])
    with replacing(args.out) as part:
        part.write_text(json.dumps(aurocs, indent=4) + "\n", encoding="utf-8")
