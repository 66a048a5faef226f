"""Downloads the weights of the frozen teachers ahead of time, for instance for a machine without internet access.

    python -m bundle weights
    python -m bundle weights resnet18 --models-dir models

Each file goes to --models-dir, where training looks for it. An interrupted download resumes, and a file whose SHA-256
is known is checked. Prints the path, size and SHA-256 of each file; the exit code is 1 if one could not be fetched.
"""

import argparse
import sys
from pathlib import Path

from scripts.files import file_sha256
from scripts.networks.downloads import WeightsError
from scripts.networks.weights import RELEASES, teacher_weights

DEFAULT_NAMES = ("wide_resnet50_2", "vmamba_tiny_v0")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the verb."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        default=list(DEFAULT_NAMES),
        help=f"teacher: {', '.join(RELEASES)} or a timm model (default: {' '.join(DEFAULT_NAMES)})",
    )
    parser.add_argument(
        "--models-dir", type=Path, default=Path("models"), help="folder for the files (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Fetches every named file and prints its path, size and SHA-256; returns 1 if one could not be fetched."""
    failed = False
    for name in args.names:
        try:
            path = teacher_weights(name, args.models_dir)
        except WeightsError as error:
            print(error, file=sys.stderr)
            failed = True
        else:
            print(f"{name}: {path}, {path.stat().st_size / 1e6:.1f} MB, sha256 {file_sha256(path)}")
    return int(failed)
