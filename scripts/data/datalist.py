"""Datalists: the JSON files that list the items for training, validation and test."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from scripts.data.scans import is_scan

logger = logging.getLogger(__name__)

SPLITS = ("training", "validation", "test")

Item = dict[str, Any]


def load_datalist(path: str | Path) -> dict[str, Any]:
    """Reads a datalist and checks everything but the files: labels, and that no group is in two splits.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a datalist, or an item is not valid.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "datalist.json")
    ...     _ = path.write_text('{"training": [{"image": "a.png", "group": "patient 1", "label": 0}]}')
    ...     load_datalist(path)["training"][0]["group"]
    'patient 1'
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no datalist {path}. Write one with `python -m bundle prepare FOLDER --out {path}`."
        )
    try:
        datalist = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error}). Prepare it again with `python -m bundle prepare`.") from error
    if not (isinstance(datalist, dict) and any(isinstance(datalist.get(split), list) for split in SPLITS)):
        raise ValueError(f"{path}: is not a datalist, as it has no list {', '.join(SPLITS)} at the top level.")
    split_of_group: dict[str, str] = {}
    for split in SPLITS:
        _check_items(path, split, datalist.get(split, []), normals_only=_normals_only(datalist, split))
        for item in datalist.get(split, []):
            other = split_of_group.setdefault(item["group"], split)
            if other != split:
                raise ValueError(
                    f"{path}: group {item['group']!r} is in {other} and in {split}. Keep all images of a patient in "
                    "one split."
                )
    return datalist


def load_items(
    path: str | Path, split: str, dataset_dir: str | Path | None = None, required: bool = True
) -> list[Item]:
    """Items of one split, with absolute paths as `image` and `mask`.

    Args:
        path: Path of the datalist.
        split: training, validation or test.
        dataset_dir: Folder of the images; by default the datalist's own `dataset_dir`, relative to the datalist.
        required: Whether a missing or empty split is an error.

    Raises:
        FileNotFoundError: If the datalist or a file that it names is missing.
        ValueError: If the datalist is not valid, or a required split is missing or empty.
    """
    path = Path(path)
    datalist = load_datalist(path)
    if not datalist.get(split):
        if not required:
            return []
        held = ", ".join(f"{name} ({len(datalist[name])})" for name in SPLITS if datalist.get(name)) or "no items"
        raise ValueError(
            f"{path}: split {split!r} is missing or empty. It holds {held}; name another split, or prepare it again."
        )
    root = Path(dataset_dir) if dataset_dir is not None else path.parent / datalist.get("dataset_dir", ".")
    root = root.resolve()
    items = [
        item | {key: str(root / item[key]) for key in ("image", "mask") if key in item} for item in datalist[split]
    ]
    files = dict.fromkeys(item[key] for item in items for key in ("image", "mask") if key in item)
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{path}: {len(missing)} of {len(files)} files of {split} are missing in {root}: "
            f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}. "
            "Set dataset_dir to where they are, or prepare the datalist again."
        )
    return items


def load_test_items(path: str | Path, dataset_dir: str | Path | None = None) -> list[Item]:
    """Items of the test split, checked to allow metrics.

    All have the same keys: `image`, `label`, `group`; `mask`, empty for a normal item, where every anomaly has one, or
    else `slice_labels`, a digit a slice, where every item has them; and `class` where every item has one.

    Args:
        path: Path of the datalist.
        dataset_dir: Folder of the images; by default the datalist's own `dataset_dir`.

    Raises:
        FileNotFoundError: If the datalist or a file that it names is missing.
        ValueError: If the datalist is not valid, or the items do not allow metrics.
    """
    items = load_items(path, "test", dataset_dir)
    masked = has_masks(items)
    sliced = not masked and all(item.get("slice_labels") for item in items)
    keys = ["image", "label", "group", *["mask"] * masked, *["slice_labels"] * sliced, *["class"] * has_classes(items)]
    items = [{key: item.get(key, "") for key in keys} for item in items]
    if not (masked and all(is_scan(item["image"]) for item in items)):  # scans with masks have slices of both classes
        require_both_classes(items, path)
    return items


