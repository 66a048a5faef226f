"""Measures the reading of single slices, from the uncompressed cache and without it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import nibabel as nib
import numpy as np

from bundle.benchmark.speed.measuring import Call, Case, timed
from bundle.benchmark.speed.settings import Settings
from bundle.phantom.volumes import write_phantom_volumes
from scripts.transforms import LoadScand

_SHAPE, _SMALL_SHAPE = (256, 256, 64), (64, 64, 16)
_PLANES = {"axial": 2, "sagittal": 0}  # axis along which slices are numbered
_SLICES = 64  # slices in a call
_WHOLE = 4  # slices in a call that reads the whole volume for each


def slices(settings: Settings) -> list[Case]:
    """Cases of reading random slices of a phantom head in a ``.nii.gz`` of 12-bit voxels."""
    shape = _SMALL_SHAPE if settings.quick else _SHAPE
    facts = {"volume": list(shape)}
    cached = [
        Case(
            f"{plane} slice, from the cache",
            "slices",
            _SLICES,
            partial(_cached, settings, plane, shape[axis]),
            facts,
        )
        for plane, axis in _PLANES.items()
    ]
    whole = Case(
        "axial slice, of the whole volume inflated", "slices", _WHOLE, partial(_inflated, settings, shape), facts
    )
    return [*cached, whole]


def _cached(settings: Settings, plane: str, count: int) -> Call:
    path = _volume(settings)
    load = LoadScand("image", cache_dir=settings.folder / "cache", plane=plane)
    return _each(lambda index: load({"image": path, "slice": index}), count, _SLICES)


def _inflated(settings: Settings, shape: tuple[int, int, int]) -> Call:
    path = _volume(settings)

    def read(index: int) -> None:
        image: Any = nib.load(path)
        np.ascontiguousarray(np.asanyarray(image.dataobj)[..., index])

    return _each(read, min(shape), _WHOLE)  # any index of the last axis in the file


def _each(read: Callable[[int], object], count: int, number: int) -> Call:
    rng = np.random.default_rng(0)

    def work() -> None:
        for index in rng.integers(count, size=number):
            read(int(index))

    return timed(work)


def _volume(settings: Settings) -> str:
    """Path of the phantom's file, which is written the first time."""
    folder = settings.folder / "phantom"
    if not folder.exists():
        shape = _SMALL_SHAPE if settings.quick else _SHAPE
        write_phantom_volumes(folder, normal=1, anomalous=0, dicom=0, shape=shape, spacing=(0.8, 0.8, 2.5))
    return str(folder / "normal" / "sub-01" / "ct.nii.gz")
