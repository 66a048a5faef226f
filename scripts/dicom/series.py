"""Finds DICOM series below a folder, one volume each, and reads them.

MONAI's PydicomReader reads one clean folder of a classic series right, even oblique, tilted or compressed. Own code is
here as it stacks series that share a folder, orders slices by InstanceNumber (wrong where these repeat, an error where
they are missing), gives enhanced images without affine or rescaling, and does not notice gaps. highdicom's
``get_volume_from_series`` refuses a tilted gantry and uneven slices.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby, pairwise
from pathlib import Path

import numpy as np
from pydicom.config import disable_value_validation
from tqdm.contrib.concurrent import thread_map

from scripts.dicom.geometry import affine_of, irregularities, normal_of, plane_of
from scripts.dicom.headers import RADIOGRAPH_CLASSES, TRAITS, Header, dicom_files, frame_attributes, read_headers
from scripts.dicom.pixels import compact, displayed, modality_values, padding, read_pixels
from scripts.dicom.volume import UnreadableSeriesError, Volume

_SAME_PLACE = 0.01  # mm along the normal
_SAME_DIRECTION = 1e-3  # of direction cosines
_SAME_SPACING = 1e-4  # mm between pixels
_RADIOGRAPH_ORIENTATION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True, eq=False)
class Series:
    """Images of one SeriesInstanceUID that make one volume, one radiograph, or an object that is no image.

    Its repr tells nothing of the patient; ``patient_key``, ``study_uid`` and the headers do.
    """

    headers: tuple[Header, ...] = field(repr=False)  # in the order of slices
    part: int = 0  # counts what had to be split from one SeriesInstanceUID
    warnings: tuple[str, ...] = ()

    @property
    def uid(self) -> str:
        """SeriesInstanceUID; with ``part`` it names the series."""
        return self.headers[0].series_uid

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID."""
        return self.headers[0].study_uid

    @property
    def patient_key(self) -> str:
        """PatientID, or StudyInstanceUID where that is empty. Only its ``privacy.group_of`` may be written."""
        return self.headers[0].patient_id or self.study_uid

    @property
    def sop_class(self) -> str:
        """SOPClassUID of the first image."""
        return self.headers[0].sop_class

    @property
    def modality(self) -> str:
        """Such as "CT", in capitals."""
        return self.headers[0].modality

    @property
    def description(self) -> str:
        """SeriesDescription."""
        return self.headers[0].description

    @property
    def image_type(self) -> tuple[str, ...]:
        """ImageType of the first image, in capitals."""
        return self.headers[0].image_type

    @property
    def orientation(self) -> str:
        """Nearest of "axial", "coronal" and "sagittal"; empty where the images have no place in the patient."""
        return plane_of(self.headers[0].orientation)[0] if self.headers[0].orientation else ""

    @property
    def oblique_degrees(self) -> float:
        """Angle between the slices and the plane of ``orientation``."""
        return plane_of(self.headers[0].orientation)[1] if self.headers[0].orientation else 0.0

    @property
    def n_slices(self) -> int:
        """Number of images."""
        return len(self.headers)

    @property
    def files(self) -> list[Path]:
        """The files, in the order of slices."""
        return list(dict.fromkeys(header.path for header in self.headers))


@dataclass(frozen=True)
class Found:
    """All series below a folder, and what could not be read."""

    series: list[Series]  # ordered by their first file
    refused: dict[str, str]  # path: reason


def find_series(root: Path, progress: bool = True) -> Found:
    """Reads the headers of all DICOM files below a folder, in threads, and groups them to series.

    A DICOMDIR is not needed: the files are found whatever their names and nesting. Other files are passed over, unless
    they look like DICOM and cannot be read.

    A SeriesInstanceUID is split where its images differ in orientation, size or pixel spacing, and where several lie at
    the same place: by echo, b-value, time point and the like. A copy of an instance is dropped.

    Args:
        root: A folder, or one file; a DICOMDIR stands for its folder.
        progress: Whether a terminal shows a bar.

    Raises:
        FileNotFoundError: If there is no ``root``.
    """
    root = Path(root)
    files, refused = dicom_files(root.parent if root.name.upper() == "DICOMDIR" else root)
    by_uid: dict[tuple[str, ...], list[Header]] = defaultdict(list)
    # Validation warns with the text of values, which may be those of the patient.
    with disable_value_validation():
        results = thread_map(
            _headers_or_reason,
            files,
            max_workers=min(16, os.cpu_count() or 1),
            desc="DICOM headers",
            unit="file",
            leave=False,
            disable=None if progress else True,
        )
    for path, result in zip(files, results, strict=True):
        if isinstance(result, str):
            refused[str(path)] = result
            continue
        for header in result:
            by_uid[header.patient_id, header.study_uid, header.series_uid].append(header)
    series: list[Series] = []
    for headers in by_uid.values():
        try:
            series.extend(_split(headers))
        except UnreadableSeriesError as error:
            refused[str(headers[0].path)] = str(error)
    return Found(sorted(series, key=lambda each: (str(min(each.files)), each.part)), refused)


