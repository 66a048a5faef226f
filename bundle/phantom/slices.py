"""Writes phantom head CT as slices: 16-bit PNG with masks and an index."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from bundle.phantom.heads import MAX_VALUE, WINDOW, Subject, draw_head


def write_phantoms(
    folder: str | Path,
    subjects: int = 60,
    slices: int = 4,
    size: int = 128,
    seed: int = 0,
    abnormal_fraction: float = 0.2,
) -> Path:
    """Writes phantom subjects to a new or empty folder; the same arguments write the same bytes.

    The test split holds the abnormal subjects and as many normal ones, validation a tenth of all subjects, training
    the rest. Slices that the lesion of an abnormal subject does not reach have label 0.

    Args:
        folder: New or empty folder.
        subjects: Number of subjects.
        slices: Slices for each subject, from the skull base to the vertex.
        size: Height and width in pixels, at least 32.
        seed: Seed of the subjects.
        abnormal_fraction: Fraction of the subjects with a lesion.

    Returns:
        Path of index.csv.

    Raises:
        ValueError: If a split would be empty or the size is too small.
        FileExistsError: If the folder holds files.
    """
    folder = Path(folder)
    abnormal, validation = round(abnormal_fraction * subjects), max(1, round(0.1 * subjects))
    if abnormal < 1 or 2 * abnormal + validation >= subjects or slices < 1 or size < 32:
        raise ValueError(
            f"{subjects} subjects of {slices} slices of {size} pixels with an abnormal fraction of {abnormal_fraction} "
            "leave a split empty or are too small: ask for more subjects, a fraction of about 0.2, and a size of 32 or "
            "more."
        )
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: give a new folder, or delete this one to write it again.")
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)

    training = subjects - 2 * abnormal - validation
    roles = ["training"] * training + ["validation"] * validation + ["test"] * abnormal + ["abnormal"] * abnormal
    rows = []
    for i, role in enumerate(np.random.default_rng(seed).permutation(roles)):
        rng = np.random.default_rng([seed, i])
        levels = (np.arange(slices) + rng.uniform(0.3, 0.7, slices)) / slices
        subject = _draw_abnormal(rng, rng.choice(levels), size) if role == "abnormal" else Subject.draw(rng)
        for j, level in enumerate(levels):
            image, mask, _ = (part[:, :, 0] for part in draw_head(subject, [level], (size, size)))
            name = f"s{i:03d}_{j:02d}.png"
            grey = np.interp(image, WINDOW, (0, MAX_VALUE))
            Image.fromarray(np.rint(grey).astype(np.uint16)).save(folder / "images" / name)
            if mask.any():
                Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / name)
            rows.append(
                {
                    "image": f"images/{name}",
                    "label": int(mask.any()),
                    "mask": f"masks/{name}" if mask.any() else "",
                    "group": f"s{i:03d}",
                    "split": "test" if role == "abnormal" else role,
                }
            )
    index = folder / "index.csv"
    pd.DataFrame(rows).to_csv(index, index=False, lineterminator="\n")
    return index


def _draw_abnormal(rng: np.random.Generator, level: float, size: int) -> Subject:
    """Draws subjects until one shows its lesion in the slice at its level."""
    while True:
        subject = Subject.draw(rng, level)
        if draw_head(subject, [level], (size, size)).mask.any():
            return subject
