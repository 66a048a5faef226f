"""Write the datalist of a folder of 2D images: recognise its layout, check every file, deal out the splits.

Exact duplicates are kept on one side of every split. Beside the datalist goes a contact sheet: look at it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bundle import survey
from bundle.contact_sheet import contact_sheet
from scripts.data import splits
from scripts.data.datalist import SPLITS
from scripts.data.layouts import LAYOUTS, Sample, find_layout, read_table

DEFAULT_TRAIN_FRACTION = 0.75
_LISTED = 20  # as many files are named in the terminal


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the unpacked data set")
    parser.add_argument("--out", type=Path, required=True, metavar="JSON", help="the datalist to write")
    parser.add_argument("--layout", choices=["auto", *LAYOUTS], default="auto", help="default: %(default)s")
    parser.add_argument("--csv", type=Path, help="table of columns image,label[,mask,group,class,split]")
    parser.add_argument("--modality", default="unknown", help="for instance CT (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=42, help="of the splits and the sheet (default: %(default)s)")
    train = parser.add_mutually_exclusive_group()
    train.add_argument(
        "--train-fraction",
        type=_fraction,
        help=f"of the normals, for data without a split of its own (default: {DEFAULT_TRAIN_FRACTION})",
    )
    train.add_argument("--train-count", type=_count, help="normals to train on, for data without a split of its own")
    parser.add_argument(
        "--validation-fraction",
        type=_fraction,
        default=0.0,
        help="of the training images, moved to validation (default: %(default)s)",
    )
    parser.add_argument(
        "--labelled-validation",
        action="store_true",
        help="keep the anomalies of the data set's own validation split",
    )
    parser.add_argument("--force", action="store_true", help="overwrite the datalist and its sheet")


def run(args: argparse.Namespace) -> int:
    """Write the datalist and its contact sheet, and print what is in them.

    Raises:
        FileExistsError: If an output exists and `--force` is not given.
        FileNotFoundError: If the folder or the table is missing.
        ValueError: If the data set cannot be prepared; says why.
    """
    sheet: Path = args.out.with_suffix(".png")
    for path in (args.out, sheet):
        if path.exists() and not args.force:
            raise FileExistsError(f"{path}: exists. Choose another --out, or overwrite it with --force.")
    root: Path = args.folder
    layout, samples = _read(args)
    notes = []
    samples, unused = _without_anomalies(samples, args.labelled_validation)
    notes += [f"Not used: {len(unused)} anomalies of the data set's own {_names(unused)} split."] if unused else []

    facts, reasons = survey.examine(samples)
    samples = [sample for sample in samples if sample.image in facts]
    if not samples:
        why = next(iter(reasons.values()), "all are anomalies outside of test")
        raise ValueError(f"{root}: no image can be used: {why}")
    notes += _listing("Unreadable, left out", list(reasons.values())) if reasons else []

    same = survey.duplicates(samples, facts)
    n_duplicates = sum(len(copies) - 1 for copies in same)
    if same:
        lines = [" = ".join(_relative(sample.image, root) for sample in copies) for copies in same]
        notes += _listing("Exact duplicates", lines)
    warnings = _contradictions(same, root)

    samples = splits.merge_groups(samples, [facts[sample.image].digest for sample in samples])
    if any(sample.split is None for sample in samples):
        fraction = DEFAULT_TRAIN_FRACTION if args.train_fraction is None else args.train_fraction
        samples = splits.deal_training(samples, args.train_count, fraction, args.seed)
    samples, crossing = splits.drop_crossing(samples)
    if crossing:
        lines = [f"{sample.split}: {_relative(sample.image, root)}" for sample in crossing]
        notes += _listing("Left out, as their patient or their very pixels are in test or validation", lines)
    samples = splits.hold_out_validation(samples, args.validation_fraction, args.seed)
    warnings += _weaknesses(samples, facts, root)

    intensity_range = survey.intensity_range([facts[s.image] for s in samples if s.split == "training"])
    datalist: dict[str, Any] = {
        "name": root.resolve().name,
        "modality": args.modality,
        "classes": sorted({sample.organ for sample in samples if sample.organ is not None}),
        "seed": args.seed,
        "layout": layout,
        "created_by": shlex.join(["python", "-m", "bundle", *sys.argv[1:]]),
        "dataset_dir": _relative(root, args.out.parent),
        "n_duplicates": n_duplicates,
        "unreadable": [_relative(image, root) for image in reasons],
        "intensity_range": intensity_range,
        **({"labelled_validation": True} if args.labelled_validation else {}),
        **{split: [_item(sample, root) for sample in samples if sample.split == split] for split in SPLITS},
    }
    counts = ", ".join(f"{split} {len(datalist[split])}" for split in SPLITS if datalist[split])
    picture = contact_sheet(samples, f"{datalist['name']} ({layout}): {counts}", intensity_range, args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    _write(sheet, picture)
    _write(args.out, (json.dumps(datalist, indent=1, ensure_ascii=False) + "\n").encode())

    print(f"{datalist['name']}: layout {layout}\n\n{survey.table(samples, facts)}\n")
    print("\n".join([*notes, f"intensity_range: {intensity_range}", f"Written: {args.out}, {sheet}"]))
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def _read(args: argparse.Namespace) -> tuple[str, list[Sample]]:
    """Reads what the data set says of itself, before any image is opened."""
    if args.csv is None:
        layout, samples = find_layout(args.folder, args.layout)
    elif args.layout in ("auto", "csv"):
        layout, samples = "csv", read_table(args.folder, args.csv)
    else:
        raise ValueError(f"--csv is a layout of its own: leave out --layout {args.layout}.")
    if not samples:
        raise ValueError(f"{args.csv}: has no rows. Give it one an image.")
    own_split = samples[0].split is not None
    if own_split and (args.train_fraction is not None or args.train_count is not None):
        raise ValueError(f"{args.folder}: has its own split. Leave out --train-fraction and --train-count.")
    return layout, samples


def _without_anomalies(samples: Sequence[Sample], labelled_validation: bool) -> tuple[list[Sample], list[Sample]]:
    """Parts the samples into those that may be used and the anomalies outside of test."""
    barred = {"training"} if labelled_validation else {"training", "validation"}
    return (
        [sample for sample in samples if sample.label == 0 or sample.split not in barred],
        [sample for sample in samples if sample.label == 1 and sample.split in barred],
    )


def _contradictions(same: Sequence[Sequence[Sample]], root: Path) -> list[str]:
    """Names a pair of each set of duplicates that is called both normal and anomalous."""
    warnings = []
    for copies in same:
        first = {sample.label: _relative(sample.image, root) for sample in reversed(copies)}
        if len(first) == 2:
            warnings.append(f"{first[0]} (normal) and {first[1]} (anomaly) are the same image: correct or remove one.")
    return warnings


def _weaknesses(samples: Sequence[Sample], facts: dict[Path, survey.Facts], root: Path) -> list[str]:
    """Says what the user should know before training or testing on these images."""
    warnings = []
    for label, name in enumerate(("normal images", "anomalies")):
        if not any(sample.split == "test" and sample.label == label for sample in samples):
            warnings.append(f"test has no {name}: metrics cannot be computed.")
    if not any(sample.split == "training" for sample in samples):
        warnings.append(
            "training has no images: this datalist can only be tested on, with its model's intensity_range."
        )
    dtypes = sorted({facts[sample.image].dtype for sample in samples})
    if len(dtypes) > 1:
        warnings.append(f"images of {' and '.join(dtypes)} are mixed: one intensity_range cannot suit them all.")
    anomalies = [sample for sample in samples if sample.label == 1]
    unmasked = [_relative(sample.image, root) for sample in anomalies if sample.mask is None]
    if 0 < len(unmasked) < len(anomalies):
        listed = ", ".join(unmasked[:3]) + (", …" if len(unmasked) > 3 else "")
        warnings.append(f"{len(unmasked)} of {len(anomalies)} anomalies have no mask: {listed}.")
    return warnings


def _item(sample: Sample, root: Path) -> dict[str, Any]:
    """Gives the datalist's item, without what is not known."""
    return {
        "image": _relative(sample.image, root),
        "label": sample.label,
        **({} if sample.mask is None else {"mask": _relative(sample.mask, root)}),
        "group": sample.group,
        **({} if sample.organ is None else {"class": sample.organ}),
    }


def _listing(headline: str, lines: Sequence[str]) -> list[str]:
    more = len(lines) - _LISTED
    return [
        f"{headline} ({len(lines)}):",
        *(f"  {line}" for line in lines[:_LISTED]),
        *([f"  … and {more} more"] if more > 0 else []),
    ]


def _names(samples: Sequence[Sample]) -> str:
    return " and ".join(split for split in SPLITS if any(sample.split == split for sample in samples))


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _write(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..1")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value