def read_series(series: Series) -> Volume:
    """Reads the pixels of a series into one volume, in the units of the modality (Hounsfield for CT).

    Slices are sorted along their normal. A gantry tilt makes a sheared affine. PixelPaddingValue becomes the lowest of
    all other values. A radiograph comes as it is meant to be seen (see ``pixels.displayed``), placed as an axial slice
    at the origin, since it has no place of its own.

    Returns:
        The volume; int16 or int32 where all slopes are 1 and all intercepts integral, else float32.

    Raises:
        UnreadableSeriesError: If a file is damaged or cut short, in colour, or has no geometry.
    """
    radiograph = series.sop_class in RADIOGRAPH_CLASSES
    first = series.headers[0]
    for header in series.headers:
        if 0 in header.shape:
            raise UnreadableSeriesError(f"{header.path}: holds no image. Leave it out.")
        if header.spacing is None:
            raise UnreadableSeriesError(f"{header.path}: PixelSpacing is missing. Add it, or leave the image out.")
        if not radiograph and (header.position is None or header.orientation is None):
            raise UnreadableSeriesError(
                f"{header.path}: ImagePositionPatient or ImageOrientationPatient is missing. Leave the image out."
            )

    images, masks, sources = [], [], []
    with disable_value_validation():
        for path, headers in groupby(series.headers, key=lambda header: header.path):
            dataset, stored = read_pixels(path)
            sources.append(dataset)
            for header in headers:
                frame = header.frame or 1
                if (
                    stored.shape[1:] != header.shape
                    or frame > len(stored)
                    or (header.frame is None and len(stored) > 1)
                ):
                    raise UnreadableSeriesError(f"{path}: has more or fewer frames than places for them. Leave it out.")
                image = stored[frame - 1]
                try:
                    attributes = frame_attributes(dataset, header.frame)
                    values = modality_values(image, attributes)
                    masks.append(padding(image, attributes))
                    images.append(compact(displayed(values, attributes) if radiograph else values).T)
                except Exception as error:  # a damaged lookup table fails in many ways
                    raise UnreadableSeriesError(f"{path}: values cannot be read ({error}). Leave it out.") from error

    array = compact(np.stack(images, axis=-1))
    padded = np.stack([np.zeros(first.shape, bool) if mask is None else mask for mask in masks]).transpose(2, 1, 0)
    if padded.any() and not padded.all():
        array[padded] = array[~padded].min()

    orientation = first.orientation if first.orientation and not radiograph else _RADIOGRAPH_ORIENTATION
    positions = np.array([(0.0, 0.0, 0.0) if radiograph else header.position for header in series.headers])
    assert first.spacing is not None
    return Volume(
        array=array,
        affine=affine_of(positions, orientation, first.spacing, first.step),
        sources=sources,
        frames=None if first.frame is None else [header.frame or 1 for header in series.headers],
        positions=positions,
        warnings=[
            *series.warnings,
            *(f"{first.path}: {what}" for what in irregularities(positions, normal_of(orientation))),
        ],
    )


def _headers_or_reason(path: Path) -> list[Header] | str:
    try:
        return read_headers(path)
    except UnreadableSeriesError as error:
        return str(error)


def _split(headers: list[Header]) -> list[Series]:
    """Splits what shares a SeriesInstanceUID into stacks of one image a place, numbered by their first instance."""
    headers, warnings = _without_copies(headers)
    stacks: list[list[Header]] = []
    for alike in _alike(headers):
        told_apart, by = _tell_apart(alike)
        stacks.extend(told_apart)
        if by:
            warnings.append(
                f"{alike[0].path}: several images lie at the same place in this series, "
                f"which is read as {len(told_apart)} volumes, by {' and '.join(by)}"
            )
    stacks.sort(key=lambda stack: min((header.number, header.instance_uid, header.frame or 0) for header in stack))
    return [Series(tuple(stack), part, tuple(warnings)) for part, stack in enumerate(stacks)]


