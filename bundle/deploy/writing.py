"""The operator that writes DICOM objects."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from monai.deploy.core import Fragment, Operator, OperatorSpec

from bundle.deploy.messages import Scored
from bundle.deploy.results import Results
from scripts.dicom.derived import is_placed
from scripts.dicom.results import on_series, write_dicom
from scripts.dicom.volume import mask_volume
from scripts.model.algorithm import Algorithm

logger = logging.getLogger(__name__)


class WriteResults(Operator):
    """Writes ``<folder>/<series>/*.dcm``, see ``scripts.dicom.results.write_dicom``; older ones there are replaced.

    The SDK has no writers of parametric maps, TID 1500 reports and secondary captures.

    Input ``scored``: ``Scored``.

    Args:
        folder: Folder of all series.
        algorithm: Name of the model in the DICOM objects.
        results: Record of all series, which is told verdicts, volumes and files.
        secondary_capture: Whether to write overlays as ordinary pictures as well.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        folder: Path,
        algorithm: Algorithm,
        results: Results,
        secondary_capture: bool = False,
        **kwargs: Any,
    ) -> None:
        self.folder, self.algorithm = folder, algorithm
        self.results, self.secondary_capture = results, secondary_capture
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("scored")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Writes the objects of one series.

        Raises:
            OSError: If a file cannot be written; names it.
        """
        scored: Scored = op_input.receive("scored")
        volume, target = scored.volume, self.folder / scored.name
        try:
            found = on_series(scored.result, volume)
            paths = write_dicom(volume, found, self.algorithm, target, secondary_capture=self.secondary_capture)
        except ValueError as error:  # numbers or headers that no writer accepts
            self.results.fail(scored.name, error)
            return
        for earlier in {*target.glob("*.dcm")} - {*paths}:  # of an earlier run
            earlier.unlink()
        measured = found.mask is not None and is_placed(volume)
        size = mask_volume(np.asarray(found.mask), volume) if measured else None
        self.results.add(scored, size, [str(path.relative_to(self.folder)) for path in paths])
        logger.info("Written: %s", target)
