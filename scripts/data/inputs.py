"""The images that an inference is asked for."""

import glob
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from scripts.data.datalist import load_datalist, load_items
from scripts.data.images import IMAGE_SUFFIXES, UnreadableImageError, read_image

logger = logging.getLogger(__name__)


class Inputs(NamedTuple):
    """``items`` as MONAI's datasets take them, and the reason for each file that was left out."""

    items: list[dict[str, str]]
    unreadable: dict[str, str]


def find_inputs(path: str | None, dataset_dir: str | None = None) -> Inputs:
    """Finds the images of ``path``: an image, a folder (searched through), a glob, or a datalist (its ``test`` split).

    Every file is decoded once beforehand, so that a damaged one costs a line in the log and not the run.

    Raises:
        ValueError: if no path is given, or it holds no image that can be read.
        FileNotFoundError: if there is nothing at ``path``.
    """
    if not path:
        raise ValueError("No input: say what to look at with --input PATH (an image, a folder, a glob or a datalist).")
    files = _files(str(path), dataset_dir)
    if not files:
        raise ValueError(f"{path} holds no image; looked for {', '.join(IMAGE_SUFFIXES)}.")
    with ThreadPoolExecutor() as pool:
        reasons = list(tqdm(pool.map(_reason_against, files), "Checking files", total=len(files), leave=False))
    unreadable = {file: reason for file, reason in zip(files, reasons, strict=True) if reason}
    for reason in unreadable.values():
        logger.error("Left out: %s", reason)
    items = [{"image": file} for file in files if file not in unreadable]
    if not items:
        raise ValueError(f"None of the {len(files)} images of {path} can be read; the first: {reasons[0]}")
    return Inputs(items, unreadable)


def _files(path: str, dataset_dir: str | None) -> list[str]:
    if os.path.isdir(path):
        return sorted(str(file) for file in Path(path).rglob("*") if _is_image(file))
    if path.endswith(".json"):
        load_datalist(path)
        return [item["image"] for item in load_items(path, "test", dataset_dir)]
    if os.path.isfile(path):
        return [path]
    found = sorted(file for file in glob.glob(path, recursive=True) if _is_image(Path(file)))
    if not found and not glob.has_magic(path):
        raise FileNotFoundError(f"There is no file or folder {path}.")
    return found


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()


def _reason_against(file: str) -> str | None:
    try:
        read_image(file)
    except (UnreadableImageError, OSError) as error:
        return str(error)
    return None
