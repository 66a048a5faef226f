"""Brings the results of an inference back to where DICOM series came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scripts.dicom.nifti import write_nifti
from scripts.dicom.results import on_series, write_dicom
from scripts.dicom.series import Series, read_series
from scripts.dicom.volume import resample_evenly
from scripts.model.algorithm import Algorithm
from scripts.results.result import Result


class DicomExporter:
    """Writes ``dicom/NAME/`` for each DICOM series, and its map and mask as NIfTI on an even grid.

    It is the exporter of ``scripts.results.inference.InferenceResults``.

    Args:
        series: Series that were scored, by the NIfTI file that stands for each.
        algorithm: Name of the model in the DICOM objects.
        secondary_capture: Whether to write overlays as ordinary pictures too, for a PACS that shows nothing else.
    """

    def __init__(self, series: Mapping[str, Series], algorithm: Algorithm, secondary_capture: bool = False) -> None:
        self.series, self.algorithm, self.secondary_capture = series, algorithm, secondary_capture

    def takes(self, image: str) -> bool:
        """Whether a scored file stands for a series."""
        return image in self.series

    def write(self, image: str, name: str, folder: Path, result: Result) -> dict[str, str]:
        """Writes the results of one series.

        Args:
            image: NIfTI file that stands for the series.
            name: Name of the series in the results.
            folder: Folder of all results.
            result: Result of the NIfTI file, with its map.

        Returns:
            What was written, by its kind: paths within ``folder``.

        Raises:
            ValueError: If a number of the result is not finite, or the series cannot be referred to in DICOM; names
                what it lacks.
        """
        volume = read_series(self.series[image])
        found = on_series(result, volume)
        written = {}
        for kind, array, order in (("map", found.anomaly_map, 1), ("mask", found.mask, 0)):
            if array is not None:
                written[kind] = f"{kind}s/{name}.nii.gz"
                write_nifti(*resample_evenly(np.asarray(array), volume, order), folder / written[kind])
        target = folder / "dicom" / name
        for earlier in target.glob("overlay_*.dcm"):  # of other slices, in an earlier run
            earlier.unlink()
        write_dicom(volume, found, self.algorithm, target, secondary_capture=self.secondary_capture)
        return {**written, "dicom": f"dicom/{name}"}
