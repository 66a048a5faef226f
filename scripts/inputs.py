"""Finds the inputs of an inference, images, NIfTI scans and DICOM series, and opens each once beforehand."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from scripts.data.datalist import load_datalist, load_items
from scripts.data.images import IMAGE_SUFFIXES, read_image
from scripts.data.planes import check_plane
from scripts.data.scans import MASK_PATTERN, SCAN_SUFFIXES, is_scan, open_all, open_scan, scan_stem
from scripts.dicom.conversion import converted, series_name
from scripts.dicom.rules import Rules
from scripts.dicom.series import Series, find_series

logger = logging.getLogger(__name__)


@dataclass
class Inputs:
    """Inputs that were found.

    Attributes:
        path: Path, glob or datalist that was asked for.
        items: Items for MONAI's datasets: ``image``, a file, and ``name``, which is unique and reveals no patient of a
            DICOM file.
        unreadable: Reason why a file or series cannot be used, by file or series.
        left_out: Reason why a file or series, such as a localiser, is not meant to be scored, by file or series.
        series: DICOM series of an item, by ``image``.
        dicom: Whether there was any DICOM, whose file names may identify a patient.
    """

    path: str = ""
    items: list[dict[str, str]] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    dicom: bool = False


def find_inputs(
    path: str | None,
    cache_dir: str,
    dataset_dir: str | None = None,
    plane: str = "axial",
    bias_correction: bool = False,
) -> Inputs:
    """Finds everything at a path that can be scored.

    Every file is opened once, so that a damaged one costs a line in the log instead of the run. DICOM series are
    converted to NIfTI in the cache.

    Args:
        path: Image, NIfTI, DICOM file or DICOMDIR, folder of any of these at any depth, glob, or datalist, whose
            ``test`` split is taken.
        cache_dir: Folder for uncompressed copies of scans, see ``scripts.data.scans.open_scan``.
        dataset_dir: Folder of a datalist's files.
        plane: Plane whose slices will be scored: axial, coronal or sagittal.
        bias_correction: Whether scans are corrected for bias fields, see ``open_scan``.

    Raises:
        ValueError: If no path is given, or nothing at it can be scored.
        FileNotFoundError: If there is nothing at ``path``.
    """
    check_plane(plane)
    if not path:
        raise ValueError(
            "No input: say what to look at with --input PATH (an image, a NIfTI, a folder of these or of DICOM files, "
            "a glob or a datalist)."
        )
    found = Inputs(str(path))
    files, dicom_root = _files(str(path), dataset_dir)
    if os.path.isdir(path):  # masks beside scans in a folder are not meant; those named by a file or glob are
        masks = [file for file in files if is_scan(file) and re.search(MASK_PATTERN, Path(file).name, re.IGNORECASE)]
        found.left_out = {file: f"{file}: named like a mask" for file in masks}
        files = [file for file in files if file not in found.left_out]
    opened, found.unreadable = open_all(files, lambda file: _check(file, cache_dir, bias_correction))
    good = [file for file in files if file in opened]  # a datalist may name a file twice
    found.items = [{"image": file, "name": name} for file, name in zip(good, _names(good), strict=True)]
    if dicom_root is not None:
        _add_series(found, dicom_root, cache_dir, plane, bias_correction)
    for reason in found.left_out.values():
        logger.info("Left out: %s", reason)
    for reason in found.unreadable.values():
        logger.error("Unreadable: %s", reason)
    if not found.items:
        reasons = [*found.unreadable.values(), *found.left_out.values()]
        if not reasons:
            kinds = ", ".join((*IMAGE_SUFFIXES, *SCAN_SUFFIXES))
            raise ValueError(f"{path} holds no image; looked for {kinds} and DICOM.")
        raise ValueError(f"Nothing at {path} can be scored, for {len(reasons)} reasons; the first: {reasons[0]}")
    return found


def _files(path: str, dataset_dir: str | None) -> tuple[list[str], Path | None]:
    """Image and scan files, and the path to search for DICOM."""
    if os.path.isdir(path):
        return sorted(str(file) for file in Path(path).rglob("*") if _is_wanted(file)), Path(path)
    if path.endswith(".json"):
        load_datalist(path)
        return [item["image"] for item in load_items(path, "test", dataset_dir)], None
    if os.path.isfile(path):
        known = path.lower().endswith((*IMAGE_SUFFIXES, *SCAN_SUFFIXES))
        return ([path], None) if known else ([], Path(path))
    found = sorted(file for file in glob.glob(path, recursive=True) if _is_wanted(Path(file)))
    if not found and not glob.has_magic(path):
        raise FileNotFoundError(f"There is no file or folder {path}.")
    return found, None


def _is_wanted(file: Path) -> bool:
    return file.name.lower().endswith((*IMAGE_SUFFIXES, *SCAN_SUFFIXES)) and file.is_file()


def _check(file: str, cache_dir: str, bias_correction: bool) -> None:
    if is_scan(file):
        open_scan(file, cache_dir, bias_correction=bias_correction)
    else:
        read_image(file)


def _names(files: list[str]) -> list[str]:
    """Short unique names: that of the file, or as much of its path as distinguishes it from the others."""
    parts = [(path.parent / (scan_stem(path) if is_scan(path) else path.stem)).parts for path in map(Path, files)]
    names, length = ["" for _ in files], 1
    while True:
        names = ["_".join(part[-length:]).strip("/_") for part in parts]
        repeated = {name for name, count in Counter(names).items() if count > 1}
        if not repeated or length >= max(map(len, parts)):
            break
        length += 1
    taken: Counter[str] = Counter()
    for place, name in enumerate(names):  # such as a.png beside a.tif
        taken[name] += 1
        names[place] = name if taken[name] == 1 else f"{name}_{taken[name]}"
    return names


def _add_series(found: Inputs, root: Path, cache_dir: str, plane: str, bias_correction: bool) -> None:
    """Converts and adds the DICOM series below ``root``."""
    there = find_series(root)
    found.unreadable |= there.refused
    found.dicom = bool(there.series or there.refused)
    for series in tqdm(there.series, "Reading DICOM series", leave=False, disable=not there.series):
        name = series_name(series)
        reason = Rules(modality=(series.modality,), min_slices=1).why_not(series)
        if reason is not None:
            found.left_out[name] = f"{name}: {reason}"
            continue
        try:
            image = converted(series, cache_dir, plane)
            open_scan(image, cache_dir, bias_correction=bias_correction)
        except (ValueError, OSError) as error:
            found.unreadable[name] = f"{name}: {error}"
            continue
        found.items.append({"image": image, "name": name})
        found.series[image] = series
