"""Brings the results of an inference back to where DICOM series came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scripts.data.planes import plane_axis
from scripts.dicom.finding import Finding
from scripts.dicom.nifti import write_nifti
from scripts.dicom.results import write_dicom
from scripts.dicom.series import Series, read_series
from scripts.dicom.volume import Volume, resample_evenly
from scripts.files import file_sha256
from scripts.model.provenance import Provenance
from scripts.networks.detector import Detector

_METADATA = Path(__file__).parents[2] / "configs" / "metadata.json"


class DicomExporter:
    """Writes for each DICOM series ``dicom/NAME/``: segmentation, anomaly map and report, and the map and mask as NIfTI
    on an even grid of the series, as ``scripts.results.InferenceResults`` asks its exporter to.

    Args:
        series: those that were scored, by the NIfTI that stands for them.
        network, provenance: name the algorithm.
        checkpoint: whose hash identifies the weights.
        secondary_capture: whether to write overlays as ordinary pictures too, for a PACS that shows nothing else.
    """

    def __init__(
        self,
        series: Mapping[str, Series],
        network: Detector,
        provenance: Provenance,
        checkpoint: str | Path,
        secondary_capture: bool = False,
    ) -> None:
        self.series, self.network, self.provenance = series, network, provenance
        self.checkpoint, self.secondary_capture = Path(checkpoint), secondary_capture

    def takes(self, image: str) -> bool:
        """Says whether a scored file stands for a series."""
        return image in self.series

    def write(self, image: str, name: str, folder: Path, outcome: Mapping[str, Any]) -> dict[str, str]:
        """Writes the results of one series.

        Args:
            image: the NIfTI that stands for it.
            name: of the series in the results.
            folder: of all results.
            outcome: ``anomaly_map`` and ``mask`` or None (i, j, k), ``score``, ``slice_scores`` and ``top_slices`` of
                ``plane``, ``threshold`` or None.

        Returns:
            What was written, by its kind: paths within ``folder``.

        Raises:
            ValueError: if the series cannot be referred to in DICOM; names what it lacks.
        """
        volume = read_series(self.series[image])
        written = {}
        for kind, order in (("anomaly_map", 1), ("mask", 0)):
            if outcome[kind] is not None:
                key = kind.removeprefix("anomaly_")
                written[key] = f"{key}s/{name}.nii.gz"
                write_nifti(*resample_evenly(outcome[kind], volume, order), folder / written[key])
        target = folder / "dicom" / name
        for earlier in target.glob("overlay_*.dcm"):  # of other slices, in an earlier run
            earlier.unlink()
        finding = self._finding(volume, outcome)
        capture = self.secondary_capture
        write_dicom(volume, outcome["anomaly_map"], outcome["mask"], finding, target, secondary_capture=capture)
        return {**written, "dicom": f"dicom/{name}"}

    @cached_property
    def _model_hash(self) -> str:
        return file_sha256(self.checkpoint)[:16]

    def _finding(self, volume: Volume, outcome: Mapping[str, Any]) -> Finding:
        return finding_of(
            volume,
            outcome,
            algorithm_name=str(self.provenance.facts.get("method", "anomaly detector")),
            algorithm_version=json.loads(_METADATA.read_text())["version"],
            model_hash=self._model_hash,
            untrained=bool(self.network.untrained_teachers()),
        )


def finding_of(volume: Volume, outcome: Mapping[str, Any], **algorithm: Any) -> Finding:
    """Gives what was found in a series, its slices counted as the series has them.

    Args:
        volume: the series.
        outcome: see ``DicomExporter.write``.
        algorithm: the fields of ``Finding`` that name it.
    """
    axis, count, reverse = plane_axis(volume.affine, volume.array.shape, outcome["plane"])
    scores, top = list(outcome["slice_scores"]), list(outcome["top_slices"])
    if axis != 2:  # looked at across the slices of the series
        scores = outcome["anomaly_map"].max(axis=(0, 1)).tolist()
        top = np.argsort(scores)[::-1][: len(top)].tolist()
    elif reverse:
        scores, top = scores[::-1], [count - 1 - number for number in top]
    return Finding(
        anomaly_score=float(outcome["score"]),
        threshold=outcome["threshold"],
        slice_scores=scores,
        top_slices=[int(number) for number in top],
        **algorithm,
    )
