"""The MONAI Deploy application: select series, score them, write results."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from holoscan.logger import LogLevel, set_log_level
from monai.deploy.core import Application

from bundle.deploy.choice import Choice, read_choice
from bundle.deploy.results import FILE, Results
from bundle.deploy.scoring import ScoreSeries
from bundle.deploy.selecting import SelectSeries
from bundle.deploy.writing import WriteResults
from scripts.predictor import Predictor


class AnomalyApplication(Application):
    """Chooses series of a study, runs a model bundle on each, and writes DICOM objects.

    Args:
        study: folder with one or several studies.
        out: folder for the results.
        choice: the rules.
        predictor: the model bundle.
        results: gathers what is told of all series.
        scratch: folder for volumes on their way to the predictor.
        secondary_capture: whether to write pictures as well.
    """

    def __init__(
        self,
        study: Path,
        out: Path,
        choice: Choice,
        predictor: Predictor,
        results: Results,
        scratch: str,
        secondary_capture: bool = False,
    ) -> None:
        self.study, self.out, self.choice, self.predictor = study, out, choice, predictor
        self.results, self.scratch, self.secondary_capture = results, scratch, secondary_capture
        super().__init__(["python", "deploy"])  # without words, the SDK would take those of the command line

    def compose(self) -> None:
        select = SelectSeries(self, name="select", study=self.study, choice=self.choice, results=self.results)
        score = ScoreSeries(self, name="score", predictor=self.predictor, folder=self.scratch, results=self.results)
        write = WriteResults(
            self,
            name="write",
            folder=self.out,
            facts=self.predictor.facts,
            results=self.results,
            secondary_capture=self.secondary_capture,
        )
        self.add_flow(select, score, {("series", "series")})
        self.add_flow(score, write, {("scored", "scored")})


def analyse(study: Path, out: Path, bundle: Path, rules: Path, secondary_capture: bool = False) -> Results:
    """Runs the application, and writes ``results.json``; arguments and errors as of ``bundle.deploy.deploy``."""
    if "HOLOSCAN_LOG_LEVEL" not in os.environ:  # what goes wrong reaches us as an exception as well
        set_log_level(LogLevel.CRITICAL)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / FILE).unlink(missing_ok=True)  # of an earlier run, which this one might not replace
        # Beside the results, for it holds images of patients and may need as much room.
        scratch = tempfile.TemporaryDirectory(prefix=".volumes-", dir=out)
    except OSError as error:
        raise OSError(f"Cannot write to {out}: {error}. Choose a folder that can be written.") from error
    with scratch as folder:
        predictor = Predictor(bundle, cache_dir=folder)
        choice, results = read_choice(rules, predictor.facts["input"]), Results(predictor.facts)
        AnomalyApplication(study, out, choice, predictor, results, folder, secondary_capture).run()
    results.write(out)
    return results
