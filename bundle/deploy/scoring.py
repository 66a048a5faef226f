"""The operator that runs the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from bundle.deploy.messages import Scored, Selected
from bundle.deploy.results import Results
from scripts.dicom.conversion import converted_volume
from scripts.dicom.series import read_series
from scripts.model.predictor import Predictor


class ScoreSeries(Operator):
    """Reads a series as a volume, and runs the model on it.

    The SDK's own operators would not make the maps of an inference. DICOMSeriesToVolume takes the dtype of the first
    slice for all, and knows neither tilt nor uneven slices. MonaiBundleInferenceOperator strips the model's reader,
    casts maps to uint8, and passes no scores on.

    Input ``series``: ``Selected``. Output ``scored``: ``Scored``; nothing where a series cannot be read.

    Args:
        predictor: Predictor of the model folder.
        folder: Folder for volumes on their way to the predictor, as safe as the data.
        results: Record of all series, which is told what is unreadable.
    """

    def __init__(
        self, fragment: Fragment, *args: Any, predictor: Predictor, folder: str, results: Results, **kwargs: Any
    ) -> None:
        self.predictor, self.folder, self.results = predictor, folder, results
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("series")
        spec.output("scored")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Scores one series.

        Raises:
            OSError: If there is no room for the volume.
        """
        selected: Selected = op_input.receive("series")
        try:
            volume = read_series(selected.series)
            scan = converted_volume(volume, selected.series, self.folder, self.predictor.plane)
            result = self.predictor(scan)
            Path(scan).unlink()
        except ValueError as error:
            self.results.fail(selected.name, error)
            return
        op_output.emit(Scored(selected.name, volume, result), "scored")
