"""Recognises the layouts of public 2D data sets; a new layout is one more function here."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from scripts.data.images import IMAGE_SUFFIXES

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "training"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    "test": "test",
}


@dataclass(frozen=True)
class Sample:
    """One image or scan as the data set describes it."""

    image: Path
    label: int  # 0 normal, 1 anomaly
    group: str  # patient or study; the image's path if neither is known
    mask: Path | None = None
    organ: str | None = None  # "class" in the datalist
    split: str | None = None  # training, validation or test, if the data set has splits of its own
    slice_labels: str | None = None  # a digit, 0 or 1, for each axial slice from inferior on, where there is no mask


@dataclass(frozen=True)
class Layout:
    """Layout of a data set; ``read`` returns no samples for a folder with another layout."""

    name: str
    looks_for: str
    read: Callable[[Path], list[Sample]]


LAYOUTS: dict[str, Layout] = {}  # in the order of trial


def find_layout(root: Path, name: str = "auto", more: Sequence[Layout] = ()) -> tuple[str, list[Sample]]:
    """Reads the data set in a folder with the named layout, or with the first that recognises it.

    Args:
        root: Folder of the data set.
        name: Name of a layout; ``auto`` tries all.
        more: Layouts tried after ``LAYOUTS``.

    Returns:
        Name of the layout, and the samples.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it is empty, its layout is another, or its table is wrong.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder. Give the folder into which the data set was unpacked.")
    layouts = [layout for layout in (*LAYOUTS.values(), *more) if name in ("auto", layout.name)]
    for layout in layouts:
        samples = layout.read(root)
        if samples:
            return layout.name, samples
    found = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir())
    raise ValueError(
        f"{root}: not a known layout.\nLooked for:\n"
        + "\n".join(f"  {layout.name:9}{layout.looks_for}" for layout in layouts)
        + f"\nFound: {', '.join(found[:12]) or 'nothing, the folder is empty'}{', …' if len(found) > 12 else ''}\n"
        "Give the folder that holds one of these, or list the images in a CSV file and pass it with --csv."
    )


def read_table(root: Path, table: Path) -> list[Sample]:
    """Reads a CSV with columns image, label and, optionally, mask, group, class and split.

    Args:
        root: Folder to which the paths in the table are relative.
        table: CSV file that lists images or NIfTI scans.

    Raises:
        FileNotFoundError: If there is no such table.
        ValueError: If a column or a value is wrong; the message names the line.
    """
    if not table.is_file():
        raise FileNotFoundError(f"{table}: no such table. Give a CSV file with columns image and label.")
    rows = read_csv(table)
    if not {"image", "label"} <= set(rows.columns):
        raise ValueError(f"{table}: needs columns image and label, has {', '.join(rows.columns)}.")
    names = {"": None, **SPLIT_NAMES}
    samples = []
    for line, row in enumerate(rows.to_dict("records"), start=2):
        if row["label"] not in ("0", "1") or row.get("split", "").lower() not in names:
            raise ValueError(
                f"{table}: line {line} needs a label of 0 or 1 and a split of train, valid, test or none, "
                f"has {row['label']!r} and {row.get('split', '')!r}."
            )
        samples.append(
            Sample(
                root / row["image"],
                int(row["label"]),
                row.get("group") or row["image"],
                root / row["mask"] if row.get("mask") else None,
                row.get("class") or None,
                names[row.get("split", "").lower()],
            )
        )
    if len({sample.split is None for sample in samples}) > 1:
        raise ValueError(f"{table}: gives some images a split and others none. Fill in the column split, or remove it.")
    return samples


def _layout(looks_for: str) -> Callable[[Callable[[Path], list[Sample]]], Callable[[Path], list[Sample]]]:
    def register(read: Callable[[Path], list[Sample]]) -> Callable[[Path], list[Sample]]:
        LAYOUTS[read.__name__] = Layout(read.__name__, looks_for, read)
        return read

    return register


