"""What all objects derived from a series share: their patient, their place and their maker."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from highdicom import PatientSexValues, SpecificCharacterSetValues
from highdicom.spatial import is_multiframe_image
from pydicom import Dataset, config
from pydicom.dataelem import DataElement
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid
from pydicom.valuerep import format_number_as_ds, validate_value

from scripts.dicom.codes import region_of
from scripts.dicom.headers import RADIOGRAPH_CLASSES, frame_attributes
from scripts.dicom.volume import Volume, mean_step
from scripts.files import replacing
from scripts.model.algorithm import LONGEST, Algorithm
from scripts.results.result import Result

LPS = np.array([-1.0, -1.0, 1.0])  # from RAS
MANUFACTURER = "medical-anomaly-pdd"
CREATOR = "PDD^Algorithm"

_REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "ReferringPhysicianName"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
)
_COPIED_GROUPS = (0x0008, 0x0010, 0x0012, 0x0020, 0x0028, 0x0032, 0x0038, 0x0040)
_PARSED = ("AS", "CS", "DA", "DS", "DT", "IS", "TM")  # representations that highdicom or a reader interprets
_VALUES: dict[str, type[PatientSexValues] | type[SpecificCharacterSetValues]] = {
    "PatientSex": PatientSexValues,
    "SpecificCharacterSet": SpecificCharacterSetValues,
}


def reference_images(volume: Volume) -> list[Dataset]:
    """Headers that stand for the sources: complete, of one patient and study, in exactly the volume's geometry.

    What highdicom would stumble over is mended. Missing attributes that may be empty become empty. Malformed dates,
    codes and numbers are dropped. A missing frame of reference is derived from the series' UID, the same each time. An
    image without a place in the patient (a radiograph) is left without.

    Returns:
        One header a slice, in slice order, or the single one of an enhanced image, its frames in slice order.

    Raises:
        ValueError: If the sources lack UIDs (names them), if sources, positions and array do not fit together, or if
            there are several files of a class that may hold many frames, such as those of nuclear medicine.
    """
    slices = volume.array.shape[2]
    if len(volume.positions) != slices or len(volume.frames or volume.sources) != slices:
        raise ValueError(f"The volume's {slices} slices do not fit its positions, or its sources or frames.")
    for source in volume.sources:
        if missing := [keyword for keyword in _REQUIRED if not source.get(keyword)]:
            raise ValueError(
                f"A source image has no {', '.join(missing)}: results cannot refer to it. Export it again."
            )
    header = _header(volume.sources[0])
    header.Columns, header.Rows = volume.array.shape[:2]
    orientation, measures = Dataset(), Dataset()
    steps = volume.affine[:3, :3] * LPS[:, None]
    spacing = np.linalg.norm(steps, axis=0)
    orientation.ImageOrientationPatient = _decimals([*(steps[:, 0] / spacing[0]), *(steps[:, 1] / spacing[1])])
    measures.PixelSpacing = _decimals([spacing[1], spacing[0]])
    measures.SliceThickness = _decimals([_thickness(volume)])[0]
    places = [_place(position) for position in volume.positions]
    if not is_placed(volume):
        places = [Dataset() for _ in places]
        orientation = Dataset()
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient"):
            header.pop(keyword, None)
        if not header.get("FrameOfReferenceUID"):
            header.pop("FrameOfReferenceUID", None)
    elif not header.get("FrameOfReferenceUID"):
        header.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame of reference", header.SeriesInstanceUID])

    if is_multiframe_image(header):
        if len(volume.sources) > 1:
            raise ValueError(
                f"The scan is of several files of {header.SOPClassUID.name}, of which highdicom refers to one alone. "
                "Convert them to one enhanced file, or write NIfTI."
            )
        shared = Dataset()
        shared.PixelMeasuresSequence = [measures]
        if orientation:
            shared.PlaneOrientationSequence = [orientation]
        header.SharedFunctionalGroupsSequence = [shared]
        header.PerFrameFunctionalGroupsSequence = [_group(place) for place in places]
        header.NumberOfFrames = slices
        return [header]
    images = []
    del header.SOPClassUID, header.SOPInstanceUID  # the images share the header's elements
    for source, place in zip(volume.sources, places, strict=True):
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
        for part in (header, orientation, measures, place):
            image.update(part)
        images.append(image)
    return images


def is_placed(volume: Volume) -> bool:
    """Whether the scan has a place in the patient, as any but a radiograph has."""
    return volume.sources[0].SOPClassUID not in RADIOGRAPH_CLASSES


def first_attributes(volume: Volume) -> Dataset:
    """Attributes of the first slice, at top level."""
    return frame_attributes(volume.sources[0], volume.frames[0] if volume.frames else None)


def patient_orientation(volume: Volume) -> list[str]:
    """Directions of rows and columns in DICOM's letters; of a radiograph what its header says, or nothing."""
    if not is_placed(volume):
        return list(first_attributes(volume).get("PatientOrientation") or ())
    return [{"S": "H", "I": "F"}.get(letter, letter) for letter in nib.aff2axcodes(volume.affine)[:2]]


def reference(volume: Volume, k: int) -> tuple[str, str, list[int] | None]:
    """SOP class, instance UID and, of an enhanced image, the frame number of slice ``k``."""
    source = volume.sources[0 if volume.frames else k]
    return source.SOPClassUID, source.SOPInstanceUID, [volume.frames[k]] if volume.frames else None