def load_calibration_items(path: str | Path, dataset_dir: str | Path | None = None) -> list[Item]:
    """Items of the validation split from patients without any anomaly, sorted by patient.

    Args:
        path: Path of the datalist.
        dataset_dir: Folder of the images; by default the datalist's own `dataset_dir`.

    Raises:
        FileNotFoundError: If the datalist or a file that it names is missing.
        ValueError: If the datalist is not valid, or there are no such items.
    """
    items = load_items(path, "validation", dataset_dir, required=False)
    anomalous = {item["group"] for item in items if item["label"] == 1}
    normal = [item for item in items if item["group"] not in anomalous]
    if not normal:
        raise ValueError(
            f"{path}: no normal patient in validation for calibration. Prepare it with --validation-fraction and "
            "train again; slices held out from training scans (held_out) do not count, as the training has seen "
            "their patients."
        )
    return sorted(({key: item[key] for key in ("image", "label", "group")} for item in normal), key=_by_group)


def has_masks(items: list[Item]) -> bool:
    """Checks whether every anomalous item has a mask, as pixel metrics need; warns if only some have one.

    >>> has_masks([{"label": 0}, {"label": 1, "mask": "a.png"}])
    True
    """
    anomalous = [item for item in items if item["label"] == 1]
    masked = [item for item in anomalous if "mask" in item]
    if masked and len(masked) < len(anomalous):
        logger.warning(
            "%d of %d anomalous images have no mask, so there will be no pixel metrics.",
            len(anomalous) - len(masked),
            len(anomalous),
        )
    return bool(anomalous) and len(masked) == len(anomalous)


def has_classes(items: list[Item]) -> bool:
    """Checks whether every item has a class (organ), as metrics by class need; warns if only some have one.

    >>> has_classes([{"class": "brain"}, {"class": "liver"}])
    True
    """
    known = [item for item in items if item.get("class")]
    if known and len(known) < len(items):
        logger.warning(
            "%d of %d images have no class, so there will be no metrics by class.", len(items) - len(known), len(items)
        )
    return bool(items) and len(known) == len(items)


def require_both_classes(items: list[Item], path: str | Path) -> None:
    """Checks that both normal and anomalous items are present, as metrics need them.

    Raises:
        ValueError: If all items are normal or all are anomalous.
    """
    labels = {item["label"] for item in items}
    if labels != {0, 1}:
        lacking = "anomalies (label 1)" if 1 not in labels else "normal images (label 0)"
        raise ValueError(
            f"{path}: the test has no {lacking}, so there is no AUROC. Add some to the split and prepare it again."
        )


def datalist_name(path: str | Path) -> str:
    """Name of the data set, or of the datalist file if the data set has none; raises as `load_datalist`."""
    return str(load_datalist(path).get("name") or Path(path).stem)


def datalist_hash(path: str | Path) -> str:
    """SHA-256 of the datalist file, 64 hex digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def datalist_facts(path: str | Path) -> dict[str, Any]:
    """Facts that a model keeps of its datalist: `data` (its name), `datalist_sha256`, `modality` (None if
    unknown) and of the training split the number of `patients`, `images` (or scans) and `duplicates` of all splits.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a datalist.
    """
    datalist = load_datalist(path)
    items = datalist.get("training", [])
    patients = len({item["group"] for item in items})
    return {
        "data": datalist_name(path),
        "datalist_sha256": datalist_hash(path),
        "modality": datalist.get("modality") or None,
        "training": {
            "patients": patients,
            "images": len(items),
            "duplicates": int(datalist.get("n_duplicates", 0)),
        },
    }


def _by_group(item: Item) -> str:
    return str(item["group"])


def _normals_only(datalist: dict[str, Any], split: str) -> bool:
    if datalist.get("abnormal_subjects", False):  # their slices without anomaly may be used
        return False
    return split == "training" or (split == "validation" and not datalist.get("labelled_validation", False))


def _check_items(path: Path, split: str, items: list[Any], normals_only: bool) -> None:
    for number, item in enumerate(items):
        where = f"{path}: {split}[{number}]"
        if not isinstance(item, dict) or not all(isinstance(item.get(key), str) for key in ("image", "group")):
            raise ValueError(f"{where} needs 'image' and 'group' (patient or study; else the image's own name).")
        if type(item.get("label")) is not int or item["label"] not in (0, 1):
            raise ValueError(f"{where} ({item['image']}) needs a label of 0 (normal) or 1, has {item.get('label')!r}.")
        if normals_only and item["label"] == 1:
            raise ValueError(
                f"{where} ({item['image']}) has label 1, but {split} may hold normal items only. Move it to test"
                + (', or set "labelled_validation": true.' if split == "validation" else ".")
            )
