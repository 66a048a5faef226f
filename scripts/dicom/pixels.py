"""Reads the stored values of DICOM files and converts them to the units of the modality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

from scripts.dicom.volume import UnreadableSeriesError

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def read_pixels(path: Path) -> tuple[Dataset, np.ndarray]:
    """Reads a file and decompresses its pixels if needed.

    Returns:
        The dataset without its pixel data, and the stored values (frames, rows, columns).

    Raises:
        UnreadableSeriesError: If the file is damaged, cut short or in colour, or no installed decoder can read it.
    """
    try:
        dataset = dcmread(path, force=True)
        if (
            "PhotometricInterpretation" not in dataset
        ):  # pydicom drops everything of a file that ends within compressed pixels
            raise ValueError("the file is cut short, or holds no image")
        if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
            raise ValueError("not a greyscale image")
        stored = pixel_array(dataset, raw=True)
    except Exception as error:  # damaged files make parsers and decoders fail in many ways
        raise UnreadableSeriesError(
            f"{path}: the image cannot be read ({error}). Export it again, uncompressed, or leave it out."
        ) from error
    for keyword in _PIXELS:
        if keyword in dataset:
            del dataset[keyword]
    return dataset, stored.reshape(-1, *stored.shape[-2:])


def padding(stored: np.ndarray, attributes: Dataset) -> np.ndarray | None:
    """Mask of stored values that are padding, by PixelPaddingValue and its range limit; None if there is no padding."""
    value = attributes.get("PixelPaddingValue")
    if value is None:
        return None
    # Some scanners write this value with the wrong signedness.
    ends = np.array([value, attributes.get("PixelPaddingRangeLimit", value)], np.int64).astype(stored.dtype)
    return (stored >= ends.min()) & (stored <= ends.max())


def modality_values(stored: np.ndarray, attributes: Dataset) -> np.ndarray:
    """Applies the modality LUT, or the slope and intercept of this image.

    Returns:
        int64 values if the slope is 1 and the intercept integral, else float64.

    Raises:
        ValueError: If the slope is 0, or slope or intercept are not finite.
    """
    if attributes.get("ModalityLUTSequence"):
        return apply_modality_lut(stored, attributes).astype(np.int64)
    slope = _number(attributes, "RescaleSlope", 1.0)
    intercept = _number(attributes, "RescaleIntercept", 0.0)
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise ValueError(f"RescaleSlope {slope} and RescaleIntercept {intercept} are not usable")
    if slope == 1 and intercept.is_integer() and stored.dtype.kind in "iu":
        return stored.astype(np.int64) + int(intercept)
    return stored * slope + intercept


def displayed(values: np.ndarray, attributes: Dataset) -> np.ndarray:
    """Converts a radiograph to how it is meant to be displayed: VOI LUT or window applied, MONOCHROME1 inverted.

    Returns:
        Values (rows, columns), float64, bright where a display is bright. MONOCHROME1 is mirrored within the range of
        storable values, so that equal values stay equal from image to image.
    """
    seen = apply_voi_lut(values, attributes)
    if attributes.PhotometricInterpretation == "MONOCHROME2":
        return seen
    lut = (attributes.get("VOILUTSequence") or attributes.get("ModalityLUTSequence") or [None])[0]
    if lut is not None:
        return 2 ** int(lut.LUTDescriptor[2]) - 1 - seen
    bits = int(attributes.BitsStored)
    lowest = -(2 ** (bits - 1)) if attributes.PixelRepresentation else 0
    ends = modality_values(np.array([lowest, lowest + 2**bits - 1]), attributes)
    return ends.sum() - seen


def compact(array: np.ndarray) -> np.ndarray:
    """Converts integers to int16 or int32 if they fit, and everything else to float32."""
    if array.dtype.kind == "i":
        for kind in (np.int16, np.int32):
            if np.iinfo(kind).min <= array.min() and array.max() <= np.iinfo(kind).max:
                return array.astype(kind, copy=False)
    return array.astype(np.float32, copy=False)


def _number(attributes: Dataset, keyword: str, default: float) -> float:
    value = attributes.get(keyword)
    return default if value is None or value == "" else float(value)
