"""The operator that runs the model bundle."""

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
    """Reads a series as a volume, and runs the model bundle on it.

    The SDK's own operators would not give the maps that ``monai.bundle run inferring`` gives. DICOMSeriesToVolume takes
    the dtype of the first slice for all, and knows neither tilt nor uneven slices. MonaiBundleInferenceOperator strips
    the bundle's reader, casts maps to uint8, and passes no scores on.

    Input ``series``: ``Selected``. Output ``scored``: ``Scored``; nothing where a series cannot be read.

    Args:
        predictor: the model bundle.
        folder: for volumes on their way to the predictor, as safe as the data.
        results: are told what is unreadable.
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
        """
        Raises:
            OSError: if there is no room for the volume.
        """
        selected: Selected = op_input.receive("series")
        try:
            volume = read_series(selected.series)
            plane = self.predictor.facts["input"]["plane"]
            scan = converted_volume(volume, selected.series, self.folder, plane)
            prediction = self.predictor(scan)
            Path(scan).unlink()
        except ValueError as error:
            self.results.fail(selected.name, error)
            return
        op_output.emit(Scored(selected.name, volume, prediction, self.predictor.threshold()), "scored")
