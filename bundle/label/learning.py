"""Active learning: which image a reader looks at next."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

from bundle.label.errors import NotCalibratedError, NotScoredError
from bundle.label.options import identity
from scripts.model.predictor import Predictor

logger = logging.getLogger(__name__)

SCORE = "score"  # keys of the information on an image
P_VALUE = "p_value"
TOP_SLICE = "top_slice"
NORMAL = "normal"  # true where a reader found nothing
_SCORED_BY = "anomaly_model"


class AnomalyScoring(ScoringMethod):
    """Puts the verdict and the top slice of every unlabelled image into its information in the datastore."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__("Anomaly score, verdict and top slice of every unlabelled image")
        self.predictor = predictor

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, int]:
        """Scores what this checkpoint and calibration have not scored yet.

        An image that cannot be scored does not stop the others.

        Returns:
            Numbers of images: ``{"scored", "failed", "up_to_date"}``.
        """
        counts = {"scored": 0, "failed": 0, "up_to_date": 0}
        for image in sorted(datastore.get_unlabeled_images()):
            model = identity(self.predictor)
            if datastore.get_image_info(image).get(_SCORED_BY) == model:
                counts["up_to_date"] += 1
                continue
            try:
                path = datastore.get_image_uri(image)
                found = self.predictor(path)
            except Exception:
                logger.exception("An image cannot be scored")
                counts["failed"] += 1
                continue
            scores = {**found.verdict(), TOP_SLICE: found.top_slices[0]}
            datastore.update_image_info(image, scores | {_SCORED_BY: model})
            counts["scored"] += 1
        return counts


class MostAnomalous(Strategy):
    """Chooses the image with the highest anomaly score, of those that no reader has labelled or marked as normal."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__("The image with the highest anomaly score")
        self.predictor = predictor

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Returns ``{"id"}``, None where readers have seen all images.

        Raises:
            NotScoredError: If no image that is left has a score.
        """
        scores = _known(datastore, SCORE, self.predictor)
        return {"id": max(sorted(scores), key=lambda image: scores[image])} if scores else None


class MostUncertain(Strategy):
    """Chooses the image whose p-value is nearest to the calibrated false-positive rate of scans, of the same images."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__("The image whose p-value is nearest to the promised false-positive rate")
        self.predictor = predictor

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Returns ``{"id"}``, None where readers have seen all images.

        Raises:
            NotCalibratedError: If the model has no p-values.
            NotScoredError: If no image that is left has a p-value.
        """
        rate = self.predictor.calibration.rates.get("scan")
        if rate is None:
            raise NotCalibratedError("The model is not calibrated, so there are no p-values. Choose most_anomalous.")
        values = _known(datastore, P_VALUE, self.predictor)
        return {"id": min(sorted(values), key=lambda image: abs(values[image] - rate))} if values else None


class AnyUnseen(Strategy):
    """Draws one of the images that no reader has labelled or marked as normal, of those not offered for longest."""

    def __init__(self) -> None:
        super().__init__("Any image that no reader has seen")

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Returns ``{"id"}``, None where readers have seen all images."""
        offered = {
            image: info.get("strategy", {}).get("random", {}).get("ts", 0)  # MONAI Label notes seconds there
            for image, info in _unseen(datastore).items()
        }
        earliest = min(offered.values(), default=0)
        longest = [image for image, when in offered.items() if when == earliest]
        return {"id": random.choice(longest)} if longest else None


def _unseen(datastore: Datastore) -> dict[str, dict[str, Any]]:
    """Information on the images that no reader has labelled or marked as normal, by image."""
    infos = {image: datastore.get_image_info(image) for image in datastore.get_unlabeled_images()}
    return {image: info for image, info in infos.items() if info.get(NORMAL) is not True}


def _known(datastore: Datastore, name: str, predictor: Predictor) -> dict[str, float]:
    """Values that the model in use has noted of images that no reader has seen, by image."""
    infos = _unseen(datastore)
    current = identity(predictor)
    known = {
        image: float(info[name])
        for image, info in infos.items()
        if info.get(_SCORED_BY) == current and info.get(name) is not None
    }
    if infos and not known:
        raise NotScoredError("The model has not scored these yet: POST /scoring/anomaly and ask again once it is done.")
    return known
