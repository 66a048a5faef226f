"""Writes arrays as DICOM files of no patient: CT and MR series, classic or enhanced multi-frame, and radiographs.

Identifiers are hashes of the arguments and dates are fixed, so that the same call writes the same files.
"""

import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)
from pydicom.valuerep import format_number_as_ds

LPS = np.diag([-1.0, -1.0, 1.0])  # RAS to LPS, and back
DATE, TIME = "20260101", "120000"
SERIES_CLASSES = {
    ("CT", False): CTImageStorage,
    ("CT", True): EnhancedCTImageStorage,
    ("MR", False): MRImageStorage,
    ("MR", True): EnhancedMRImageStorage,
}
RADIOGRAPH_CLASSES = {
    "DX": DigitalXRayImageStorageForPresentation,
    "CR": ComputedRadiographyImageStorage,
    "OT": SecondaryCaptureImageStorage,
}
RESCALE_INTERCEPT = {"CT": -1024, "MR": 0}


def write_series(
    folder: str | Path,
    array: NDArray[Any],
    affine: ArrayLike,
    *,
    modality: str = "CT",
    description: str = "Phantom",
    patient: str = "phantom",
    study: int = 0,
    series: int = 0,
    enhanced: bool = False,
    transfer_syntax: str = ExplicitVRLittleEndian,
    positions: ArrayLike | None = None,
    first_instance: int = 1,
    **attributes: Any,
) -> list[Path]:
    """Writes a volume as a series: one file for each slice, or one enhanced multi-frame file.

    A reader that sorts slices along the normal (row direction x column direction) restores this order of slices if the
    normal points along the affine's third column in LPS. File names do not reveal the order of slices.

    Args:
        folder: Folder to write to; created if missing. Series that differ in patient, study or series number may share
            it.
        array: Voxels (i, j, k), with i along a row, j down a column, k over slices; whole int16 values, HU for CT.
        affine: (4, 4) affine to RAS+ mm; its third column need not be normal to the slices (tilted gantry).
        modality: "CT" or "MR".
        description: SeriesDescription.
        patient: Text from which identifiers and the made-up name are derived.
        study: Number of the study within the patient, from 0.
        series: Number of the series within the patient, from 0.
        enhanced: Whether to write one multi-frame file, with frames in the order of slices.
        transfer_syntax: Uncompressed syntax, or one for which pydicom has an encoder.
        positions: (k, 3) ImagePositionPatient in LPS mm instead of the affine's, for uneven, missing or unsorted
            slices.
        first_instance: InstanceNumber of the first slice.
        attributes: Values by DICOM keyword, set on every instance at the end; None removes an attribute.

    Returns:
        Files in the order of slices.

    Raises:
        ValueError: If values, geometry, modality or a keyword cannot be written.
    """
    if (modality, enhanced) not in SERIES_CLASSES:
        raise ValueError(f"modality {modality!r} cannot be written as a series: give CT or MR.")
    array, affine = np.asarray(array), np.asarray(affine, float)
    stored = array.astype(np.int64) - RESCALE_INTERCEPT[modality]
    if array.ndim != 3 or (stored.astype(np.int16) + np.int64(RESCALE_INTERCEPT[modality]) != array).any():
        raise ValueError(
            f"the array of shape {array.shape} does not have three axes and whole int16 values: convert it."
        )
    steps = LPS @ affine[:3, :3]
    column_step, row_step = np.linalg.norm(steps[:, 0]), np.linalg.norm(steps[:, 1])
    along_row, along_column = steps[:, 0] / column_step, steps[:, 1] / row_step
    if abs(along_row @ along_column) > 1e-4:
        raise ValueError("the affine's first two columns are not at right angles, which DICOM cannot express.")
    normal = np.cross(along_row, along_column)
    distance = abs(normal @ steps[:, 2])
    if positions is None:
        positions = LPS @ affine[:3, 3] + np.arange(array.shape[2])[:, None] * steps[:, 2]
    positions = np.asarray(positions, float)
    if positions.shape != (array.shape[2], 3):
        raise ValueError(
            f"positions of shape {positions.shape} are not ({array.shape[2]}, 3): give one for each slice."
        )

    plane = Dataset()
    plane.ImageOrientationPatient = [format_number_as_ds(float(x)) for x in (*along_row, *along_column)]
    measures = Dataset()
    measures.PixelSpacing = [format_number_as_ds(float(x)) for x in (row_step, column_step)]
    measures.SliceThickness = format_number_as_ds(float(distance))

    sop_class = SERIES_CLASSES[modality, enhanced]
    common = _common(sop_class, modality, description, patient, study, series)
    common.FrameOfReferenceUID = _uid("frame of reference", patient, study)
    common.PositionReferenceIndicator = ""
    common.PatientPosition = "HFS"
    common.BodyPartExamined = "HEAD"
    common.AcquisitionNumber = 1
    folder = Path(folder)
    tail = common.SeriesInstanceUID[-6:]

    if enhanced:
        instance = _instance(common, first_instance)
        _describe_enhanced(instance, modality)
        instance.SharedFunctionalGroupsSequence = [_shared_groups(instance, plane, measures)]
        instance.PerFrameFunctionalGroupsSequence = [
            _frame_groups(number, position) for number, position in enumerate(positions, start=1)
        ]
        instance.NumberOfFrames = len(positions)
        _set_pixels(instance, stored.transpose(2, 1, 0), transfer_syntax)
        return [_save(instance, folder / f"frames{first_instance:03d}_{tail}.dcm", transfer_syntax, attributes)]

    paths = []
    names = np.random.default_rng(0).permutation(len(positions)) + first_instance
    tilt = np.degrees(np.arccos(min(1.0, distance / np.linalg.norm(steps[:, 2]))))
    for k, position in enumerate(positions):
        instance = _instance(common, first_instance + k)
        instance.update(plane)
        instance.update(measures)
        instance.ImagePositionPatient = [format_number_as_ds(float(x)) for x in position]
        instance.SliceLocation = format_number_as_ds(float(normal @ position))
        _describe_classic(instance, modality, tilt)
        _set_pixels(instance, stored[:, :, k].T, transfer_syntax)
        paths.append(_save(instance, folder / f"slice{names[k]:03d}_{tail}.dcm", transfer_syntax, attributes))
    return paths


