"""Reads every image of a data set once and says what is in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.contrib.concurrent import thread_map

from scripts.data.images import UnreadableImageError, read_image, read_mask
from scripts.data.layouts import Sample


@dataclass(frozen=True)
class Facts:
    """What one readable image holds."""

    digest: str  # of dtype, shape and pixels: equal for exact duplicates, whatever the file format
    height: int  # pixels
    width: int
    dtype: str
    low: float  # smallest and largest value, in native units
    high: float


def examine(samples: Sequence[Sample]) -> tuple[dict[Path, Facts], dict[Path, str]]:
    """Reads all images and their masks, in threads and with a progress bar.

    Returns:
        The facts of each readable image, and for each of the others the reason.

    Raises:
        ValueError: If a mask has not the size of its image.
    """
    workers = min(16, os.cpu_count() or 1)
    results = thread_map(
        _examine, samples, max_workers=workers, desc="reading", unit="image", leave=False, disable=None
    )
    by_image = dict(zip((sample.image for sample in samples), results, strict=True))
    facts = {image: result for image, result in by_image.items() if isinstance(result, Facts)}
    return facts, {image: result for image, result in by_image.items() if isinstance(result, str)}


def duplicates(samples: Sequence[Sample], facts: dict[Path, Facts]) -> list[list[Sample]]:
    """Gives the sets of samples whose pixels are exactly the same."""
    by_digest: dict[str, list[Sample]] = {}
    for sample in samples:
        by_digest.setdefault(facts[sample.image].digest, []).append(sample)
    return [same for same in by_digest.values() if len(same) > 1]


def intensity_range(facts: Sequence[Facts]) -> list[float] | None:
    """Gives [0, 255] for uint8 images, the smallest and largest value for deeper ones, None for no images."""
    if not facts:
        return None
    if all(fact.dtype == "uint8" for fact in facts):
        return [0, 255]
    return [min(fact.low for fact in facts), max(fact.high for fact in facts)]


def table(samples: Sequence[Sample], facts: dict[Path, Facts]) -> str:
    """Tabulates images, groups, masks, sizes (height x width), depths and values for each split, label and class."""
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
    rows = [
        {
            "split": split,
            "label": label,
            "class": organ,
            "images": len(part),
            "groups": part["group"].nunique(),
            "masks": part["mask"].sum(),
            "size": _size(part),
            "dtype": ", ".join(sorted(part["dtype"].unique())),
            "values": f"{part['low'].min():g}..{part['high'].max():g}",
        }
        for (split, label, organ), part in frame.groupby(["split", "label", "class"], observed=True)
    ]
    return pd.DataFrame(rows).to_string(index=False)


def _size(part: pd.DataFrame) -> str:
    low, high = (
        f"{extreme['height']}x{extreme['width']}"
        for extreme in part[["height", "width"]].agg(["min", "max"]).to_dict("records")
    )
    return low if low == high else f"{low}..{high}"


def _examine(sample: Sample) -> Facts | str:
    try:
        image = read_image(sample.image)
        mask = None if sample.mask is None else read_mask(sample.mask)
    except UnreadableImageError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    if mask is not None and mask.shape != image.shape[:2]:
        raise ValueError(
            f"{sample.mask}: is {mask.shape[0]}x{mask.shape[1]}, but its image {sample.image} is "
            f"{image.shape[0]}x{image.shape[1]}. Resample the mask to its image, or take it away."
        )
    digest = hashlib.sha256(f"{image.dtype} {image.shape} ".encode() + image.tobytes())
    low, high = (extreme.item() for extreme in (np.min(image), np.max(image)))
    return Facts(digest.hexdigest(), image.shape[0], image.shape[1], str(image.dtype), low, high)
