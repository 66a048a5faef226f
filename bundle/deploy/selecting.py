"""The operator that chooses series."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from holoscan.conditions import BooleanCondition
from monai.deploy.core import Fragment, Operator, OperatorSpec

from bundle.deploy.choice import Choice
from bundle.deploy.messages import Selected
from bundle.deploy.results import Results
from scripts.dicom.series import find_series

logger = logging.getLogger(__name__)


class SelectSeries(Operator):
    """Finds the DICOM series below a folder, and emits those that the rules choose, one a tick.

    The SDK's DICOMDataLoaderOperator and DICOMSeriesSelectorOperator take all that shares a SeriesInstanceUID for one
    series, and end at the first damaged file. ``find_series`` splits it by echo, time point and the like, and goes on.

    Output ``series``: ``Selected``.

    Args:
        study: Folder of DICOM files.
        choice: Rules by which series are chosen.
        results: Record of all series, which is told what is left out or unreadable.
    """

    def __init__(
        self, fragment: Fragment, *args: Any, study: Path, choice: Choice, results: Results, **kwargs: Any
    ) -> None:
        self.study, self.choice, self.results = study, choice, results
        self._waiting: list[Selected] | None = None
        self._more = BooleanCondition(fragment, name="more")
        super().__init__(fragment, self._more, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.output("series")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Emits the next chosen series.

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If there is no DICOM in it.
        """
        if self._waiting is None:
            self._waiting = self._choose()
        if self._waiting:
            op_output.emit(self._waiting.pop(0), "series")
        if not self._waiting:
            self._more.disable_tick()

    def _choose(self) -> list[Selected]:
        found = find_series(self.study)
        # macOS leaves ._NAME.dcm beside the files it copies.
        refused = {path: reason for path, reason in found.refused.items() if not Path(path).name.startswith(".")}
        if not found.series and not refused:
            raise ValueError(f"{self.study} holds no DICOM file.")
        for path, reason in refused.items():
            self.results.refuse(path, reason)
        chosen, left_out = self.choice.choose(found.series)
        for name, reason in left_out.items():
            self.results.leave_out(name, reason)
        self.results.chosen = set(chosen)
        logger.info("%d of %d series are scored.", len(chosen), len(found.series))
        return [Selected(name, series) for name, series in chosen.items()]