@_layout("meta.json of ADer: {train, test}: {class: [{img_path, mask_path, anomaly}]}")
def ader(root: Path) -> list[Sample]:
    """Reads Uni-Medical and other data sets prepared for ADer."""
    meta = root / "meta.json"
    if not meta.is_file():
        return []
    try:
        return [
            Sample(
                root / entry["img_path"],
                int(bool(entry["anomaly"])),
                entry["img_path"],
                root / entry["mask_path"] if entry.get("mask_path") and entry["anomaly"] else None,
                organ,
                split,
            )
            for name, split in (("train", "training"), ("test", "test"))
            for organ, entries in json.loads(meta.read_text(encoding="utf-8"))[name].items()
            for entry in entries
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{meta}: not the meta.json of an ADer data set ({error!r}). Fetch it again.") from error


@_layout("labels.csv with columns id, hemorrhage beside head_ct/NNN.png")
def headct(root: Path) -> list[Sample]:
    """Reads HeadCT: numbered slices, one for each patient, labelled in a table."""
    table = root / "labels.csv"
    if not table.is_file():
        return []
    rows = read_csv(table)
    folder = next((folder for folder in (root / "head_ct/head_ct", root / "head_ct") if folder.is_dir()), None)
    if not {"id", "hemorrhage"} <= set(rows.columns) or folder is None:
        return []
    samples = []
    for number, label in zip(rows["id"], rows["hemorrhage"], strict=True):
        if not number.isdigit() or label not in ("0", "1"):
            raise ValueError(
                f"{table}: needs a number and a label of 0 or 1, has {number!r}, {label!r}. Fetch it again."
            )
        image = folder / f"{int(number):03}.png"
        samples.append(Sample(image, int(label), image.name))
    return samples


@_layout("{train,test}/{NORMAL,PNEUMONIA}, possibly in chest_xray/")
def zhanglab(root: Path) -> list[Sample]:
    """Reads Kermany's chest X-rays, whose file names identify the patient."""
    for base in (root, *_folders(root)):
        folders = {
            (split, label): base / name / finding
            for name, split in (("train", "training"), ("val", "validation"), ("test", "test"))
            for label, finding in enumerate(("NORMAL", "PNEUMONIA"))
        }
        if folders["training", 0].is_dir() and folders["test", 0].is_dir():
            return [
                Sample(image, label, _kermany_patient(image, root), split=split)
                for (split, label), folder in folders.items()
                for image in _images(folder)
            ]
    return []


@_layout("yes/ and no/, as in BrainMRI")
def yes_no(root: Path) -> list[Sample]:
    """Reads BrainMRI and the like: one folder with the finding and one without."""
    for base in (root, *_folders(root)):
        if (base / "yes").is_dir() and (base / "no").is_dir():
            return [
                Sample(image, label, image.relative_to(base).as_posix())
                for label, name in enumerate(("no", "yes"))
                for image in _images(base / name)
            ]
    return []


@_layout("{train,valid,test}/{good,Ungood}/{img,anomaly_mask}, for one class or in one folder for each class")
def bmad(root: Path) -> list[Sample]:
    """Reads BMAD; images may lie directly in good/ and Ungood/, and masks in anomaly_mask/ or label/."""
    samples = []
    for base in (root, *_folders(root)):
        if not (_child(base, "test/ungood") and _child(base, "train/good")):
            continue
        for name, split in (("train", "training"), ("valid", "validation"), ("val", "validation"), ("test", "test")):
            for label, kind in enumerate(("good", "ungood")):
                folder = _child(base, f"{name}/{kind}")
                if folder is None:
                    continue
                mask_folder = _child(folder, "anomaly_mask") or _child(folder, "label")
                for image in _images(_child(folder, "img") or folder):
                    mask = _mask_of(image, mask_folder) if label else None
                    group = image.relative_to(root).as_posix()
                    samples.append(Sample(image, label, group, mask, base.resolve().name, split))
    return samples


@_layout("train/good, test/<type>, ground_truth/<type>, as in MVTec, for one class or in one folder for each class")
def mvtec(root: Path) -> list[Sample]:
    """Reads the layout of MVTec; masks are ground_truth/<type>/NAME_mask or NAME."""
    samples = []
    for base in (root, *_folders(root)):
        if not ((base / "train/good").is_dir() and (base / "test").is_dir()):
            continue
        for name, split in (("train", "training"), ("test", "test")):
            for folder in _folders(base / name):
                label = int(folder.name != "good")
                for image in _images(folder):
                    mask = _mask_of(image, base / "ground_truth" / folder.name) if label else None
                    group = image.relative_to(root).as_posix()
                    samples.append(Sample(image, label, group, mask, base.resolve().name, split))
    return samples


@_layout("one CSV file with columns image, label[, mask, group, class, split]")
def csv(root: Path) -> list[Sample]:
    """Reads the only table in the folder that has the columns; ``read_table`` reads one from elsewhere."""
    tables = [table for table in sorted(root.glob("*.csv")) if {"image", "label"} <= set(read_csv(table).columns)]
    if len(tables) > 1:
        raise ValueError(f"{root}: has several tables: {', '.join(t.name for t in tables)}. Name one with --csv.")
    return read_table(root, tables[0]) if tables else []


def read_csv(table: Path) -> pd.DataFrame:
    """Reads a table as text, with names and values stripped: HeadCT writes 'id, hemorrhage'.

    Raises:
        ValueError: If the file is not a CSV table in UTF-8.
    """
    try:
        rows = pd.read_csv(table, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{table}: not a CSV table in UTF-8 ({error}). Save it again, or name another with --csv."
        ) from error
    rows.columns = rows.columns.str.strip().str.lower()
    return rows.apply(lambda column: column.str.strip())


def _images(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
                yield path


def _folders(root: Path) -> list[Path]:
    """Visible folders that can be listed; a layout that needs another one fails and names it."""
    return sorted(
        path
        for path in root.iterdir()
        if path.is_dir() and not path.name.startswith((".", "__")) and os.access(path, os.R_OK | os.X_OK)
    )


def _child(root: Path, names: str) -> Path | None:
    """Follows lower-case names, joined by '/', down from ``root``, whatever their case on disk."""
    for name in names.split("/"):
        match = [folder for folder in _folders(root) if folder.name.lower() == name]
        if not match:
            return None
        root = match[0]
    return root


def _mask_of(image: Path, folder: Path | None) -> Path | None:
    if folder is None:
        return None
    stems = (f"{image.stem}_mask", image.stem)
    candidates = (folder / f"{stem}{suffix}" for stem in stems for suffix in (image.suffix, *IMAGE_SUFFIXES))
    return next((path for path in candidates if path.is_file()), None)


def _kermany_patient(image: Path, root: Path) -> str:
    """Patient in a file name: 'person12' of person12_virus_3, 'IM-0115' of IM-0115-0001, else the whole path."""
    match = re.match(r"(person\d+)_|(.*?-\d+)(?:-\d+)+$", image.stem)
    return image.relative_to(root).as_posix() if match is None else match[1] or match[2]
