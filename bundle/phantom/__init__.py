"""Draws phantom head CT, normal and abnormal, for the demo and the tests: no patient, no download.

Every subject has a head with its own shape, pose, texture, calibration and noise.

    python -m bundle phantom phantoms
    python -m bundle phantom volumes --volumes --subjects 30

FOLDER receives images/ (16-bit grey PNG of 12-bit values), masks/ (8-bit PNG, 0 or 255, of the abnormal slices) and
index.csv with the columns image, label, mask, group and split. With --volumes it receives normal/ and anomalous/, with
a folder for each subject that holds ct.nii.gz (Hounsfield units) and, if abnormal, lesion.nii.gz; and dicom/ with one
of the abnormal subjects again, as a DICOM series.
"""

import argparse
from pathlib import Path
from typing import Any

from bundle.phantom.slices import write_phantoms
from bundle.phantom.volumes import write_phantom_volumes

# Defaults of the verb.
SLICES: dict[str, Any] = {"subjects": 60, "slices": 4, "size": 128, "abnormal_fraction": 0.2}
VOLUMES: dict[str, Any] = {"subjects": 30, "slices": 12, "size": 96, "abnormal_fraction": 0.2}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the verb."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="new or empty folder to write to")
    parser.add_argument(
        "--volumes", action="store_true", help="write NIfTI volumes and a DICOM series instead of slices"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the subjects (default: %(default)s)")
    for name, text in {
        "subjects": "number of subjects",
        "slices": "slices for each subject",
        "size": "height and width in pixels",
        "abnormal_fraction": "fraction of the subjects with a lesion",
    }.items():
        default = f"default: {SLICES[name]:.4g}, with --volumes {VOLUMES[name]:.4g}"
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(SLICES[name]), help=f"{text} ({default})")


def run(args: argparse.Namespace) -> int:
    """Writes the phantoms and prints where they are."""
    given = {name: value for name, value in vars(args).items() if name in SLICES and value is not None}
    if not args.volumes:
        options = SLICES | given
        index = write_phantoms(args.folder, seed=args.seed, **options)
        print(f"{index}: {options['subjects']} subjects of {options['slices']} slices")
        return 0
    options = VOLUMES | given
    abnormal, size = round(options["abnormal_fraction"] * options["subjects"]), options["size"]
    shape = (size, size, options["slices"])
    write_phantom_volumes(
        args.folder, normal=options["subjects"] - abnormal, anomalous=abnormal, shape=shape, seed=args.seed
    )
    print(f"{args.folder}: {options['subjects']} volumes of {options['slices']} slices, {abnormal} of them abnormal")
    return 0
