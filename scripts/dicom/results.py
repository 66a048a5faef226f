"""Writes what was found in a DICOM series as DICOM objects of the same study."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydicom import Dataset
from pydicom.config import disable_value_validation
from torch import Tensor

from scripts.data.planes import plane_axis
from scripts.dicom.derived import is_placed, map_frames, reference_images, save
from scripts.dicom.parametric_map import parametric_map
from scripts.dicom.report import report
from scripts.dicom.secondary_capture import secondary_captures
from scripts.dicom.segmentation import segmentation
from scripts.dicom.volume import Volume
from scripts.model.algorithm import Algorithm
from scripts.results.result import Result


def on_series(result: Result, volume: Volume) -> Result:
    """Counts the slices of a result as its series does, and puts map and mask on the series' grid.

    Where the model looked across the slices of the series, their scores are the highest values of the map in them. For
    such scores there is neither a threshold nor a p-value.

    Args:
        result: Result of the file that stands for the series, its map and mask (1, i, j, k).
        volume: The series.

    Returns:
        The result with map and mask as (i, j, k) arrays.

    Raises:
        ValueError: If a number is NaN or infinite, or map or slices do not fit the series.
    """
    axis, count, reverse = plane_axis(volume.affine, volume.array.shape, result.plane)
    anomaly_map = _array(result.anomaly_map)
    mask = None if result.mask is None else _array(result.mask)
    counted = replace(result, anomaly_map=anomaly_map, mask=mask)
    if axis != 2:
        scores = anomaly_map.max(axis=(0, 1))
        counted = replace(
            counted,
            slice_threshold=None,
            slice_scores=scores.tolist(),
            slice_p_values=[None] * len(scores),
            top_slices=np.argsort(scores)[::-1][: len(result.top_slices)].tolist(),
        )
    elif reverse:
        counted = replace(
            counted,
            slice_scores=result.slice_scores[::-1],
            slice_p_values=result.slice_p_values[::-1],
            top_slices=[count - 1 - number for number in result.top_slices],
        )
    _check(counted, volume)
    return counted


def write_dicom(
    volume: Volume, result: Result, algorithm: Algorithm, folder: Path, *, secondary_capture: bool = False
) -> list[Path]:
    """Writes ``segmentation.dcm`` (where there is a mask), ``anomaly_map.dcm`` and ``report.dcm``.

    Each is a new series of the source's patient and study, in its frame of reference, every frame where the source has
    it; see `reference_images` for what is mended in an incomplete source. All are made before the first is written.
    A radiograph has no ``anomaly_map.dcm``: highdicom writes none without a place in the patient.

    Args:
        volume: The series.
        result: What was found, as of `on_series`: map and mask are (i, j, k) arrays.
        algorithm: Name of the model.
        folder: Folder of the files, made where it is missing; files of the same names are replaced.
        secondary_capture: Whether to write ``overlay_NNN.dcm`` of every top slice NNN, counted from 0, as well.

    Returns:
        The files.

    Raises:
        ValueError: If a number is NaN or infinite, map, mask or slices do not fit the series, its files lack a UID, or
            their headers are such as highdicom stumbles over.
        OSError: If a file cannot be written; names it.
    """
    _check(result, volume)
    # pydicom and highdicom warn with names and birth dates, and validation logs UIDs.
    with warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        try:
            files = _objects(volume, result, algorithm, secondary_capture)
        except (AttributeError, LookupError, TypeError) as error:
            raise ValueError(f"Its headers make no DICOM results ({type(error).__name__}). Export it again.") from error
        return [save(dataset, Path(folder, name)) for name, dataset in files.items()]


def _array(values: Tensor | np.ndarray | None) -> np.ndarray:
    """(1, i, j, k) -> (i, j, k)."""
    array: np.ndarray = torch.as_tensor(values)[0].cpu().numpy()
    return array


def _check(result: Result, volume: Volume) -> None:
    thresholds = (result.scan_threshold, result.slice_threshold, result.mask_threshold)
    others = (*thresholds, result.p_value, result.false_positive_rate)
    if not (result.is_finite and all(math.isfinite(value) for value in others if value is not None)):
        raise ValueError("A score, threshold or p-value is NaN or infinite: DICOM has no such numbers.")
    slices = volume.array.shape[2]
    if len(result.slice_scores) != slices:
        raise ValueError(f"{len(result.slice_scores)} slice scores are not one for each of {slices} slices.")
    if not all(0 <= k < slices for k in result.top_slices):
        raise ValueError(f"Top slices {result.top_slices} are not all among the {slices} slices.")
    map_frames(result, volume)


def _objects(volume: Volume, result: Result, algorithm: Algorithm, secondary_capture: bool) -> dict[str, Dataset]:
    """DICOM objects by the names of their files."""
    images = reference_images(volume)
    files: dict[str, Dataset] = {}
    if result.mask is not None:
        files["segmentation.dcm"] = segmentation(volume, images, result, algorithm)
    if is_placed(volume):
        files["anomaly_map.dcm"] = parametric_map(volume, images, result, algorithm)
    segment = files.get("segmentation.dcm")
    files["report.dcm"] = report(volume, images, list(files.values()), segment, result, algorithm)
    if secondary_capture:
        captures = secondary_captures(volume, images, result, algorithm)
        files |= {f"overlay_{k:03d}.dcm": each for k, each in zip(result.top_slices, captures, strict=True)}
    return files
