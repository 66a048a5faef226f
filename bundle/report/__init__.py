"""Reports on evaluations as one page that needs nothing else: tables, curves, cases and what must not be concluded.

A run is a model folder, which keeps its evaluation in eval/test, or another folder of results, or the id or name of the
evaluation's MLflow run. Runs on the same images are compared with each other. Writes report.html, and its numbers as
report.json and report.csv; with --tracking-uri, these are also attached to the MLflow runs of the report.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .page import write_report
from .reading import labelled, read_evaluation
from .sources import Source, attach, find, of_folder


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the verb."""
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="model folder, folder of results, or id or name of an MLflow run"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("eval/report"), help="folder of the report (default: %(default)s)"
    )
    parser.add_argument(
        "--title", default="Evaluation of anomaly detectors", help="title of the report (default: %(default)s)"
    )
    parser.add_argument(
        "--tracking-uri",
        default=os.environ.get("MLFLOW_TRACKING_URI"),
        help="MLflow store (default: MLFLOW_TRACKING_URI of the environment, else none)",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the report and prints where it is."""
    with tempfile.TemporaryDirectory() as downloads:
        found = [find(name, args.tracking_uri, Path(downloads)) for name in dict.fromkeys(args.runs)]
        sources = list({source.folder.resolve(): source for source in found}.values())
        page = _write(sources, args.out, args.title)
        print(f"The report of {len(sources)} {'run' if len(sources) == 1 else 'runs'} is {page}")
        if args.tracking_uri is not None:
            for run_id in attach(args.out, sources, args.tracking_uri):
                print(f"The report is attached to the MLflow run {run_id}")
    return 0


def make_report(folders: Sequence[Path], out: Path, title: str) -> Path:
    """Writes ``report.html``, ``report.json`` and ``report.csv`` of evaluations.

    Args:
        folders: Model folders or folders of results, at least one.
        out: Folder of the report, created if missing.
        title: Title of the page.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: If a folder holds no evaluation.
        ValueError: If there is no folder, or its files are not those of an evaluation.
    """
    return _write([of_folder(folder) for folder in folders], out, title)


def _write(sources: Sequence[Source], out: Path, title: str) -> Path:
    if not sources:
        raise ValueError("There is no evaluation to report on: name at least one folder.")
    evaluations = labelled([read_evaluation(source.folder, source.name) for source in sources])
    return write_report(evaluations, out, title)
