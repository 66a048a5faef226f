"""Finds the DICOM files below a folder, and reads the headers that place each image among the others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread, uid
from pydicom.datadict import tag_for_keyword
from pydicom.misc import is_dicom

from scripts.dicom.volume import UnreadableSeriesError

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")

VOLUME_CLASSES = {
    *(uid.CTImageStorage, uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage),
    *(uid.MRImageStorage, uid.EnhancedMRImageStorage, uid.LegacyConvertedEnhancedMRImageStorage),
    *(uid.PositronEmissionTomographyImageStorage, uid.EnhancedPETImageStorage),
    *(uid.LegacyConvertedEnhancedPETImageStorage, uid.NuclearMedicineImageStorage),
    *(uid.XRay3DAngiographicImageStorage, uid.XRay3DCraniofacialImageStorage, uid.BreastTomosynthesisImageStorage),
}
RADIOGRAPH_CLASSES = {
    *(uid.ComputedRadiographyImageStorage, uid.XRayAngiographicImageStorage, uid.XRayRadiofluoroscopicImageStorage),
    *(uid.DigitalXRayImageStorageForPresentation, uid.DigitalXRayImageStorageForProcessing),
    *(uid.DigitalMammographyXRayImageStorageForPresentation, uid.DigitalMammographyXRayImageStorageForProcessing),
    *(uid.DigitalIntraOralXRayImageStorageForPresentation, uid.DigitalIntraOralXRayImageStorageForProcessing),
}

# Attributes that may distinguish images of a series at the same place, the most likely first.
TRAITS = (
    *("ImageType", "EchoNumbers", "EchoTime", "EffectiveEchoTime", "DiffusionBValue", "DiffusionGradientOrientation"),
    *("TemporalPositionIdentifier", "TemporalPositionIndex", "AcquisitionNumber", "FrameAcquisitionNumber"),
    *("TriggerTime", "NominalCardiacTriggerDelayTime", "InversionTime", "FlipAngle", "SequenceName", "StackID"),
    *("ConvolutionKernel", "KVP", "SliceThickness", "AcquisitionTime", "SeriesTime"),
)
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_GROUP_TAGS = {tag_for_keyword(keyword) for keyword in _GROUPS}
_KEYWORDS = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"),
    *("PatientID", "Modality", "SeriesDescription", "InstanceNumber", "SpecificCharacterSet"),
    *("Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing"),
    *("NominalScannedPixelSpacing", "SpacingBetweenSlices", *TRAITS, *_GROUPS),
]
_ORIENTATION_TOLERANCE = 1e-2  # of the lengths and the right angle of direction cosines
_SPACING_LIMITS = (1e-3, 100.0)  # mm; any other value is a mistake


@dataclass(frozen=True, slots=True)
class Header:
    """Header of one image, or of one frame of an enhanced image. Holds identifiers: never print it."""

    path: Path
    frame: int | None  # 1-based; None for an instance with one image
    instance_uid: str
    series_uid: str
    study_uid: str
    patient_id: str
    sop_class: str
    modality: str
    description: str
    image_type: tuple[str, ...]
    number: int  # InstanceNumber, 0 if missing
    shape: tuple[int, int]  # rows, columns; zeros without an image
    position: tuple[float, ...] | None  # LPS mm
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None  # mm between rows, and between columns
    step: float | None  # mm between slices, according to the header
    traits: tuple[str, ...] = field(default=())


def dicom_files(root: Path) -> tuple[list[Path], dict[str, str]]:
    """Finds the files below a folder that look like DICOM.

    Args:
        root: Folder, or one file.

    Returns:
        The files in order, and the reason for each one refused, by path.

    Raises:
        FileNotFoundError: If ``root`` does not exist.
    """
    if not root.exists():
        raise FileNotFoundError(f"{root}: there is no such file or folder.")
    found: list[Path] = []
    refused: dict[str, str] = {}
    for path in _walk(root, refused) if root.is_dir() else [root]:
        try:
            if path.is_file() and is_dicom(path):
                found.append(path)
                continue
        except OSError as error:
            refused[str(path)] = f"{path}: cannot be opened ({error.strerror}). Grant permission to read it."
            continue
        if path.suffix.lower() not in DICOM_SUFFIXES and path != root:
            continue
        if not path.is_file():
            refused[str(path)] = f"{path}: is not a file, or is a broken link. Repair or remove it."
        elif path.stat().st_size == 0:
            refused[str(path)] = f"{path}: is empty (0 bytes). Fetch it again."
        else:
            found.append(path)
    return sorted(found), refused


def read_headers(path: Path) -> list[Header]:
    """Reads the headers in a file: one, or one for each frame of an enhanced image; none for a DICOMDIR.

    Raises:
        UnreadableSeriesError: If the file is not DICOM, is damaged, or has an impossible geometry.
    """
    try:
        dataset = dcmread(path, stop_before_pixels=True, force=True, specific_tags=_KEYWORDS)
        if dataset.file_meta.get("MediaStorageSOPClassUID") == uid.MediaStorageDirectoryStorage:
            return []
        frames = len(dataset.get("PerFrameFunctionalGroupsSequence") or ())
        return [_header(path, dataset, number) for number in (range(1, frames + 1) if frames else [None])]
    except UnreadableSeriesError:
        raise
    except Exception as error:  # a damaged file can make the parser fail in any way
        raise UnreadableSeriesError(f"{path}: cannot be read as DICOM ({error}). Export it again.") from error


def frame_attributes(dataset: Dataset, frame: int | None) -> Dataset:
    """Attributes of one frame (1-based) of an enhanced image, all at top level; a classic image unchanged."""
    if frame is None:
        return dataset
    # Raw elements: one that cannot be decoded matters only to code that reads it.
    flat = Dataset({tag: dataset.get_item(tag) for tag in dataset.keys() - _GROUP_TAGS})
    for group in (*dataset.get(_GROUPS[0], ())[:1], dataset[_GROUPS[1]][frame - 1]):
        _lift(group, flat)
    return flat


def _lift(item: Dataset, flat: Dataset) -> None:
    for element in item:
        flat[element.tag] = element
        if element.VR == "SQ" and element.value:
            _lift(element.value[0], flat)


def _walk(root: Path, refused: dict[str, str]) -> Iterator[Path]:
    """Iterates over all files below a folder, following links to each folder once."""

    def refuse(error: OSError) -> None:
        refused[str(error.filename)] = (
            f"{error.filename}: cannot be listed ({error.strerror}). Grant permission to read the folder."
        )

    seen = set()
    for folder, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        seen.add(os.path.realpath(folder))
        folders[:] = sorted(name for name in folders if os.path.realpath(os.path.join(folder, name)) not in seen)
        yield from (Path(folder, name) for name in files)


def _header(path: Path, dataset: Dataset, frame: int | None) -> Header:
    attributes = frame_attributes(dataset, frame)

    def text(keyword: str) -> str:
        return str(attributes.get(keyword) or "").strip()

    def numbers(keyword: str, count: int) -> tuple[float, ...] | None:
        value = attributes.get(keyword)
        if value is None or value == "":
            return None
        result = tuple(float(each) for each in np.atleast_1d(value))
        if len(result) != count or not np.isfinite(result).all():
            raise UnreadableSeriesError(f"{path}: {keyword} is not {count} finite numbers. Export it again.")
        return result

    sop_class = text("SOPClassUID") or str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    shape = (int(attributes.get("Rows") or 0), int(attributes.get("Columns") or 0))
    if not (text("SeriesInstanceUID") and text("SOPInstanceUID") and text("StudyInstanceUID")):
        raise UnreadableSeriesError(
            f"{path}: is not part of a DICOM series, or cut short: UIDs are missing. Export it again."
        )
    if sop_class in VOLUME_CLASSES | RADIOGRAPH_CLASSES and 0 in shape:
        raise UnreadableSeriesError(f"{path}: is cut short, or an image without Rows or Columns. Export it again.")

    spacing = numbers("PixelSpacing", 2)
    if sop_class in RADIOGRAPH_CLASSES and spacing is None:
        spacing = numbers("ImagerPixelSpacing", 2) or numbers("NominalScannedPixelSpacing", 2)
    low, high = _SPACING_LIMITS
    steps = [numbers(keyword, 1) or (0.0,) for keyword in ("SpacingBetweenSlices", "SliceThickness")]
    if spacing and not all(low <= each <= high for each in spacing):
        raise UnreadableSeriesError(f"{path}: PixelSpacing {spacing} mm is impossible. Correct it.")
    orientation = numbers("ImageOrientationPatient", 6)
    if orientation:
        axes = np.reshape(orientation, (2, 3))
        if not np.allclose(axes @ axes.T, np.eye(2), atol=_ORIENTATION_TOLERANCE):
            raise UnreadableSeriesError(
                f"{path}: ImageOrientationPatient is not two unit vectors at right angles. Export it again."
            )
    return Header(
        path=path,
        frame=frame,
        instance_uid=text("SOPInstanceUID"),
        series_uid=text("SeriesInstanceUID"),
        study_uid=text("StudyInstanceUID"),
        patient_id=str(dataset.get("PatientID") or "").strip(),
        sop_class=sop_class,
        modality=text("Modality").upper(),
        description=str(dataset.get("SeriesDescription") or "").strip(),  # the top level knows its character set
        image_type=tuple(str(value).upper() for value in np.atleast_1d(attributes.get("ImageType") or ())),
        number=int(attributes.get("InstanceNumber") or 0),
        shape=shape,
        position=numbers("ImagePositionPatient", 3),
        orientation=orientation,
        spacing=spacing,
        step=next((step for (step,) in steps if low <= step <= high), None),
        traits=tuple(text(keyword) for keyword in TRAITS),
    )
