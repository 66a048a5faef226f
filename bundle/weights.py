"""Fetch the weights of the frozen teachers ahead of time, for instance for a machine without internet access."""

import argparse
import sys
from pathlib import Path

from scripts.files import file_sha256
from scripts.networks.weights import RELEASES, WeightsError, teacher_weights

DEFAULT_NAMES = ("wide_resnet50_2", "vmamba_tiny_v0")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        default=list(DEFAULT_NAMES),
        help=f"{', '.join(RELEASES)} or a model of timm (default: {' '.join(DEFAULT_NAMES)})",
    )
    parser.add_argument("--models-dir", type=Path, default=Path("models"), help="where they go (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Fetch every named file and print where it lies, its size and SHA-256; 1 if one could not be had."""
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
