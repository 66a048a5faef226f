"""Inference of many images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.batch_infer import BatchInferTask, run_infer_task

from bundle.label.errors import text_of

logger = logging.getLogger(__name__)


class Batches(BatchInferTask):
    """Infers images one after the other, on the device of the model; a failing one does not stop the others.

    MONAI Label's own class spreads them over GPUs, and fails where there is none.
    """

    def __call__(
        self, request: Mapping[str, Any], datastore: Datastore, infer: Callable[..., dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """Returns by image what ``infer`` returns, without its file, or ``{"error": text}``."""
        images = sorted(self.get_images(request, datastore))
        given = {"save_label": True, "label_tag": DefaultLabelTag.ORIGINAL, **request}
        results: dict[str, dict[str, Any]] = {}
        for number, image in enumerate(images[: request.get("max_batch_size") or None], 1):
            try:
                results[image] = run_infer_task({**given, "image": image}, datastore, infer)
            except Exception as error:
                logger.exception("Image %d of %d has no result", number, len(images))
                results[image] = {"error": text_of(error)}
        return results
