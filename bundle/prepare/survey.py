"""Reads every image or scan of a data set once and summarises what is in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from tqdm.contrib.concurrent import thread_map

from bundle.prepare.layouts import Sample
from scripts.data.images import UnreadableImageError, read_image, read_mask
from scripts.data.scans import is_scan, open_scan
from scripts.data.slices import open_mask

_HOUNSFIELD_AIR = -500  # no MR image has such values, and nearly every CT does


@dataclass(frozen=True)
class Facts:
    """Contents of one readable image or scan."""

    digest: str  # hash of type, shape and values: equal for exact duplicates, whatever the file format
    shape: tuple[int, ...]  # image: height and width in pixels; scan: voxels left-right, front-back and up-down
    dtype: str
    low: float  # smallest and largest value, in the units of the file
    high: float
    spacing: tuple[float, ...] = ()  # mm along the axes of `shape`; scans only


def examine(samples: Sequence[Sample], cache_dir: Path) -> tuple[dict[Path, Facts], dict[Path, str]]:
    """Reads all images or scans and their masks, in threads and with a progress bar.

    Args:
        samples: Samples to read.
        cache_dir: Folder for uncompressed copies of scans, see ``scripts.data.scans.open_scan``.

    Returns:
        Facts of each readable sample, and the reason for each of the others, by path of the image.

    Raises:
        ValueError: If a mask and its image differ in size, or images and scans are mixed.
    """
    kinds = {is_scan(sample.image): sample.image for sample in samples}
    if len(kinds) > 1:
        raise ValueError(f"{kinds[True]} is a scan and {kinds[False]} an image: prepare a datalist for each kind.")
    scans = True in kinds
    results = thread_map(
        partial(_examine, cache_dir=cache_dir),
        samples,
        max_workers=min(4 if scans else 16, os.cpu_count() or 1),  # each holds a whole volume
        desc="reading",
        unit="scan" if scans else "image",
        leave=False,
        disable=None,
    )
    by_image = dict(zip((sample.image for sample in samples), results, strict=True))
    facts = {image: result for image, result in by_image.items() if isinstance(result, Facts)}
    return facts, {image: result for image, result in by_image.items() if isinstance(result, str)}


def duplicates(samples: Sequence[Sample], facts: dict[Path, Facts]) -> list[list[Sample]]:
    """Sets of samples whose values are exactly the same."""
    by_digest: dict[str, list[Sample]] = {}
    for sample in samples:
        by_digest.setdefault(facts[sample.image].digest, []).append(sample)
    return [same for same in by_digest.values() if len(same) > 1]


def intensity_range(facts: Sequence[Facts]) -> list[float] | None:
    """Intensity range: [0, 255] of uint8 images, smallest and largest value of deeper ones, None without images."""
    if not facts:
        return None
    if all(fact.dtype == "uint8" for fact in facts):
        return [0, 255]
    return [min(fact.low for fact in facts), max(fact.high for fact in facts)]


def intensity_overlay(facts: Collection[Facts], modality: str) -> str:
    """Config for the intensities of scans: that of CT if the modality says so or most scans hold air in HU, else MR."""
    airy = sum(fact.low <= _HOUNSFIELD_AIR for fact in facts)
    return f"configs/data/{'ct' if modality.upper() == 'CT' or 2 * airy > len(facts) else 'mr'}.json"


def table(samples: Sequence[Sample], facts: dict[Path, Facts]) -> str:
    """Tabulates counts, groups, masks, sizes and values by split, label and class.

    The size of an image is height x width; that of a scan is in voxels left-right, front-back and up-down.
    """
    frame = pd.DataFrame(
        [
            {
                "split": sample.split,
                "label": ("normal", "anomaly")[sample.label],
                "class": sample.organ or "-",
                "group": sample.group,
                "mask": sample.mask is not None,
                **vars(facts[sample.image]),
            }
            for sample in samples
        ]
    )
    frame["split"] = pd.Categorical(frame["split"], ["training", "validation", "test"])
    frame["label"] = pd.Categorical(frame["label"], ["normal", "anomaly"])
    scans = is_scan(samples[0].image)
    rows = [
        {
            "split": split,
            "label": label,
            "class": organ,
            "scans" if scans else "images": len(part),
            "groups": part["group"].nunique(),
            "masks": part["mask"].sum(),
            **(_of_scans(part) if scans else _of_images(part)),
        }
        for (split, label, organ), part in frame.groupby(["split", "label", "class"], observed=True)
    ]
    return pd.DataFrame(rows).to_string(index=False)


def _of_images(part: pd.DataFrame) -> dict[str, Any]:
    return {
        "size": _extent(part["shape"]),
        "dtype": ", ".join(sorted(part["dtype"].unique())),
        "values": f"{part['low'].min():g}..{part['high'].max():g}",
    }


def _of_scans(part: pd.DataFrame) -> dict[str, Any]:
    return {
        "axial slices": sum(shape[2] for shape in part["shape"]),
        "size": _extent(part["shape"]),
        "spacing": _extent(part["spacing"]),
        "values": f"{part['low'].min():g}..{part['high'].max():g}",
    }


def _extent(sizes: pd.Series) -> str:
    """Smallest and largest size along each axis."""
    axes = np.array(sizes.tolist())
    low, high = ("x".join(f"{size:.4g}" for size in extreme) for extreme in (axes.min(axis=0), axes.max(axis=0)))
    return low if low == high else f"{low}..{high}"


def _examine(sample: Sample, cache_dir: Path) -> Facts | str:
    try:
        if is_scan(sample.image):
            return _examine_scan(sample, cache_dir)
        image = read_image(sample.image)
        mask = None if sample.mask is None else read_mask(sample.mask)
    except UnreadableImageError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or sample.image}: {error.strerror or error}"
    if mask is not None and mask.shape != image.shape[:2]:
        raise ValueError(
            f"{sample.mask}: is {mask.shape[0]}x{mask.shape[1]}, but its image {sample.image} is "
            f"{image.shape[0]}x{image.shape[1]}. Resample the mask to its image, or remove it."
        )
    return Facts(_digest(image), image.shape[:2], str(image.dtype), *_extremes(image))


def _examine_scan(sample: Sample, cache_dir: Path) -> Facts | str:
    try:
        scan = open_scan(sample.image, cache_dir)
        if sample.mask is not None:
            mask = open_mask({"image": str(sample.image), "mask": str(sample.mask)}, scan, cache_dir)
            if sample.label == 0 and any(mask.foreground[0]):
                return (
                    f"{sample.image}: is labelled normal, but its mask {sample.mask} is not empty. Correct one of them."
                )
    except ValueError as error:
        return str(error)
    array = scan.array()
    axes = [int(axis) for axis in np.argsort(nib.io_orientation(scan.affine)[:, 0])]
    spacing = nib.affines.voxel_sizes(scan.affine)
    return Facts(
        _digest(array.astype(np.float32, order="C")),  # the same type for compressed and uncompressed files
        tuple(scan.shape[axis] for axis in axes),
        str(array.dtype),
        *_extremes(array),
        tuple(float(spacing[axis]) for axis in axes),
    )


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()


def _extremes(array: np.ndarray) -> tuple[float, float]:
    low, high = (extreme.item() for extreme in (np.min(array), np.max(array)))
    return low, high
