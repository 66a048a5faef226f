"""The operator that writes DICOM objects."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.deploy.core import Fragment, Operator, OperatorSpec

from bundle.deploy.messages import Scored
from bundle.deploy.results import Results
from scripts.dicom.derived import is_placed
from scripts.dicom.exporter import finding_of
from scripts.dicom.results import write_dicom
from scripts.dicom.volume import mask_volume

logger = logging.getLogger(__name__)


class WriteResults(Operator):
    """Writes ``<folder>/<series>/*.dcm``, see ``scripts.dicom.results.write_dicom``; older ones there are replaced.

    The SDK has no writers of parametric maps, TID 1500 reports and secondary captures.

    Input ``scored``: ``Scored``.

    Args:
        folder: of all series.
        facts: name the algorithm, see ``scripts.model.predictor.Predictor.facts``.
        results: are told scores, volumes and files.
        secondary_capture: whether to write overlays as ordinary pictures as well.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        folder: Path,
        facts: dict[str, Any],
        results: Results,
        secondary_capture: bool = False,
        **kwargs: Any,
    ) -> None:
        self.folder, self.results, self.secondary_capture = folder, results, secondary_capture
        self._algorithm = {
            "algorithm_name": str(facts["method"] or "anomaly detector"),
            "algorithm_version": facts["version"],
            "model_hash": facts["checkpoint_sha256"][:16],
            "untrained": bool(facts["untrained"]),
        }
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("scored")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """
        Raises:
            OSError: naming the file that cannot be written.
        """
        scored: Scored = op_input.receive("scored")
        volume, found, threshold = scored.volume, scored.prediction, scored.threshold
        anomaly_map = _array(found.anomaly_map)
        mask = None if threshold is None else _array(found.mask(threshold))
        outcome = {
            "anomaly_map": anomaly_map,
            "score": found.score,
            "slice_scores": found.slice_scores,
            "top_slices": found.top_slices,
            "threshold": threshold,
            "plane": found.plane,
        }
        target = self.folder / scored.name
        try:
            finding = finding_of(volume, outcome, **self._algorithm)
            capture = self.secondary_capture
            paths = write_dicom(volume, anomaly_map, mask, finding, target, secondary_capture=capture)
        except ValueError as error:  # headers that no writer accepts
            self.results.fail(scored.name, error)
            return
        for earlier in {*target.glob("*.dcm")} - {*paths}:  # of an earlier run
            earlier.unlink()
        size = None if mask is None or not is_placed(volume) else mask_volume(mask, volume)
        self.results.add(scored, size, [str(path.relative_to(self.folder)) for path in paths])
        logger.info("Written: %s", target)


def _array(tensor: torch.Tensor) -> np.ndarray:
    """(1, i, j, k) -> (i, j, k)."""
    return torch.as_tensor(tensor)[0].cpu().numpy()
