"""Finds DICOM series below a folder, each of which makes one volume, and reads them.

MONAI's PydicomReader reads one clean folder of a classic series correctly, even oblique, tilted or compressed. But it
stacks series that share a folder, orders slices by InstanceNumber (wrong if these repeat, an error if they are
missing), returns enhanced images without affine or rescaling, and does not notice gaps. highdicom's
``get_volume_from_series`` refuses a tilted gantry and uneven slices. Hence the code here.
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
    """Images with one SeriesInstanceUID that make one volume, one radiograph, or an object that is no image.

    The repr reveals nothing about the patient; ``patient_key``, ``study_uid`` and the headers do.
    """

    headers: tuple[Header, ...] = field(repr=False)  # in the order of slices
    part: int = 0  # number among the series split from one SeriesInstanceUID
    warnings: tuple[str, ...] = ()

    @property
    def uid(self) -> str:
        """SeriesInstanceUID; together with ``part`` it identifies the series."""
        return self.headers[0].series_uid

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID."""
        return self.headers[0].study_uid

    @property
    def patient_key(self) -> str:
        """PatientID, or StudyInstanceUID if that is empty. Write only its ``privacy.group_of`` to files."""
        return self.headers[0].patient_id or self.study_uid

    @property
    def sop_class(self) -> str:
        """SOPClassUID of the first image."""
        return self.headers[0].sop_class

    @property
    def modality(self) -> str:
        """Modality in capitals, such as "CT"."""
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
        """Nearest of "axial", "coronal" and "sagittal"; empty if the images have no position in the patient."""
        return plane_of(self.headers[0].orientation) if self.headers[0].orientation else ""

    @property
    def n_slices(self) -> int:
        """Number of images."""
        return len(self.headers)

    @property
    def files(self) -> list[Path]:
        """Files in the order of slices."""
        return list(dict.fromkeys(header.path for header in self.headers))


@dataclass(frozen=True)
class Found:
    """All series below a folder, and the files that could not be read."""

    series: list[Series]  # ordered by their first file
    refused: dict[str, str]  # reason by path


def find_series(root: Path, progress: bool = True) -> Found:
    """Reads the headers of all DICOM files below a folder, in threads, and groups them into series.

    Files are found whatever their names and nesting, without a DICOMDIR. Other files are ignored, unless they look like
    DICOM and cannot be read.

    Images with one SeriesInstanceUID are split if they differ in orientation, size or pixel spacing, or if several lie
    at the same place: then by echo, b-value, time point and the like. Copies of an instance are dropped.

    Args:
        root: Folder, or one file; a DICOMDIR stands for its folder.
        progress: Whether to show a progress bar on a terminal.

    Raises:
        FileNotFoundError: If ``root`` does not exist.
    """
    root = Path(root)
    files, refused = dicom_files(root.parent if root.name.upper() == "DICOMDIR" else root)
    by_uid: dict[tuple[str, ...], list[Header]] = defaultdict(list)
    # Validation warnings quote values, which may identify the patient.
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

    Slices are sorted along their normal. A gantry tilt shears the affine. PixelPaddingValue becomes the lowest of all
    other values. A radiograph is converted to how it is displayed (see ``pixels.displayed``) and placed as an axial
    slice at the origin, since it has no position of its own.

    Returns:
        The volume: int16 or int32 if all slopes are 1 and all intercepts integral, else float32.

    Raises:
        UnreadableSeriesError: If a file is damaged, cut short, in colour, or lacks its geometry.
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
                    raise UnreadableSeriesError(
                        f"{path}: the number or size of its frames does not match its header. Leave it out."
                    )
                image = stored[frame - 1]
                try:
                    attributes = frame_attributes(dataset, header.frame)
                    values = modality_values(image, attributes)
                    masks.append(padding(image, attributes))
                    images.append(compact(displayed(values, attributes) if radiograph else values).T)
                except Exception as error:  # a damaged lookup table can fail in many ways
                    raise UnreadableSeriesError(
                        f"{path}: its values cannot be read ({error}). Leave it out."
                    ) from error

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
    """Splits the images of a SeriesInstanceUID into stacks with one image at each place, in order of instances."""
    headers, warnings = _without_copies(headers)
    stacks: list[list[Header]] = []
    for alike in _alike(headers):
        told_apart, by = _tell_apart(alike)
        stacks.extend(told_apart)
        if by:
            warnings.append(
                f"{alike[0].path}: several images of this series lie at the same place; it is read as "
                f"{len(told_apart)} volumes, by {' and '.join(by)}"
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
                f"{other.path} and {header.path}: different images with the same SOPInstanceUID. Export them again."
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
    """Splits images into the fewest stacks with one image at each place, by the fewest traits.

    Returns:
        The stacks, sorted along the normal, and the names of the traits.

    Raises:
        UnreadableSeriesError: If no trait distinguishes two images at the same place.
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
            # A trait that differs for every image, such as its time, would break the stacks apart.
            if single and len(stacks) <= 2 * most:
                solutions.append((list(stacks.values()), tuple(TRAITS[trait] for trait in traits)))
        if solutions:
            best, names = min(solutions, key=lambda solution: len(solution[0]))
            return [[header for header, _ in stack] for stack in best], names
    twins = next(pair for pair in pairwise(ordered) if pair[0][1] == pair[1][1])
    raise UnreadableSeriesError(
        f"{twins[0][0].path} and {twins[1][0].path}: lie at the same place, and nothing says which volume each "
        "belongs to. Leave one of them out."
    )
