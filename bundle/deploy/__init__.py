"""Scores the series of a DICOM study by a MONAI Deploy application, and write DICOM results.

    python -m bundle deploy models/brain -i STUDY -o OUT

Takes a folder with a study (or several), chooses series by rules, runs a model folder and writes for each series a
folder OUT/<series>/, whose name tells nothing of the patient:

    segmentation.dcm   mask, where the model is calibrated
    anomaly_map.dcm    parametric map
    report.dcm         structured report (TID 1500): score, scan threshold, p-value and verdict
    overlay_NNN.dcm    with --secondary-capture, colour pictures of the slices with the highest scores

OUT/results.json lists scores, thresholds, p-values, verdicts, the volumes of the masks, and what was left out, and why.
The DICOM files are of the patient and study of their series, results.json is of no one.

The rules are a JSON file; see bundle/deploy/rules.json, which is used without --rules.

Exit codes: 0 all chosen series are written; 1 a wrong input, nothing can be written, or a signal ended the run; 3 some
series or files could not be read, the others are written; 4 no series passes the rules.

bundle/deploy is also the application folder for `monai-deploy package`, which makes a container of it.
"""

from __future__ import annotations

import argparse
import logging
from importlib import import_module
from pathlib import Path

SDK = 'pip install -c constraints.txt -e ".[deploy]" (Linux)'
DEFAULT_RULES = Path(__file__).parent / "rules.json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the verb."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder, which training has written")
    parser.add_argument("-i", "--input", type=Path, required=True, metavar="STUDY", help="folder of DICOM files")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the results")
    rules = "which series are wanted (default: bundle/deploy/rules.json)"
    parser.add_argument("--rules", type=Path, default=DEFAULT_RULES, metavar="FILE", help=rules)
    capture = "overlays as pictures too, for viewers that show nothing else"
    parser.add_argument("--secondary-capture", action="store_true", help=capture)


def run(args: argparse.Namespace) -> int:
    """Runs the application, and returns its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    for name in ("bundle", "scripts.dicom"):  # not all: highdicom would name UIDs
        logging.getLogger(name).setLevel(logging.INFO)
    return deploy(args.model, args.input, args.output, args.rules, args.secondary_capture)


def deploy(model: Path, study: Path, out: Path, rules: Path, secondary_capture: bool = False) -> int:
    """Runs the application on a study.

    Args:
        model: Model folder.
        study: Folder of DICOM files.
        out: Folder for the results, made where it is missing.
        rules: File of ``bundle.deploy.choice``.
        secondary_capture: Whether to write pictures as well.

    Returns:
        The exit code of the verb.

    Raises:
        OSError: If an input is missing, or ``out`` cannot be written.
        ValueError: If rules or model are wrong, or there is no DICOM.
        RuntimeError: If the SDK is not installed.
    """
    if not study.exists():
        raise FileNotFoundError(f"There is no folder {study}.")
    load_sdk()
    application = import_module("bundle.deploy.application")
    results = application.analyse(model, study, out, rules, secondary_capture)
    print(results.summary())
    return results.exit_code


def load_sdk() -> None:
    """Imports the MONAI Deploy App SDK.

    Raises:
        RuntimeError: If it is not installed.
    """
    try:
        _give_stack()
        import_module("holoscan.core")
        import_module("monai.deploy.core")
    except ImportError as error:
        raise RuntimeError(f"The MONAI Deploy App SDK is not installed ({error}): {SDK}") from error


def _give_stack() -> None:
    """Raises this process's soft limit of the stack to what holoscan asks for, or else it warns at every start."""
    import resource

    wanted = 32 * 2**20
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    enough = soft == resource.RLIM_INFINITY or soft >= wanted
    if not enough and (hard == resource.RLIM_INFINITY or hard >= wanted):
        resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))
