"""Finds the DICOM files under a folder, and reads from their headers what places an image among others."""

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

# What may tell apart images of one series at the same place, the most telling first.
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
_ORIENTATION_TOLERANCE = 1e-2  # of lengths and of the right angle
_SPACING_LIMITS = (1e-3, 100.0)  # mm; beyond them a number is a mistake, not a pixel


@dataclass(frozen=True, slots=True)
class Header:
    """What places one image, or one frame of an enhanced image, among others. Holds identifiers: never print it."""

    path: Path
    frame: int | None  # 1-based, None for an instance of one image
    instance_uid: str
    series_uid: str
    study_uid: str
    patient_id: str
    sop_class: str
    modality: str
    description: str
    image_type: tuple[str, ...]
    number: int  # InstanceNumber, 0 if there is none
    shape: tuple[int, int]  # rows, columns; zeros where there is no image
    position: tuple[float, ...] | None  # LPS mm
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None  # mm from row to row, and from column to column
    step: float | None  # mm from slice to slice as the header has it
    traits: tuple[str, ...] = field(default=())


def dicom_files(root: Path) -> tuple[list[Path], dict[str, str]]:
    """Gives the files below a folder (or one file) that look like DICOM, sorted, and by path why others are refused.

    Raises:
        FileNotFoundError: If there is no ``root``.
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
            refused[str(path)] = f"{path}: cannot be opened ({error.strerror}). Give the right to read it."
            continue
        if path.suffix.lower() not in DICOM_SUFFIXES and path != root:
            continue
        if not path.is_file():
            refused[str(path)] = f"{path}: is no file, or a link to nothing. Mend or remove it."
        elif path.stat().st_size == 0:
            refused[str(path)] = f"{path}: is empty (0 bytes). Fetch it again."
        else:
            found.append(path)
    return sorted(found), refused


def read_headers(path: Path) -> list[Header]:
    """Reads a file's header: one entry an instance, or one a frame of an enhanced image; none for a DICOMDIR.

    Raises:
        UnreadableSeriesError: If this is no DICOM, damaged, or of an impossible geometry.
    """
    try:
        dataset = dcmread(path, stop_before_pixels=True, force=True, specific_tags=_KEYWORDS)
        if dataset.file_meta.get("MediaStorageSOPClassUID") == uid.MediaStorageDirectoryStorage:
            return []
        frames = len(dataset.get("PerFrameFunctionalGroupsSequence") or ())
        return [_header(path, dataset, number) for number in (range(1, frames + 1) if frames else [None])]
    except UnreadableSeriesError:
        raise
    except Exception as error:  # a damaged file can make the parser fail anywhere
        raise UnreadableSeriesError(f"{path}: cannot be read as DICOM ({error}). Export it again.") from error


def frame_attributes(dataset: Dataset, frame: int | None) -> Dataset:
    """Gives all attributes of one frame (1-based) of an enhanced image at top level; a classic one as it is."""
    if frame is None:
        return dataset
    # Elements as they were read: one that cannot be decoded matters only to who asks for it.
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
    """Gives all files below a folder, following links to folders once."""

    def refuse(error: OSError) -> None:
        refused[str(error.filename)] = (
            f"{error.filename}: cannot be listed ({error.strerror}). Give the right to read the folder."
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
            f"{path}: is no DICOM of a series, or cut short: UIDs are missing. Export it again."
        )
    if sop_class in VOLUME_CLASSES | RADIOGRAPH_CLASSES and 0 in shape:
        raise UnreadableSeriesError(f"{path}: is cut short, or an image without Rows or Columns. Export it again.")

    spacing = numbers("PixelSpacing", 2)
    if sop_class in RADIOGRAPH_CLASSES and spacing is None:
        spacing = numbers("ImagerPixelSpacing", 2) or numbers("NominalScannedPixelSpacing", 2)
    low, high = _SPACING_LIMITS
    steps = [numbers(keyword, 1) or (0.0,) for keyword in ("SpacingBetweenSlices", "SliceThickness")]
    if spacing and not all(low <= each <= high for each in spacing):
        raise UnreadableSeriesError(f"{path}: pixels of {spacing} mm cannot be. Correct its PixelSpacing.")
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
        description=str(dataset.get("SeriesDescription") or "").strip(),  # whose character set only the whole knows
        image_type=tuple(str(value).upper() for value in np.atleast_1d(attributes.get("ImageType") or ())),
        number=int(attributes.get("InstanceNumber") or 0),
        shape=shape,
        position=numbers("ImagePositionPatient", 3),
        orientation=orientation,
        spacing=spacing,
        step=next((step for (step,) in steps if low <= step <= high), None),
        traits=tuple(text(keyword) for keyword in TRAITS),
    )