def name_frames(derived: Dataset, volume: Volume) -> None:
    """Puts the enhanced source's own frame numbers into the references of an object made from `reference_images`."""
    if volume.frames is None:
        return
    for group in derived.PerFrameFunctionalGroupsSequence:
        for item in group.DerivationImageSequence[0].SourceImageSequence:
            item.ReferencedFrameNumber = volume.frames[int(item.ReferencedFrameNumber) - 1]


def anatomic_region(volume: Volume) -> Code:
    """Region that the sources' AnatomicRegionSequence or else BodyPartExamined names."""
    attributes = first_attributes(volume)
    for item in attributes.get("AnatomicRegionSequence") or ():
        if all(item.get(keyword) for keyword in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")):
            return Code(item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning)
    return region_of(str(attributes.get("BodyPartExamined") or ""))


def description(what: str, algorithm: Algorithm) -> str:
    """Description of at most 64 characters that says what the object must not be used for."""
    text = f"{what}{', untrained teachers' if algorithm.untrained else ''}, not for clinical use"
    assert len(text) <= LONGEST
    return text


def identity(what: str, number: int, algorithm: Algorithm) -> dict[str, Any]:
    """highdicom's arguments that name a new series of one kind of object, and the software that made it."""
    return {
        "series_instance_uid": generate_uid(),
        "series_number": number,
        "series_description": description(what, algorithm),
        "sop_instance_uid": generate_uid(),
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": algorithm.name,
        "software_versions": algorithm.version,
        "device_serial_number": algorithm.model_hash,
    }


def frames_of(volume: Volume, array: np.ndarray) -> np.ndarray:
    """Turns an (i, j, k) array on the volume's grid into (slices, rows, columns).

    Raises:
        ValueError: If the array is not on the volume's grid.
    """
    if array.shape != volume.array.shape:
        raise ValueError(f"A result of shape {array.shape} is not on the scan's grid {volume.array.shape}.")
    return np.ascontiguousarray(array.transpose(2, 1, 0))


def map_frames(result: Result, volume: Volume) -> np.ndarray:
    """Turns the (i, j, k) anomaly map of a result into float32 (slices, rows, columns).

    Raises:
        ValueError: If it is not on the volume's grid, or holds NaN or infinities.
    """
    values = frames_of(volume, np.asarray(result.anomaly_map)).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("The anomaly map holds NaN or infinite values, which a viewer cannot show.")
    return values


def save(dataset: Dataset, path: Path) -> Path:
    """Writes a DICOM file so that ``path`` never holds half of one; its folder is made.

    Raises:
        OSError: If the file cannot be written; names it.
    """
    try:
        with replacing(path) as part:
            dataset.save_as(part, enforce_file_format=True)
    except OSError as error:
        reason = error.__cause__ or error  # pydicom puts its whole traceback into the message of its own
        raise OSError(f"Cannot write {path}: {reason}. Free space, or choose a folder that can be written.") from error
    return path


def _header(source: Dataset) -> Dataset:
    """What a source says of patient, study, series and equipment, without private attributes."""
    header = Dataset()
    for tag in source.keys():  # noqa: SIM118 (iterating over values would raise at the first that cannot be parsed)
        if tag.group in _COPIED_GROUPS and _is_sound(source, tag):
            header[tag] = copy.copy(source[tag])
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, None)
    header.setdefault("SpecificCharacterSet", "ISO_IR 192")  # UTF-8 holds whatever pydicom made of the texts
    if header.get("PatientIdentityRemoved") == "YES" and not header.get("DeidentificationMethodCodeSequence"):
        header.DeidentificationMethod = header.get("DeidentificationMethod") or "Not recorded"  # may not be empty
    return header


def _is_sound(source: Dataset, tag: Any) -> bool:
    try:
        element: DataElement = source[tag]
        if element.is_empty:
            return False
        values = element.value if element.VM > 1 else [element.value]
        if element.VR in _PARSED:
            for value in values:
                validate_value(element.VR, str(value), config.RAISE)  # numbers are no longer the text that is judged
        if element.keyword in _VALUES:
            for value in values:
                _VALUES[element.keyword](value)
    except Exception:  # pydicom fails in many ways; the error is not passed on, as it may tell of the patient
        return False
    return True


def _thickness(volume: Volume) -> float:
    """Slice thickness in mm that the source names, or else the distance of the slices."""
    try:
        thickness = float(first_attributes(volume).get("SliceThickness") or 0)
    except (TypeError, ValueError):
        thickness = 0.0
    normal = np.cross(volume.affine[:3, 0], volume.affine[:3, 1])
    apart = abs(mean_step(volume.positions) * LPS @ normal) / np.linalg.norm(normal)
    return thickness if thickness > 0 else float(apart or np.linalg.norm(volume.affine[:3, 2]) or 1.0)


def _place(position: np.ndarray) -> Dataset:
    place = Dataset()
    place.ImagePositionPatient = _decimals(position)
    return place


def _group(place: Dataset) -> Dataset:
    group = Dataset()
    if place:
        group.PlanePositionSequence = [place]
    return group


def _decimals(values: Any) -> list[str]:
    return [format_number_as_ds(float(value) + 0.0) for value in values]  # + 0.0 makes -0 to 0
