"""The stored values of a DICOM file, in the units of the modality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

from scripts.dicom.volume import UnreadableSeriesError

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def read_pixels(path: Path) -> tuple[Dataset, np.ndarray]:
    """Reads a file, decompressing it where needed.

    Returns:
        The dataset without its pixel data, and the stored values (frames, rows, columns).

    Raises:
        UnreadableSeriesError: If the file is damaged, cut short, in colour, or no installed decoder knows it.
    """
    try:
        dataset = dcmread(path, force=True)
        if "PhotometricInterpretation" not in dataset:  # pydicom drops all of a file that ends within compressed pixels
            raise ValueError("the file is cut short, or holds no image")
        if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
            raise ValueError("no image in grey values")
        stored = pixel_array(dataset, raw=True)
    except Exception as error:  # parsers and decoders fail in many ways on damaged files
        raise UnreadableSeriesError(
            f"{path}: the image cannot be read ({error}). Export it again, uncompressed, or leave it out."
        ) from error
    for keyword in _PIXELS:
        if keyword in dataset:
            del dataset[keyword]
    return dataset, stored.reshape(-1, *stored.shape[-2:])


def padding(stored: np.ndarray, attributes: Dataset) -> np.ndarray | None:
    """Gives where stored values are PixelPaddingValue, or within its range limit; None if there is no such value."""
    value = attributes.get("PixelPaddingValue")
    if value is None:
        return None
    # Some scanners write the value with the wrong sign.
    ends = np.array([value, attributes.get("PixelPaddingRangeLimit", value)], np.int64).astype(stored.dtype)
    return (stored >= ends.min()) & (stored <= ends.max())


def modality_values(stored: np.ndarray, attributes: Dataset) -> np.ndarray:
    """Applies the modality LUT, or the slope and intercept of this very image.

    Returns:
        int64 if the slope is 1 and the intercept integral, else float64.

    Raises:
        ValueError: For a slope of 0, or one that is not finite.
    """
    if attributes.get("ModalityLUTSequence"):
        return apply_modality_lut(stored, attributes).astype(np.int64)
    slope = _number(attributes, "RescaleSlope", 1.0)
    intercept = _number(attributes, "RescaleIntercept", 0.0)
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise ValueError(f"RescaleSlope {slope} and RescaleIntercept {intercept} make no values")
    if slope == 1 and intercept.is_integer() and stored.dtype.kind in "iu":
        return stored.astype(np.int64) + int(intercept)
    return stored * slope + intercept


def displayed(values: np.ndarray, attributes: Dataset) -> np.ndarray:
    """Gives a radiograph as it is meant to be seen: VOI LUT or window applied, and MONOCHROME1 inverted.

    Returns:
        float64 (rows, columns), bright where a MONOCHROME2 display is bright. MONOCHROME1 is mirrored within the range
        of values that could be stored, so that equal values stay equal from image to image.
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
    """Gives integers as int16 or int32 where they fit, and all others as float32."""
    if array.dtype.kind == "i":
        for kind in (np.int16, np.int32):
            if np.iinfo(kind).min <= array.min() and array.max() <= np.iinfo(kind).max:
                return array.astype(kind, copy=False)
    return array.astype(np.float32, copy=False)


def _number(attributes: Dataset, keyword: str, default: float) -> float:
    value = attributes.get(keyword)
    return default if value is None or value == "" else float(value)
