"""The MONAI Deploy application: select series, score them, write results."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from holoscan.logger import LogLevel, set_log_level
from monai.deploy.core import Application

from bundle.deploy.choice import Choice, read_choice
from bundle.deploy.results import FILE, Results
from bundle.deploy.scoring import ScoreSeries
from bundle.deploy.selecting import SelectSeries
from bundle.deploy.writing import WriteResults
from scripts.model.predictor import Predictor


class AnomalyApplication(Application):
    """Chooses series of a study, runs a model on each, and writes DICOM objects.

    Args:
        study: Folder with one or several studies.
        out: Folder for the results.
        choice: Rules that choose series.
        predictor: The model.
        results: Summary of all series.
        scratch: Folder for volumes on their way to the predictor.
        secondary_capture: Whether to write pictures as well.
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
            algorithm=self.predictor.algorithm,
            results=self.results,
            secondary_capture=self.secondary_capture,
        )
        self.add_flow(select, score, {("series", "series")})
        self.add_flow(score, write, {("scored", "scored")})


def analyse(model: Path, study: Path, out: Path, rules: Path, secondary_capture: bool = False) -> Results:
    """Runs the application, and writes ``results.json``; arguments and errors as of ``bundle.deploy.deploy``."""
    if "HOLOSCAN_LOG_LEVEL" not in os.environ:  # what goes wrong reaches us as an exception as well
        set_log_level(LogLevel.CRITICAL)
    with _owned(out) as folder:
        predictor = Predictor(model, cache_dir=folder)
        choice, results = read_choice(rules, predictor.modality, predictor.plane), Results(predictor.facts)
        AnomalyApplication(study, out, choice, predictor, results, str(folder), secondary_capture).run()
        if results.waiting:  # the SDK ends its graph at a signal, and says nothing
            raise RuntimeError(
                f"Ended by a signal: {len(results.waiting)} of the chosen series have no results. Run it again."
            )
        for name in results.unreadable:
            for earlier in (out / name).glob("*.dcm"):  # of another run, would pass for what was found in this one
                earlier.unlink()
        results.write(out)
    return results


@contextmanager
def _owned(out: Path) -> Iterator[Path]:
    """Keeps ``out`` from other runs, and gives an empty folder in it for volumes on their way.

    Those are beside the results, as they are images of patients and may need as much room. What a killed run has left
    there goes.
    """
    scratch, lock = out / ".volumes", FileLock(out / ".lock", blocking=False)
    with ExitStack() as at_the_end:
        try:
            out.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            at_the_end.callback(lock.release)
            at_the_end.callback(Path(lock.lock_file).unlink, missing_ok=True)
            (out / FILE).unlink(missing_ok=True)  # of an earlier run, which this one might not replace
            if scratch.exists():
                shutil.rmtree(scratch)
            scratch.mkdir(mode=0o700)
            at_the_end.callback(shutil.rmtree, scratch)
        except Timeout as error:
            raise RuntimeError(f"Another run writes to {out}: wait for its end, or choose another folder.") from error
        except OSError as error:
            raise OSError(f"Cannot write to {out}: {error}. Choose a folder that can be written.") from error
        yield scratch
