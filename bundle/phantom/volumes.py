"""Writes phantom head CT as volumes: NIfTI in several orientations, and some of them as DICOM series too."""

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from bundle.phantom.dicom import write_series
from bundle.phantom.heads import KINDS, Head, Subject, draw_head

ORIENTATIONS = ("RAS", "LAS", "RAS", "PIR")  # storage orientations, which subjects take in turn
HU_RANGE = (-1024, 3071)


def write_phantom_volumes(
    folder: str | Path,
    *,
    normal: int = 8,
    anomalous: int = 4,
    shape: tuple[int, int, int] = (96, 96, 16),
    spacing: tuple[float, float, float] = (2.0, 2.0, 5.0),
    dicom: int = 1,
    seed: int = 0,
) -> None:
    """Writes phantom subjects to a new or empty folder; the same arguments write the same bytes.

    Normal subjects come first: ``normal/sub-01/ct.nii.gz`` and on, int16 in HU. Anomalous ones follow, such as
    ``anomalous/sub-09/ct.nii.gz``, with the lesion beside it as ``lesion.nii.gz``: uint8, 0 or 1, in several slices but
    not in all. Subjects take the kinds of lesion and storage orientations in turn. The last anomalous subjects are
    also series such as ``dicom/sub-12/``, with the same array and affine as their NIfTI.

    Args:
        folder: New or empty folder.
        normal: Number of subjects without a lesion.
        anomalous: Number of subjects with a lesion.
        shape: Voxels left to right, front to back and bottom to top; the head fills them.
        spacing: Voxel size along these axes, in mm.
        dicom: Number of anomalous subjects to write as DICOM series too.
        seed: Seed of the subjects.

    Raises:
        ValueError: If a number is below 0, there are more series than anomalous subjects, or the shape is too small.
        FileExistsError: If the folder holds files.
    """
    folder = Path(folder)
    if min(normal, anomalous, dicom) < 0 or dicom > anomalous or min(shape[:2]) < 32 or shape[2] < 4:
        raise ValueError(
            f"{normal} normal and {anomalous} anomalous volumes of shape {shape}, {dicom} of them as DICOM, cannot be "
            "drawn: ask for no more DICOM series than anomalous volumes and for at least 32 x 32 x 4 voxels."
        )
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: give a new folder, or delete this one to write it again.")

    for i in range(normal + anomalous):
        rng = np.random.default_rng([seed, i])
        kind = KINDS[(i - normal) % len(KINDS)] if i >= normal else None
        head = _draw(rng, kind, shape)
        affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
        centre = (np.array(shape) - 1) / 2
        affine[:3, 3] = rng.normal((0, -20, 60), (3, 5, 10)).round(2) - affine[:3, :3] @ centre
        in_dicom = i >= normal + anomalous - dicom
        # Rows of an image are the second axis of a volume, columns the first.
        ct = np.clip(np.rint(head.image), *HU_RANGE).astype(np.int16).transpose(1, 0, 2)
        axcodes = "LPS" if in_dicom else ORIENTATIONS[i % len(ORIENTATIONS)]
        name = f"sub-{i + 1:02d}"
        place = folder / ("normal" if kind is None else "anomalous") / name
        place.mkdir(parents=True)
        _save(ct, affine, axcodes, place / "ct.nii.gz")
        if kind is not None:
            _save(head.mask.astype(np.uint8).transpose(1, 0, 2), affine, axcodes, place / "lesion.nii.gz")
        if in_dicom:
            write_series(folder / "dicom" / name, ct, affine, description="Head 5 mm", patient=name)


def _draw(rng: np.random.Generator, kind: str | None, shape: tuple[int, int, int]) -> Head:
    """Draws heads until one has a lesion of the kind in several slices, but not in all."""
    levels = (np.arange(shape[2]) + 0.5) / shape[2]
    while True:
        subject = Subject.draw(rng, None if kind is None else rng.uniform(0.3, 0.7))
        if subject.lesion is not None and subject.lesion.kind != kind:
            continue
        head = draw_head(subject, levels, (shape[1], shape[0]))
        if kind is None or 2 <= head.mask.any(axis=(0, 1)).sum() < shape[2]:
            return head


def _save(array: np.ndarray, affine: np.ndarray, axcodes: str, path: Path) -> None:
    """Saves a volume with its axes in the order and directions of ``axcodes``."""
    image = nib.Nifti1Image(array, affine)
    image = image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(axcodes)))
    image.header.set_xyzt_units("mm")
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    image.to_filename(path)
