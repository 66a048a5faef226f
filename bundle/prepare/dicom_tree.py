"""Converts the DICOM series below a folder to scans whose names reveal no patient."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bundle.prepare.layouts import Sample, read_csv
from scripts.data.scans import Scan, open_scan
from scripts.data.slices import open_mask
from scripts.dicom.conversion import converted, series_name
from scripts.dicom.nifti import write_nifti
from scripts.dicom.privacy import group_of
from scripts.dicom.rules import Rules
from scripts.dicom.salt import salt_of
from scripts.dicom.series import Series, find_series

logger = logging.getLogger(__name__)

Labels = Mapping[str, tuple[int, Path | None]]

_PRIVATE = "prepare said why on the terminal"  # reasons may name files, and files patients


@dataclass
class DicomTree:
    """Selection of DICOM series below a folder, which become scans under names that reveal no patient.

    Attributes:
        scans: Folder for the scans; ``salt.txt`` lies beside it.
        cache_dir: Folder for uncompressed copies of scans, see ``open_scan``.
        rules: Conditions on the series to convert.
        labels: Label and mask by PatientID, StudyInstanceUID or SeriesInstanceUID.
        all_normal: Whether all series are normal, so that no labels are needed.
        given_salt: Salt that the user gave, see ``salt_of``.
        left_out: Reason for each series or file left out, by a name that reveals no patient.
        modalities: Modalities of the scans.
    """

    scans: Path
    cache_dir: Path
    rules: Rules
    labels: Labels | None = None
    all_normal: bool = False
    given_salt: str | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    modalities: set[str] = field(default_factory=set)

    @cached_property
    def _salt(self) -> tuple[str, str]:
        return salt_of(self.given_salt, self.scans.parent)

    @property
    def salt_note(self) -> str:
        """Sentence for the user on where the salt comes from."""
        return self._salt[1]

    def group_of(self, key: str) -> str:
        """Pseudonym of the patient with this PatientID."""
        return group_of(key, self._salt[0])

    def read(self, root: Path) -> list[Sample]:
        """Converts the selected series, each to ``<modality>-<hash>.nii`` with its mask beside it.

        Args:
            root: Folder of DICOM files, nested in any way.

        Returns:
            One sample for each series, or none if there is no DICOM.

        Raises:
            ValueError: If no DICOM file can be read, no series is selected, or there are no labels.
        """
        found = find_series(root)
        # macOS leaves ._NAME.dcm beside files that it copies.
        refused = {path: reason for path, reason in found.refused.items() if not Path(path).name.startswith(".")}
        if not found.series:
            if any(not Path(path).is_dir() for path in refused):
                raise ValueError(
                    f"{root}: none of its DICOM files can be read; the first: {next(iter(refused.values()))}"
                )
            return []
        if self.labels is None and not self.all_normal:
            raise ValueError(
                f"{root}: DICOM does not say what is normal. Give --normal if all series are, or --labels TABLE, a CSV "
                "with columns key,label[,mask]: key is a PatientID, StudyInstanceUID or SeriesInstanceUID, label 0 "
                "(normal) or 1, mask a NIfTI on the grid of the series."
            )
        for path, reason in refused.items():
            logger.warning("%s", reason)
            self.left_out[f"file-{self.group_of(path)}"] = f"cannot be read as DICOM: {_PRIVATE}"
        samples = []
        for series in tqdm(found.series, "Converting DICOM series", leave=False, disable=None):
            sample = self._sample(series)
            samples += [] if sample is None else [sample]
        if not samples:
            name = series_name(found.series[0])
            raise ValueError(
                f"{root}: none of its {len(found.series)} DICOM series can be used; the first is {name}: "
                f"{self.left_out[name]}. Choose other rules (--dicom-modality, --description, --orientation, "
                "--min-slices) or labels."
            )
        return samples

    def _sample(self, series: Series) -> Sample | None:
        name = series_name(series)
        label, mask = self._label(series)
        why_not = self.rules.why_not(series) or (None if label is not None else "not in the table of labels")
        if why_not is None and name in self._names:
            why_not, name = "another series has the same UID", f"{name}-{self.group_of(series.patient_key)}"
        if label is None or why_not is not None:
            self.left_out[name] = str(why_not)
            return None
        try:
            image = converted(series, str(self.scans), series.orientation or "axial")
            scan = open_scan(image, self.cache_dir)
            kept = None if mask is None else self._kept_mask(mask, scan)
        except (ValueError, OSError) as error:
            logger.warning("%s: %s", name, error)
            self.left_out[name] = f"cannot be used as a scan: {_PRIVATE}"
            return None
        self._names.add(name)
        self.modalities.add(series.modality)
        return Sample(Path(image), label, self.group_of(series.patient_key), kept)

    @cached_property
    def _names(self) -> set[str]:
        return set()

    def _label(self, series: Series) -> tuple[int | None, Path | None]:
        """Label and mask of the series, else those of its study, else those of its patient."""
        if self.labels is None:
            return 0, None
        keys = (series.uid, series.study_uid, series.patient_key)
        return next((self.labels[key] for key in keys if key in self.labels), (None, None))

    def _kept_mask(self, mask: Path, scan: Scan) -> Path:
        """Copies a mask beside its scan, as its own path may name the patient."""
        opened = open_mask({"image": scan.source, "mask": str(mask)}, scan, self.cache_dir)
        kept = Path(scan.source.removesuffix(".nii") + "_mask.nii")
        write_nifti((opened.array() != 0).astype(np.uint8), scan.affine, kept)
        return kept


def read_labels(table: Path) -> dict[str, tuple[int, Path | None]]:
    """Reads a CSV with columns key, label and, optionally, mask.

    Args:
        table: CSV file; paths of masks are relative to it.

    Returns:
        Label (0 or 1) and mask, if any, by key.

    Raises:
        FileNotFoundError: If there is no such table.
        ValueError: If a column or a value is wrong; the message names the line, but no key.
    """
    if not table.is_file():
        raise FileNotFoundError(f"{table}: no such table. Give a CSV file with columns key,label[,mask].")
    rows = read_csv(table)
    if not {"key", "label"} <= set(rows.columns):
        raise ValueError(f"{table}: needs columns key and label, has {', '.join(rows.columns)}.")
    labels: dict[str, tuple[int, Path | None]] = {}
    for line, row in enumerate(rows.to_dict("records"), start=2):
        if not row["key"] or row["label"] not in ("0", "1"):
            raise ValueError(f"{table}: line {line} needs a key and a label of 0 or 1.")
        if row["key"] in labels:
            raise ValueError(f"{table}: line {line} repeats the key of another line. Remove one of them.")
        labels[row["key"]] = int(row["label"]), table.parent / row["mask"] if row.get("mask") else None
    if not labels:
        raise ValueError(f"{table}: has no rows. Add one for each patient, study or series.")
    return labels