def write_radiograph(
    path: str | Path,
    array: NDArray[np.uint16],
    *,
    modality: str = "DX",
    photometric: str = "MONOCHROME2",
    patient: str = "phantom",
    **attributes: Any,
) -> Path:
    """Writes one projection image, or a secondary capture for modality "OT", which has no position in the patient.

    Args:
        path: File to write; its folder is created if missing.
        array: Pixels (rows, columns), stored unchanged: with MONOCHROME1 the highest value is shown black.
        modality: "DX", "CR" or "OT".
        photometric: "MONOCHROME1" or "MONOCHROME2".
        patient: Text from which identifiers and the made-up name are derived.
        attributes: Values by DICOM keyword, set at the end; None removes an attribute.

    Raises:
        ValueError: If the modality, the shape, a keyword or a value beyond uint16 cannot be written.
    """
    if modality not in RADIOGRAPH_CLASSES:
        raise ValueError(
            f"modality {modality!r} cannot be written as a radiograph: give {', '.join(RADIOGRAPH_CLASSES)}."
        )
    array = np.asarray(array)
    if array.ndim != 2 or (array != array.astype("u2")).any():
        raise ValueError(f"the array of shape {array.shape} does not have rows and columns of uint16: convert it.")
    path = Path(path)
    common = _common(RADIOGRAPH_CLASSES[modality], modality, "Radiograph", patient, 0, path.stem)
    instance = _instance(common, 1)
    instance.ImageType = ["DERIVED", "PRIMARY"]
    instance.PatientOrientation = ["L", "F"]
    instance.BodyPartExamined = "CHEST"
    if modality == "OT":
        instance.ConversionType = "WSD"
    elif modality == "CR":
        instance.ViewPosition = "PA"
        instance.KVP = instance.PlateType = None
    else:
        _describe_projection(instance, photometric)
        instance.WindowCenter, instance.WindowWidth = (int(array.max()) + int(array.min())) / 2, int(np.ptp(array)) + 1
    _set_pixels(instance, array, ExplicitVRLittleEndian)
    instance.PhotometricInterpretation = photometric
    return _save(instance, path, ExplicitVRLittleEndian, attributes)


def _uid(*parts: object) -> UID:
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, repr(parts)).int}")


