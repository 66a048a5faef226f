"""Finds NIfTI scans and their masks in folders of any nesting."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from bundle.prepare.layouts import SPLIT_NAMES, Sample
from scripts.data.scans import MASK_PATTERN, is_scan, open_all, open_scan, scan_stem

_CLASS_WORDS = (
    re.compile(r"(\d+[ _-])?(normals?|healthy|controls?|good)", re.IGNORECASE),
    re.compile(r"(\d+[ _-])?(abnormals?|anomal(y|ies|ous)|patients?|diseased?|ungood)", re.IGNORECASE),
)
_BIDS_SUBJECT = re.compile(r"(?:^|/)(sub-[0-9a-zA-Z]+)")


@dataclass
class NiftiTree:
    """Rules that tell scans, masks, patients, labels and splits from names; hidden files are ignored.

    A name that matches ``mask_pattern`` is a mask. It belongs to the scan in the same folder whose name is the same
    without the matching word, else to the only scan there. The group is BIDS's ``sub-XX``, else the topmost folder
    that is no class word, else the path. A scan with a mask is anomalous if the mask is not empty. Without a mask, the
    innermost folder that is a class word decides (normal, healthy, control, good; abnormal, anomaly, patients, disease,
    ungood). If one of the two topmost folders is ``train``, ``val`` or ``test``, the data set has its own split.

    Attributes:
        cache_dir: Folder for uncompressed copies of scans, see ``open_scan``.
        mask_pattern: Regular expression for names of masks without suffix; matches anywhere, ignoring case.
        image_pattern: Glob for paths of scans below the folder, ignoring case.
        label_without_mask: Label of scans without mask and class word; None makes them an error.
        skip: Folders to ignore.
        left_out: Reasons for folders that cannot be listed and masks without a scan.
    """

    cache_dir: Path
    mask_pattern: str = MASK_PATTERN
    image_pattern: str = "*"
    label_without_mask: int | None = None
    skip: Sequence[Path] = ()
    left_out: dict[Path, str] = field(default_factory=dict)

    def read(self, root: Path) -> list[Sample]:
        """Finds the scans below a folder, none if there is no NIfTI.

        Raises:
            ValueError: If a pattern, mask, label or split is wrong or ambiguous; the message says what to do.
        """
        try:
            word = re.compile(self.mask_pattern, re.IGNORECASE)
        except re.error as error:
            raise ValueError(
                f"--mask-pattern {self.mask_pattern}: not a regular expression ({error}). For *_roi.nii.gz give _roi."
            ) from error
        files = sorted(self._files(root))
        if not files:
            return []
        scans = [
            file
            for file in files
            if not word.search(scan_stem(file)) and fnmatch(_below(root, file).lower(), self.image_pattern.lower())
        ]
        if not scans:
            raise ValueError(
                f"{root}: none of its {len(files)} NIfTI files is a scan; the first is {_below(root, files[0])}. "
                "Say with --mask-pattern what masks are called, and with --image-pattern what scans are called."
            )
        masks = self._masks(scans, [file for file in files if word.search(scan_stem(file))], word)
        opened, _ = open_all([str(mask) for mask in masks.values()], self._open_mask)
        samples = []
        for scan in scans:
            mask = masks.get(scan)
            # An unreadable mask excludes its scan later, whatever the label.
            full = None if mask is None else str(mask) not in opened or any(opened[str(mask)].foreground[0])
            label = self._label(root, scan, full)
            samples.append(Sample(scan, label, _group(root, scan), mask, split=_split(root, scan)))
        odd = next((sample for sample in samples if sample.split is None), None)
        if odd is not None and any(sample.split is not None for sample in samples):
            raise ValueError(
                f"{odd.image}: lies in none of the folders train, val and test, unlike others. Move it, or choose the "
                "scans with --image-pattern."
            )
        return samples

    def _files(self, root: Path) -> Iterator[Path]:
        def refuse(error: OSError) -> None:
            self.left_out[Path(error.filename)] = f"cannot be listed ({error.strerror}). Grant permission to read it."

        seen = {os.path.realpath(folder) for folder in self.skip}
        for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
            seen.add(os.path.realpath(folder))
            folders[:] = [
                name
                for name in folders
                if not name.startswith((".", "__")) and os.path.realpath(os.path.join(folder, name)) not in seen
            ]
            yield from (Path(folder, name) for name in names if is_scan(name) and not name.startswith("."))

    def _masks(self, scans: list[Path], masks: list[Path], word: re.Pattern[str]) -> dict[Path, Path]:
        """Mask of each scan that has one."""
        found: dict[Path, Path] = {}
        for mask in masks:
            here = [scan for scan in scans if scan.parent == mask.parent]
            name = _letters(word.sub(" ", scan_stem(mask)))
            owners = [scan for scan in here if _letters(scan_stem(scan)) == name] or here
            if not owners:
                self.left_out[mask] = "is named like a mask, but no scan lies beside it."
            elif len(owners) > 1:
                raise ValueError(
                    f"{mask}: may be the mask of {owners[0].name} or of {owners[1].name}. Choose the scans with "
                    f"--image-pattern '*{scan_stem(owners[0])}*', or name the mask like its scan, followed by _mask."
                )
            elif owners[0] in found:
                raise ValueError(
                    f"{owners[0]}: {found[owners[0]].name} and {mask.name} may both be its mask. Say with "
                    "--mask-pattern what its masks are called."
                )
            else:
                found[owners[0]] = mask
        return found

    def _open_mask(self, path: str) -> object:
        return open_scan(path, self.cache_dir, mask=True)

    def _label(self, root: Path, scan: Path, full: bool | None) -> int:
        """Label of a scan; ``full`` is whether its mask has an anomaly, None without a mask."""
        folders = scan.relative_to(root).parts[:-1]
        words = [label for name in folders for label, word in enumerate(_CLASS_WORDS) if word.fullmatch(name)]
        if full and words and words[-1] == 0:
            raise ValueError(
                f"{scan}: lies among the normals, but its mask is not empty. Move the scan, or say with --mask-pattern "
                "what masks of anomalies are called."
            )
        if full is not None:
            return int(full)
        label = words[-1] if words else self.label_without_mask
        if label is None:
            raise ValueError(
                f"{scan}: is it normal? There is no mask beside it, and none of its folders is called normal or "
                "abnormal. Give --label-without-mask 0 (such scans are normal) or 1, or --mask-pattern if its mask has "
                "another name, or list the scans in a CSV file and pass it with --csv."
            )
        return label


def _group(root: Path, scan: Path) -> str:
    below, folders = _below(root, scan), scan.relative_to(root).parts[:-1]
    if subject := _BIDS_SUBJECT.search(below):
        return subject[1]
    own = [name for name in folders if name != _split_folder(folders)]
    return next((name for name in own if not any(word.fullmatch(name) for word in _CLASS_WORDS)), below)


def _split(root: Path, scan: Path) -> str | None:
    return SPLIT_NAMES.get(_split_folder(scan.relative_to(root).parts[:-1]).lower())


def _split_folder(folders: Sequence[str]) -> str:
    return next((name for name in folders[:2] if name.lower() in SPLIT_NAMES), "")


def _below(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix()


def _letters(stem: str) -> str:
    """Name in lower case, with single spaces between its words."""
    return re.sub(r"[\W_]+", " ", stem.lower()).strip()
