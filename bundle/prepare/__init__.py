"""Writes the datalist of a folder of images, NIfTI scans or DICOM, with splits by patient.

Recognises the layout of the folder, reads every file, leaves out what is damaged, and assigns patients to training,
validation and test. Exact duplicates stay on one side of every split.

    python -m bundle prepare scans --out datalist.json --validation-fraction 0.1
    python -m bundle prepare dicom --out datalist.json --labels labels.csv --dicom-modality CT

Writes the datalist, with one item for each image or scan, and beside it a contact sheet, datalist.png. Look at the
sheet before you train. DICOM series are converted to NIfTI, in the folder scans beside the datalist. The terminal shows
what the splits hold, what was left out and why.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bundle.prepare import source, splits, survey
from bundle.prepare.contact_sheet import contact_sheet
from bundle.prepare.layouts import Sample
from bundle.prepare.slice_labels import label_slices
from scripts.data.datalist import SPLITS
from scripts.data.scans import is_scan
from scripts.files import replacing

DEFAULT_TRAIN_FRACTION = 0.75
_FIRST = ("configs/teachers/light.json", "configs/methods/memory.json")
_LISTED = 20  # most files that a note on the terminal names


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the verb."""
    parser.add_argument("--out", type=Path, required=True, metavar="JSON", help="datalist to write")
    parser.add_argument("--force", action="store_true", help="overwrite the datalist and its contact sheet")
    source.configure(parser)
    dealing = parser.add_argument_group(
        "Splits",
        "A data set with splits of its own keeps them; the options that choose what to train on are then refused.",
    )
    dealing.add_argument("--seed", type=int, default=42, help="seed of the splits and the sheet (default: %(default)s)")
    train = dealing.add_mutually_exclusive_group()
    train.add_argument(
        "--train-fraction", type=_fraction, help=f"part of the normals to train on (default: {DEFAULT_TRAIN_FRACTION})"
    )
    train.add_argument("--train-count", type=_count, help="number of normals to train on")
    train.add_argument(
        "--test-patients",
        nargs="+",
        default=[],
        metavar="NAME",
        help="patients to test on, by group of the datalist or PatientID; all other normals are trained on",
    )
    dealing.add_argument(
        "--abnormal-training",
        type=_count_or_fraction,
        metavar="N",
        help="for data with hardly any normals: also train on the slices without anomaly of so many (1, 2, …) or such "
        "a part (0.5) of the patients whose anomalies are all masked",
    )
    dealing.add_argument(
        "--validation-fraction",
        type=_fraction,
        default=0.0,
        help="part of the training images or scans to move to validation, by whole patients (default: %(default)s)",
    )
    dealing.add_argument(
        "--labelled-validation",
        action="store_true",
        help="keep the anomalies of the data set's own validation split",
    )