def _coded(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def _common(sop_class: UID, modality: str, description: str, patient: str, study: int, series: int | str) -> Dataset:
    """Attributes that all instances of a series share, whatever their kind."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = sop_class
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = DATE
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = TIME
    ds.AccessionNumber = f"{study + 1:08d}"
    ds.Modality = modality
    ds.Manufacturer = "Phantom"
    ds.ManufacturerModelName = "Phantom"
    ds.DeviceSerialNumber = "1"
    ds.SoftwareVersions = "1"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "Phantom study"
    ds.SeriesDescription = description
    ds.PatientName = f"Phantom^{patient}"
    ds.PatientID = f"ID-{patient}"
    ds.PatientBirthDate = "19500607"
    ds.PatientSex = "O"
    ds.StudyInstanceUID = _uid("study", patient, study)
    ds.SeriesInstanceUID = _uid("series", patient, study, series, modality)
    ds.StudyID = str(study + 1)
    ds.SeriesNumber = series + 1 if isinstance(series, int) else 1
    return ds


def _instance(common: Dataset, number: int) -> Dataset:
    ds = Dataset()
    ds.update(common)
    ds.InstanceNumber = number
    ds.SOPInstanceUID = _uid("instance", common.SeriesInstanceUID, common.SOPClassUID, number)
    return ds


def _describe_classic(ds: Dataset, modality: str, tilt: float) -> None:
    """Sets what the image module of the modality requires."""
    ds.AcquisitionDate, ds.AcquisitionTime = DATE, TIME
    if modality == "CT":
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.KVP = 120
        ds.GantryDetectorTilt = round(tilt, 4)
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = RESCALE_INTERCEPT[modality], 1, "HU"
        ds.WindowCenter, ds.WindowWidth = 40, 80
        return
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "SE", "NONE", "", "2D"
    ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = 500, 10, 1


def _describe_enhanced(ds: Dataset, modality: str) -> None:
    """Sets what the enhanced image and multi-frame modules require; derived, as originals must describe acquisition."""
    ds.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    ds.PixelPresentation, ds.VolumetricProperties = "MONOCHROME", "VOLUME"
    ds.VolumeBasedCalculationTechnique = "NONE"
    ds.BurnedInAnnotation, ds.LossyImageCompression, ds.PresentationLUTShape = "NO", "00", "IDENTITY"
    ds.ContentQualification = "RESEARCH"
    ds.AcquisitionContextSequence = []
    if modality == "MR":
        ds.ComplexImageComponent, ds.AcquisitionContrast = "MAGNITUDE", "T1"
        ds.ApplicableSafetyStandardAgency = "IEC"
    organisation = Dataset()
    organisation.DimensionOrganizationUID = _uid("dimensions", ds.SOPInstanceUID)
    ds.DimensionOrganizationSequence = [organisation]
    index = Dataset()
    index.DimensionOrganizationUID = organisation.DimensionOrganizationUID
    index.DimensionIndexPointer = tag_for_keyword("InStackPositionNumber")
    index.FunctionalGroupPointer = tag_for_keyword("FrameContentSequence")
    ds.DimensionIndexSequence = [index]


def _shared_groups(ds: Dataset, plane: Dataset, measures: Dataset) -> Dataset:
    """Functional groups shared by all frames of an enhanced image."""
    groups = Dataset()
    groups.PixelMeasuresSequence = [measures]
    groups.PlaneOrientationSequence = [plane]
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = [_coded(codes.SCT.Head)]
    anatomy.FrameLaterality = "U"
    groups.FrameAnatomySequence = [anatomy]
    values = Dataset()
    values.RescaleIntercept, values.RescaleSlope = RESCALE_INTERCEPT[ds.Modality], 1
    values.RescaleType = "HU" if ds.Modality == "CT" else "US"
    groups.PixelValueTransformationSequence = [values]
    window = Dataset()
    window.WindowCenter, window.WindowWidth = 40, 80
    groups.FrameVOILUTSequence = [window]
    kind = Dataset()
    kind.FrameType = ds.ImageType
    for keyword in ("PixelPresentation", "VolumetricProperties", "VolumeBasedCalculationTechnique"):
        setattr(kind, keyword, ds[keyword].value)
    if ds.Modality == "CT":
        groups.CTImageFrameTypeSequence = [kind]
        event = Dataset()
        event.IrradiationEventUID = _uid("irradiation", ds.SOPInstanceUID)
        groups.IrradiationEventIdentificationSequence = [event]
    else:
        kind.ComplexImageComponent, kind.AcquisitionContrast = ds.ComplexImageComponent, ds.AcquisitionContrast
        groups.MRImageFrameTypeSequence = [kind]
    return groups


def _frame_groups(number: int, position: NDArray[np.float64]) -> Dataset:
    """Functional groups of one frame of an enhanced image."""
    groups = Dataset()
    content = Dataset()
    content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", number, number
    groups.FrameContentSequence = [content]
    place = Dataset()
    place.ImagePositionPatient = [format_number_as_ds(float(x)) for x in position]
    groups.PlanePositionSequence = [place]
    return groups


def _describe_projection(ds: Dataset, photometric: str) -> None:
    """Sets what the modules of a digital radiograph for presentation require."""
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.ImageLaterality = "U"
    ds.AnatomicRegionSequence = [_coded(codes.SCT.Chest)]
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.PresentationLUTShape = "INVERSE" if photometric == "MONOCHROME1" else "IDENTITY"
    ds.ImagerPixelSpacing = [0.2, 0.2]
    ds.DetectorType = ds.PositionerType = None
    ds.AcquisitionContextSequence = []


def _set_pixels(ds: Dataset, values: NDArray[Any], transfer_syntax: str) -> None:
    """Sets pixels of 16 bits; signed for series, unsigned for radiographs."""
    signed = values.dtype != np.uint16
    order = "<" if UID(transfer_syntax).is_little_endian else ">"
    ds.Rows, ds.Columns = values.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, int(signed)
    ds.PixelData = values.astype(f"{order}{'i' if signed else 'u'}2").tobytes()
    ds["PixelData"].VR = "OW"


def _save(ds: Dataset, path: Path, transfer_syntax: str, attributes: dict[str, Any]) -> Path:
    for keyword, value in attributes.items():
        if tag_for_keyword(keyword) is None:
            raise ValueError(f"{keyword} is not a DICOM keyword.")
        if value is not None:
            setattr(ds, keyword, value)
        elif keyword in ds:
            delattr(ds, keyword)
    ds.file_meta = FileMetaDataset()
    encapsulated = UID(transfer_syntax).is_encapsulated
    ds.file_meta.TransferSyntaxUID = UID(ExplicitVRLittleEndian if encapsulated else transfer_syntax)
    if encapsulated:
        ds.compress(UID(transfer_syntax), generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path