def _without_copies(headers: Iterable[Header]) -> tuple[list[Header], list[str]]:
    kept: dict[tuple[str, int | None], Header] = {}
    copies = []
    for header in headers:
        other = kept.setdefault((header.instance_uid, header.frame), header)
        if other is header:
            continue
        same = ("shape", "position", "orientation", "spacing", "traits")
        if any(getattr(other, name) != getattr(header, name) for name in same):
            raise UnreadableSeriesError(
                f"{other.path} and {header.path}: different images of one SOPInstanceUID. Export them again."
            )
        copies.append(header.path)
    more = len(set(copies)) - 1
    warnings = [f"{min(copies)}: left out as a copy{f', and {more} more' if more else ''}"] if copies else []
    return list(kept.values()), warnings


def _alike(headers: Sequence[Header]) -> list[list[Header]]:
    """Groups images of equal size, pixel spacing and orientation; enhanced images and radiographs by file."""
    groups: list[list[Header]] = []
    for header in headers:
        for group in groups:
            if _fits(header, group[0]):
                group.append(header)
                break
        else:
            groups.append([header])
    return groups


def _fits(header: Header, other: Header) -> bool:
    alone = header.frame is not None or header.sop_class in RADIOGRAPH_CLASSES
    if (header.sop_class, header.shape) != (other.sop_class, other.shape) or (alone and header.path != other.path):
        return False
    return (
        (header.position is None) == (other.position is None)
        and _close(header.orientation, other.orientation, atol=_SAME_DIRECTION)
        and _close(header.spacing, other.spacing, atol=_SAME_SPACING)
    )


def _close(one: tuple[float, ...] | None, other: tuple[float, ...] | None, atol: float) -> bool:
    if one is None or other is None:
        return one is other
    return np.allclose(one, other, rtol=0, atol=atol)


def _tell_apart(headers: list[Header]) -> tuple[list[list[Header]], tuple[str, ...]]:
    """Splits images at the same places by the fewest traits that leave one a place, to the fewest stacks.

    Returns:
        The stacks, sorted along the normal, and the names of the traits.

    Raises:
        UnreadableSeriesError: If nothing tells two images at one place apart.
    """
    orientation = headers[0].orientation
    if orientation is None or headers[0].position is None:
        return [sorted(headers, key=lambda header: (header.number, header.path))], ()
    normal = normal_of(orientation)
    along = np.array([header.position for header in headers]) @ normal
    order = np.argsort(along, kind="stable")
    place = np.empty(len(headers), int)  # images at the same place share a number
    place[order] = np.concatenate([[0], np.cumsum(np.diff(along[order]) > _SAME_PLACE)])
    ordered = [(headers[index], int(place[index])) for index in order]
    most = int(np.bincount(place).max())
    if most == 1:
        return [[header for header, _ in ordered]], ()
    varying = [trait for trait in range(len(TRAITS)) if len({header.traits[trait] for header in headers}) > 1]
    for count in (1, 2, 3):
        solutions = []
        for traits in combinations(varying, count):
            stacks: dict[tuple[str, ...], list[tuple[Header, int]]] = defaultdict(list)
            for header, at in ordered:
                stacks[tuple(header.traits[trait] for trait in traits)].append((header, at))
            single = all(len({at for _, at in stack}) == len(stack) for stack in stacks.values())
            # A trait of every single image, such as its time, would tear the stacks to pieces.
            if single and len(stacks) <= 2 * most:
                solutions.append((list(stacks.values()), tuple(TRAITS[trait] for trait in traits)))
        if solutions:
            best, names = min(solutions, key=lambda solution: len(solution[0]))
            return [[header for header, _ in stack] for stack in best], names
    twins = next(pair for pair in pairwise(ordered) if pair[0][1] == pair[1][1])
    raise UnreadableSeriesError(
        f"{twins[0][0].path} and {twins[1][0].path}: lie at the same place, and nothing tells to which volume each "
        f"belongs. Leave one of them out."
    )