def run(args: argparse.Namespace) -> int:
    """Writes the datalist and its contact sheet, and prints what is in them.

    Raises:
        FileExistsError: If an output exists and ``--force`` is not given.
        FileNotFoundError: If the folder or a table is missing.
        ValueError: If the data set cannot be prepared; the message says why.
    """
    sheet: Path = args.out.with_suffix(".png")
    for path in (args.out, sheet):
        if path.exists() and not args.force:
            raise FileExistsError(f"{path}: exists. Choose another --out, or overwrite it with --force.")
    cache_dir: Path = args.cache or args.out.parent / "cache"
    data = source.find(args, cache_dir)
    samples, root, notes = data.samples, data.root, list(data.notes)
    _check_options(args, samples)
    samples, unused = _without_anomalies(samples, args.labelled_validation)
    notes += [f"Not used: {len(unused)} anomalies of the data set's own {_names(unused)} split."] if unused else []

    facts, unreadable = survey.examine(samples, cache_dir)
    left_out = [f"{name}: {reason}" for name, reason in data.left_out.items()]
    reasons = [*left_out, *unreadable.values()]
    samples = [sample for sample in samples if sample.image in facts]
    noun = "scan" if is_scan(data.samples[0].image) else "image"
    if not samples:
        why = next(iter(reasons), "all are anomalies outside the test split")
        raise ValueError(f"{args.folder}: no {noun} can be used: {why}")
    notes += _listing("Left out", left_out)
    notes += _listing("Unreadable, left out", list(unreadable.values()))

    if args.slice_labels is not None:
        if noun != "scan":
            raise ValueError("--slice-labels is for scans; an image has one label. Leave it out.")
        samples = label_slices(args.slice_labels, args.slice_label_column, samples, facts)

    same = survey.duplicates(samples, facts)
    n_duplicates = sum(len(copies) - 1 for copies in same)
    notes += _listing(
        "Exact duplicates", [" = ".join(_relative(sample.image, root) for sample in copies) for copies in same]
    )
    warnings = _contradictions(same, root, noun)

    samples, abnormal, more_notes = _deal(args, data, samples, facts)
    notes += more_notes
    warnings += _weaknesses(samples, facts, root, noun)

    training = [facts[sample.image] for sample in samples if sample.split == "training"]
    intensity_range = None if noun == "scan" else survey.intensity_range(training)
    datalist: dict[str, Any] = {
        "name": data.name,
        "modality": data.modality,
        "classes": sorted({sample.organ for sample in samples if sample.organ is not None}),
        "seed": args.seed,
        "layout": data.layout,
        "created_by": data.command,
        "dataset_dir": _relative(root, args.out.parent),
        "n_duplicates": n_duplicates,
        "unreadable": [_relative(image, root) for image in unreadable],
        **({"left_out": data.left_out} if data.left_out else {}),
        "intensity_range": intensity_range,
        **({"labelled_validation": True} if args.labelled_validation else {}),
        **({"abnormal_subjects": True} if abnormal else {}),
        **{split: [_item(sample, root) for sample in samples if sample.split == split] for split in SPLITS},
    }
    counts = ", ".join(f"{split} {len(datalist[split])}" for split in SPLITS if datalist[split])
    title = f"{datalist['name']} ({data.layout}): {counts}"
    picture = contact_sheet(samples, title, intensity_range, args.seed, cache_dir)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    _write(sheet, picture)
    _write(args.out, (json.dumps(datalist, indent=1, ensure_ascii=False) + "\n").encode())

    print(f"{datalist['name']}: layout {data.layout}\n\n{survey.table(samples, facts)}\n")
    if noun == "scan":
        notes.append(f"Intensities: add the overlay {survey.intensity_overlay(facts.values(), data.modality)}.")
    else:
        notes.append(f'intensity_range: {intensity_range}; train with --intensity#intensity_range "{intensity_range}"')
    notes.append(f"Start with what is built in minutes: add the overlays {', '.join(_FIRST)}.")
    print("\n".join([*notes, f"Written: {args.out}, {sheet}"]))
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if reasons:
        print(f"{len(reasons)} files or series were left out; see the reasons above.")
    return 0


def _deal(
    args: argparse.Namespace, data: source.Source, samples: Sequence[Sample], facts: dict[Path, survey.Facts]
) -> tuple[list[Sample], list[str], list[str]]:
    """Assigns the splits.

    Returns:
        The samples with splits and final groups, the groups with anomalies to train on, and notes for the user.
    """
    notes: list[str] = []
    asked = [sample.group in data.tested for sample in samples]
    lost = sorted(set(data.tested) - {sample.group for sample in samples})
    if lost:
        raise ValueError(
            f"--test-patients: no file of {', '.join(lost)} can be read. Leave these out, or repair the files."
        )
    dealt = splits.merge_groups(samples, [facts[sample.image].digest for sample in samples])
    abnormal: list[str] = []
    if dealt[0].split is None:
        tested = {sample.group for sample, wanted in zip(dealt, asked, strict=True) if wanted}
        if args.abnormal_training is not None:
            free = [sample for sample in dealt if sample.group not in tested]
            abnormal = splits.draw_abnormal(free, args.abnormal_training, args.seed)
        if tested:
            dealt, unused = splits.deal_by_name(dealt, tested, abnormal)
            notes += (
                [f"Not used: {len(unused)} scans of abnormal patients that --test-patients does not name."]
                if unused
                else []
            )
        else:
            fraction = DEFAULT_TRAIN_FRACTION if args.train_fraction is None else args.train_fraction
            dealt = splits.deal_training(dealt, args.train_count, fraction, args.seed, abnormal)
    dealt, crossing = splits.drop_crossing(dealt)
    notes += _listing(
        "Left out, as the same patient or the same pixels are in test or validation",
        [f"{sample.split}: {_relative(sample.image, data.root)}" for sample in crossing],
    )
    if abnormal:
        notes.append(
            f"{len(abnormal)} patients with anomalies are trained on, by their slices without: train with "
            "--slices#abnormal_subjects True."
        )
    return splits.hold_out_validation(dealt, args.validation_fraction, args.seed), abnormal, notes


