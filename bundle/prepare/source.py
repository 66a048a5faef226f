"""Reads how a data set describes itself, before it is examined and split: images, NIfTI scans or DICOM."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from bundle.prepare.dicom_tree import DicomTree, read_labels
from bundle.prepare.layouts import LAYOUTS, Layout, Sample, find_layout, read_table
from bundle.prepare.nifti_tree import NiftiTree
from scripts.data.planes import AXCODES
from scripts.data.scans import MASK_PATTERN
from scripts.dicom.rules import Rules
from scripts.dicom.salt import VARIABLE
from scripts.model.modality import UNKNOWN

_ONLY_FOR = {  # options for one layout alone
    "nifti": ("mask_pattern", "image_pattern", "label_without_mask"),
    "dicom": ("normal", "labels", "dicom_modality", "description", "orientation", "min_slices", "salt"),
}
# May name a patient, or say nothing about the contents of the datalist.
_NOT_KEPT = ("verb", "folder", "out", "csv", "cache", "labels", "salt", "test_patients", "force")


@dataclass(frozen=True)
class Source:
    """A data set as found on disk.

    Attributes:
        layout: Name of the layout: one of ``LAYOUTS``, nifti or dicom.
        root: Folder to which the datalist's paths are relative.
        name: Name of the data set.
        modality: Modality, such as CT, or unknown.
        command: Command that prepares it; for DICOM without anything that may name a patient.
        samples: Samples, not examined yet.
        tested: Groups that ``--test-patients`` names.
        left_out: Reason for each file or series that is no sample.
        notes: Sentences for the user.
    """

    layout: str
    root: Path
    name: str
    modality: str
    command: str
    samples: list[Sample]
    tested: list[str]
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments that describe the data set."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the unpacked data set")
    parser.add_argument(
        "--layout",
        choices=["auto", *LAYOUTS, *_ONLY_FOR],
        default="auto",
        help="layout of FOLDER (default: %(default)s)",
    )
    parser.add_argument(
        "--csv", type=Path, help="table with columns image,label[,mask,group,class,split]; paths relative to FOLDER"
    )
    parser.add_argument(
        "--modality",
        default=UNKNOWN,
        help="modality to note in the datalist, such as CT (default: from DICOM, else unknown)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        help="folder for uncompressed copies of scans; guard it like these (default: cache, beside JSON)",
    )
    nifti = parser.add_argument_group(
        "NIfTI scans",
        "In folders of any nesting, with masks beside them. A scan is anomalous if its mask is not empty.\n"
        "The patient is BIDS's sub-XX, else the topmost folder that is neither a class word (normal, healthy,\n"
        "control, good, abnormal, anomaly, patients, disease, ungood) nor a split (train, val, test).",
    )
    nifti.add_argument(
        "--mask-pattern",
        metavar="REGEX",
        help="what names of masks contain; the rest is the scan's name (default: the words lesion, mask, seg, label)",
    )
    nifti.add_argument(
        "--image-pattern", metavar="GLOB", help="which of the other files are scans, such as '*flair*' (default: all)"
    )
    nifti.add_argument(
        "--label-without-mask",
        type=int,
        choices=(0, 1),
        help="label of scans without mask and class word: 0 normal, 1 anomalous",
    )
    nifti.add_argument(
        "--slice-labels",
        type=Path,
        metavar="CSV",
        help="table with columns patient,slice,label: 0 or 1 for every axial slice, counted from 0 at the lowest, of "
        "scans without masks",
    )
    nifti.add_argument("--slice-label-column", default="label", metavar="NAME", help="column of its labels")
    dicom = parser.add_argument_group(
        "DICOM",
        "In folders of any nesting. Each selected series becomes scans/<modality>-<hash>.nii beside JSON.\n"
        "No file written names a patient: groups are hashes of the PatientID, keyed with a secret salt.",
    )
    labels = dicom.add_mutually_exclusive_group()
    labels.add_argument("--normal", action="store_true", help="all series are normal")
    labels.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="table with columns key,label[,mask]: PatientID, StudyInstanceUID or SeriesInstanceUID; 0 normal or 1 "
        "anomalous; NIfTI on the grid of the series",
    )
    dicom.add_argument(
        "--dicom-modality",
        nargs="+",
        metavar="CODE",
        help="modalities to convert, such as CT or MR (default: all but radiographs)",
    )
    dicom.add_argument("--description", metavar="REGEX", help="what the SeriesDescription contains")
    dicom.add_argument("--orientation", choices=tuple(AXCODES), help="plane of the acquired slices")
    dicom.add_argument(
        "--min-slices",
        type=int,
        help=f"fewest slices of a series, to skip localisers and the like (default: {Rules.min_slices})",
    )
    dicom.add_argument(
        "--salt",
        help=f"secret of the hashes; safer in the environment: {VARIABLE} (default: salt.txt beside JSON, or new)",
    )


def find(args: argparse.Namespace, cache_dir: Path) -> Source:
    """Finds the samples of a data set; converts DICOM.

    Raises:
        FileNotFoundError: If the folder or a table is missing.
        ValueError: If the layout is unknown or ambiguous, or an option does not fit it.
    """
    scans = args.out.parent / "scans"
    nifti = NiftiTree(
        cache_dir,
        args.mask_pattern or MASK_PATTERN,
        args.image_pattern or "*",
        args.label_without_mask,
        skip=(cache_dir, scans),
    )
    dicom = DicomTree(
        scans,
        cache_dir,
        Rules(
            tuple(args.dicom_modality) if args.dicom_modality else None,
            args.description,
            args.orientation,
            Rules.min_slices if args.min_slices is None else args.min_slices,
        ),
        None if args.labels is None else read_labels(args.labels),
        args.normal,
        args.salt,
    )
    trees = [
        Layout("nifti", ".nii or .nii.gz in folders of any nesting, with masks beside them", nifti.read),
        Layout("dicom", "DICOM files in folders of any nesting", dicom.read),
    ]
    if args.csv is None:
        layout, samples = find_layout(args.folder, args.layout, trees)
    elif args.layout in ("auto", "csv"):
        layout, samples = "csv", read_table(args.folder, args.csv)
    else:
        raise ValueError(f"--csv is a layout of its own: leave out --layout {args.layout}.")
    for only, options in _ONLY_FOR.items():
        given = [option for option in options if getattr(args, option) not in (None, False)]
        if given and layout != only:
            raise ValueError(
                f"--{given[0].replace('_', '-')} is for {only}, and {args.folder} is read as {layout}. Leave it out, "
                f"or give --layout {only}."
            )
    if layout == "dicom":
        return _of_dicom(args, dicom, samples)
    if not samples:
        raise ValueError(f"{args.csv}: has no rows. Add one for each image.")
    return Source(
        layout,
        args.folder,
        args.folder.resolve().name,
        args.modality,
        shlex.join(["python", "-m", "bundle", *sys.argv[1:]]),
        samples,
        _tested(args.test_patients, samples),
        {path.relative_to(args.folder).as_posix(): reason for path, reason in nifti.left_out.items()},
    )


def _of_dicom(args: argparse.Namespace, tree: DicomTree, samples: list[Sample]) -> Source:
    groups = {sample.group for sample in samples}
    tested = [name if name in groups else tree.group_of(name) for name in args.test_patients]
    size = sum(sample.image.stat().st_size for sample in samples) / 2**20
    return Source(
        "dicom",
        tree.scans,
        args.out.stem,
        "+".join(sorted(tree.modalities)) if args.modality == UNKNOWN else args.modality,
        _command_without_names(args),
        samples,
        _tested(tested, samples),
        tree.left_out,
        [f"Converted {len(samples)} series to uncompressed NIfTI: {size:.1f} MiB in {tree.scans}.", tree.salt_note],
    )


def _tested(groups: list[str], samples: list[Sample]) -> list[str]:
    there = sorted({sample.group for sample in samples})
    for group in groups:
        if group not in there:
            raise ValueError(
                f"--test-patients: there is no patient {group!r}. There are: {', '.join(there[:12])}"
                + (", …." if len(there) > 12 else ".")
            )
    return groups


def _command_without_names(args: argparse.Namespace) -> str:
    words = ["python", "-m", "bundle", "prepare", "…"]
    for option, value in vars(args).items():
        if option not in _NOT_KEPT and value not in (None, False):
            values = [] if value is True else map(str, value if isinstance(value, list) else [value])
            words += [f"--{option.replace('_', '-')}", *values]
    return shlex.join(words)