def _check_options(args: argparse.Namespace, samples: Sequence[Sample]) -> None:
    """Checks that the split options suit the data set."""
    if args.abnormal_training is not None and not is_scan(samples[0].image):
        raise ValueError("--abnormal-training is for scans, whose slices without anomaly it trains on. Leave it out.")
    options = ("train_fraction", "train_count", "test_patients", "abnormal_training")
    given = [f"--{option.replace('_', '-')}" for option in options if getattr(args, option) not in (None, [])]
    if given and samples[0].split is not None:
        raise ValueError(
            f"{args.folder}: has its own split. Leave out {' and '.join(given)}, or list the images in a CSV without a "
            "column split and pass it with --csv."
        )


def _without_anomalies(samples: Sequence[Sample], labelled_validation: bool) -> tuple[list[Sample], list[Sample]]:
    """Separates the samples that may be used from the anomalies outside the test split."""
    barred = {"training"} if labelled_validation else {"training", "validation"}
    return (
        [sample for sample in samples if sample.label == 0 or sample.split not in barred],
        [sample for sample in samples if sample.label == 1 and sample.split in barred],
    )


def _contradictions(same: Sequence[Sequence[Sample]], root: Path, noun: str) -> list[str]:
    """Warnings about duplicates labelled both normal and anomalous, one pair of each set."""
    warnings = []
    for copies in same:
        first = {sample.label: _relative(sample.image, root) for sample in reversed(copies)}
        if len(first) == 2:
            warnings.append(f"{first[0]} (normal) and {first[1]} (anomaly) are the same {noun}: correct or remove one.")
    return warnings


def _weaknesses(samples: Sequence[Sample], facts: dict[Path, survey.Facts], root: Path, noun: str) -> list[str]:
    """Warnings about what the samples cannot be used for."""
    warnings = []
    tested = [sample for sample in samples if sample.split == "test"]
    by_slice = noun == "scan" and all(sample.mask is not None for sample in tested if sample.label == 1)
    for label, name in enumerate((f"normal {noun}s", "anomalies")):
        if not any(sample.label == label for sample in tested) and not (label == 0 and tested and by_slice):
            warnings.append(f"test has no {name}: metrics cannot be computed.")
    if not any(sample.split == "training" for sample in samples):
        warnings.append(
            f"training has no {noun}s: this datalist is for testing only, with the intensity settings of the model."
            + (
                " If there are hardly any normals, see --abnormal-training."
                if by_slice and all(s.label for s in samples)
                else ""
            )
        )
    if len(samples) > 1 and len({sample.group for sample in samples}) == 1:
        warnings.append(
            f"all {noun}s count as one patient, {samples[0].group}. If that is wrong, give the folder of that name as "
            "FOLDER, or name the patients in the column group of a CSV table."
        )
    dtypes = sorted({facts[sample.image].dtype for sample in samples})
    if noun == "image" and len(dtypes) > 1:
        warnings.append(f"images of {' and '.join(dtypes)} are mixed: no intensity_range suits them all.")
    anomalies = [sample for sample in samples if sample.label == 1]
    unmasked = [_relative(sample.image, root) for sample in anomalies if sample.mask is None]
    if 0 < len(unmasked) < len(anomalies):
        listed = ", ".join(unmasked[:3]) + (", …" if len(unmasked) > 3 else "")
        warnings.append(f"{len(unmasked)} of {len(anomalies)} anomalies have no mask: {listed}.")
    return warnings


def _item(sample: Sample, root: Path) -> dict[str, Any]:
    """Item of the datalist, without keys for what is unknown."""
    return {
        "image": _relative(sample.image, root),
        "label": sample.label,
        **({} if sample.mask is None else {"mask": _relative(sample.mask, root)}),
        "group": sample.group,
        **({} if sample.slice_labels is None else {"slice_labels": sample.slice_labels}),
        **({} if sample.organ is None else {"class": sample.organ}),
    }


def _listing(headline: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    more = len(lines) - _LISTED
    return [
        f"{headline} ({len(lines)}):",
        *(f"  {line}" for line in lines[:_LISTED]),
        *([f"  … and {more} more"] if more > 0 else []),
    ]


def _names(samples: Sequence[Sample]) -> str:
    return " and ".join(split for split in SPLITS if any(sample.split == split for sample in samples))


def _relative(path: Path, folder: Path) -> str:
    # A link keeps its own name, as git-annex links to names that mean nothing.
    return Path(os.path.relpath(path.parent.resolve() / path.name, folder.resolve())).as_posix()


def _write(path: Path, content: bytes) -> None:
    """Writes a file completely or not at all."""
    with replacing(path) as part:
        part.write_bytes(content)


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..1")
    return value


def _count_or_fraction(text: str) -> int | float:
    return _count(text) if text.isdigit() else _fraction(text)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value
