"""Fast access to NIfTI volumes: any slice can be read without decompressing the volume each time."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import logging
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from tqdm.contrib.concurrent import thread_map

from scripts.data.bias_field import n4_corrected
from scripts.data.borders import borders
from scripts.data.foreground import foreground_quantiles, foreground_threshold
from scripts.files import replacing

logger = logging.getLogger(__name__)

SCAN_SUFFIXES = (".nii", ".nii.gz")
_LETTER = r"[^\W\d_]"
MASK_PATTERN = rf"(?<!{_LETTER})(lesions?|masks?|segs?|segmentations?|labels?)(?!{_LETTER})"

# Header fields that position the voxels, with the same names in NIfTI-1 and NIfTI-2.
_PLACE = ("pixdim", "xyzt_units", "qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
          "qoffset_z", "sform_code", "srow_x", "srow_y", "srow_z")  # fmt: skip
_CACHE_VERSION = 2  # a new version invalidates the cache


class UnreadableScanError(ValueError):
    """File that cannot be read faithfully as one 3D scan; the message names the file and the remedy."""


@dataclass(frozen=True)
class Scan:
    """Volume (i, j, k) with its statistics.

    Attributes:
        source: File as named by the user.
        path: Uncompressed NIfTI with the same grid and finite values.
        shape: Shape of the volume, (i, j, k).
        affine: Affine from voxel indices to RAS millimetres, (4, 4).
        quantiles: Quantiles of the foreground; see ``scripts.data.foreground``.
        foreground: Number of foreground voxels in each slice, for each of the three axes; the foreground of a mask is
            where it is not zero.
        box: First and one past the last index of the foreground along each axis; the whole scan if it has no
            foreground. For a single slice, the area between burnt-in borders.
        key: Name in the cache, other for each state of the file.
    """

    source: str
    path: str
    shape: tuple[int, int, int]
    affine: np.ndarray
    quantiles: list[float]
    foreground: list[list[int]]
    box: list[list[int]]
    key: str

    def slices(self, axis: int, indices: list[int]) -> np.ndarray:
        """Slices at ``indices`` along ``axis``, stacked along it; an array of three axes in the order of the file."""
        return self._read((slice(None),) * axis + (indices,))

    def array(self) -> np.ndarray:
        """Whole volume, (i, j, k)."""
        return self._read(...)

    def _read(self, part: Any) -> np.ndarray:
        stored, slope, intercept = _mapped(self.path, os.stat(self.path).st_mtime_ns)
        return apply_read_scaling(stored[part], slope, intercept)


@lru_cache(maxsize=64)
def _mapped(path: str, _changed: int) -> tuple[np.ndarray, float, float]:
    # Mapped, since nibabel's proxy reads a slice across the rows of the file with one seek a voxel, 300 times slower.
    image: Any = nib.load(path, mmap="r")
    proxy = image.dataobj
    return proxy.get_unscaled(), proxy.slope, proxy.inter


def is_scan(path: str | Path) -> bool:
    """Checks whether a file name is that of a NIfTI volume.

    >>> is_scan("Patient.NII.gz"), is_scan("slice.png")
    (True, False)
    """
    return str(path).lower().endswith(SCAN_SUFFIXES)


def scan_stem(path: Path) -> str:
    """Name of a NIfTI volume without its suffixes."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def open_scan(path: str | Path, cache_dir: str | Path, mask: bool = False, bias_correction: bool = False) -> Scan:
    """Opens a NIfTI volume.

    The first time, the whole volume is read, checked, and cached uncompressed with its statistics; a changed file is
    read again. NaN and infinite values become the smallest finite value, with a warning.

    Args:
        path: Path of a ``.nii`` or ``.nii.gz`` file.
        cache_dir: Folder of the cache. It holds images of patients, so keep it as safe as the data; delete it at will.
        mask: Whether the file is a mask, whose foreground is where it is not zero.
        bias_correction: Whether N4 corrects the scan before it is cached.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableScanError: If the file is empty, damaged, not a 3D volume of real numbers, without a geometry, or
            constant.
        OSError: If ``cache_dir`` cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nib.save(nib.Nifti1Image(np.arange(60, dtype="int16").reshape(3, 4, 5), np.eye(4)), f"{folder}/a.nii.gz")
    ...     open_scan(f"{folder}/a.nii.gz", f"{folder}/cache").slices(2, [0, 4]).shape
    (3, 4, 2)
    """
    source = Path(path)
    key = _key(source, mask, bias_correction)
    return _cached(source, Path(cache_dir), key, lambda kept: _convert(source, kept, mask, bias_correction))


def cached(scan: Scan, cache_dir: str | Path, kind: str, convert: Callable[[Path], dict[str, Any]]) -> Scan:
    """Opens what a scan was converted to, and converts it the first time.

    Args:
        scan: Scan that is converted.
        cache_dir: Folder of the cache.
        kind: Name of the conversion, for the name of its file.
        convert: Writes the uncompressed NIfTI to a path, and returns the ``Scan`` but its source as JSON values.

    Raises:
        OSError: If ``cache_dir`` cannot be written.
    """
    return _cached(Path(scan.source), Path(cache_dir), f"{scan.key}-{kind}", convert)


def forget_scan(path: str | Path, cache_dir: str | Path) -> None:
    """Removes a scan and what it was converted to from the cache, as long as its file still exists."""
    for mask, bias_correction in itertools.product((False, True), repeat=2):
        for kept in Path(cache_dir).glob(f"{_key(Path(path), mask, bias_correction)}*"):
            kept.unlink(missing_ok=True)
    _mapped.cache_clear()  # an open map would keep the space on the disk occupied


def described(array: np.ndarray, affine: np.ndarray, mask: bool) -> dict[str, Any]:
    """Geometry and statistics of a volume (i, j, k), those of a ``Scan``, as JSON values."""
    foreground = array != 0 if mask else array > foreground_threshold(array)
    return {
        "shape": list(array.shape),
        "affine": affine.tolist(),
        "quantiles": [] if mask else foreground_quantiles(array).tolist(),
        "foreground": [
            foreground.sum(axis=tuple(other for other in range(3) if other != axis)).tolist() for axis in range(3)
        ],
    }


def _cached(source: Path, cache_dir: Path, key: str, convert: Callable[[Path], dict[str, Any]]) -> Scan:
    record = cache_dir / f"{key}.json"
    scan = _read_record(record, source)
    if scan is None:
        try:
            cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # images of patients
            known = convert(cache_dir / f"{key}.nii") | {"key": key}
            with replacing(record) as part:
                part.write_text(json.dumps(known))
        except OSError as error:
            raise OSError(
                f"{source}: cannot be kept in {cache_dir} ({error}). Make room there, or set cache_dir to a "
                "writable folder."
            ) from error
        scan = _scan(known, source)
    return scan


def _key(source: Path, mask: bool, bias_correction: bool) -> str:
    state = source.stat()
    kind = f"{_CACHE_VERSION} {source.resolve()} {state.st_size} {state.st_mtime_ns} {mask} {bias_correction}"
    return hashlib.sha256(kind.encode()).hexdigest()[:24]


def _scan(known: dict[str, Any], source: Path) -> Scan:
    path = known["path"] or str(source.resolve())
    shape, affine = tuple(known["shape"]), np.array(known["affine"])
    return Scan(**{**known, "source": str(source), "path": path, "shape": shape, "affine": affine})


def _read_record(record: Path, source: Path) -> Scan | None:
    try:
        scan = _scan(json.loads(record.read_text()), source)
        return scan if Path(scan.path).is_file() else None
    except (OSError, ValueError, TypeError, KeyError):  # missing, or truncated by a full disk
        return None


def _convert(source: Path, kept: Path, mask: bool, bias_correction: bool) -> dict[str, Any]:
    """Reads and checks the whole volume, writes it to ``kept`` unless the source will do, and returns its record."""
    image = _load(source)
    try:
        array = _array(image, source)
    except (OSError, EOFError, ValueError, OverflowError, zlib.error, MemoryError) as error:
        reason = " ".join(str(error).split())  # nibabel's messages have line breaks
        raise UnreadableScanError(
            f"{source}: is cut off or damaged ({reason}). Fetch it again, or leave it out."
        ) from error
    if array.dtype.kind not in "iufb":
        raise UnreadableScanError(
            f"{source}: holds {array.dtype} values, not one real number a voxel. Extract a channel, or leave it out."
        )
    changed = source.suffix.lower() != ".nii" or len(image.shape) != 3
    if array.dtype.kind == "f":
        array, repaired = _finite(array, source)
        changed |= repaired
    low, high = float(array.min()), float(array.max())
    if low == high and not mask:
        raise UnreadableScanError(f"{source}: is empty, as every voxel is {low:g}. Leave it out.")
    if bias_correction:
        array, changed = n4_corrected(array, nib.affines.voxel_sizes(image.affine)), True
    if changed:  # otherwise the source itself can be read
        stored = array if array.dtype.kind in "iu" and array.dtype.itemsize <= 2 else array.astype(np.float32)
        with replacing(kept) as part:
            nib.save(_like(image, stored), part)
    about = described(array, image.affine, mask)
    extents = [_extent(np.array(counts) > 0) for counts in about["foreground"]]
    return {
        **about,
        "path": str(kept.resolve()) if changed else None,
        "box": _frame(array) if array.shape[2] == 1 and not mask else extents,
    }


def _load(source: Path) -> nib.Nifti1Image:
    """Opens the file and checks its header."""
    if source.stat().st_size == 0:
        raise UnreadableScanError(f"{source}: is empty (0 bytes). Fetch it again, or leave it out.")
    if not is_scan(source):
        raise UnreadableScanError(f"{source}: does not end in {' or '.join(SCAN_SUFFIXES)}. Convert it to NIfTI.")
    try:
        image = nib.load(source)
        if not isinstance(image, nib.Nifti1Image):
            raise ImageFileError(f"it is {type(image).__name__}")
        affine, spacing = image.affine, _spacing(image, source)
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
        raise UnreadableScanError(f"{source}: is not a NIfTI volume ({error}). Convert it, or leave it out.") from error
    shape = _three_axes(image.shape)
    if len(shape) != 3 or 0 in shape:
        raise UnreadableScanError(
            f"{source}: has the shape {image.shape}, not that of a single 3D volume. Split it, and save each part "
            "as a file of its own."
        )
    sizes = nib.affines.voxel_sizes(affine)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) <= 1e-3 * sizes.prod() or 0 in spacing:
        raise UnreadableScanError(
            f"{source}: has no voxel size (spacing {spacing}), so positions in millimetres are unknown. Set pixdim, "
            "qform or sform in its header, or convert it again from its source."
        )
    if (unit := image.header.get_xyzt_units()[0]) not in ("mm", "unknown"):
        raise UnreadableScanError(f"{source}: has lengths in {unit}, not in mm. Set its units, and scale its affine.")
    if image.header["sform_code"] == 0 and image.header["qform_code"] == 0:
        logger.warning("%s: has no orientation (sform and qform are 0); left and right may be swapped.", source)
    return image


def _spacing(image: Any, source: Path) -> tuple[float, ...]:
    """Voxel spacing: that of the affine if the file has an sform, else that of the raw header, where 0 stays 0."""
    if image.header["sform_code"]:
        return tuple(map(float, nib.affines.voxel_sizes(image.affine)))
    with ImageOpener(str(source)) as file:
        header = type(image.header).from_fileobj(file, check=False)
    return tuple(map(float, header["pixdim"][1 : 1 + min(3, len(image.shape))]))


def _three_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape without axes of length 1 beyond the third; a flat image gets a third."""
    if len(shape) == 2:
        return (*shape, 1)
    return shape[:3] if all(length == 1 for length in shape[3:]) else shape


def _array(image: Any, source: Path) -> np.ndarray:
    """Voxels, (i, j, k); those of a compressed file only if its checksum is right."""
    if source.suffix.lower() == ".gz":
        with gzip.open(source) as file:
            image = type(image).from_stream(io.BytesIO(file.read()))
    array = np.asanyarray(image.dataobj)
    return array.reshape(_three_axes(array.shape))


def _like(image: Any, array: np.ndarray) -> nib.Nifti1Image:
    """NIfTI-1 of ``array`` with the geometry of ``image`` and nothing else of its header."""
    header = nib.Nifti1Header()
    header.set_data_dtype(array.dtype)
    for field in _PLACE:
        header[field] = image.header[field]
    return nib.Nifti1Image(array, image.affine, header)


def save_like(source: str | Path, array: np.ndarray, path: Path) -> None:
    """Writes ``array`` (i, j, k) as a NIfTI with the geometry of the NIfTI ``source``: its affine, qform and sform.

    Raises:
        OSError: If the file cannot be written; nothing half-written is left.
    """
    with replacing(path) as part:
        nib.save(_like(nib.load(source), array), part)


def _finite(array: np.ndarray, source: Path) -> tuple[np.ndarray, bool]:
    wrong = ~np.isfinite(array)
    count = int(wrong.sum())
    if count == array.size:
        raise UnreadableScanError(f"{source}: holds no finite value. Leave it out.")
    if count:
        logger.warning("%s: %d voxels are NaN or infinite; they become the smallest finite value.", source, count)
        array = np.where(wrong, array[~wrong].min(), array)
    return array, bool(count)


def _frame(array: np.ndarray) -> list[list[int]]:
    """Box of a single slice, such as a radiograph: the area between its borders."""
    first, after_last, second, after_second = borders(array[..., 0])
    return [[first, array.shape[0] - after_last], [second, array.shape[1] - after_second], [0, 1]]


def _extent(inside: np.ndarray) -> list[int]:
    found = np.flatnonzero(inside)
    return [int(found[0]), int(found[-1]) + 1] if len(found) else [0, len(inside)]


def open_every(paths: list[str], open_one: Callable[[str], Any]) -> dict[str, Any]:
    """Opens files as ``open_all`` does, all of them, by path.

    Raises:
        ValueError: If some cannot be opened; names each.
    """
    opened, failed = open_all(paths, open_one)
    if failed:
        raise ValueError("\n".join(failed.values()))
    return opened


def open_all(paths: list[str], open_one: Callable[[str], Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Opens files in threads, with a progress bar.

    Args:
        paths: Paths of the files.
        open_one: Function that opens one file.

    Returns:
        Results of the files that were opened, and error messages of the others, both by path.
    """

    def attempt(path: str) -> Any:
        try:
            return open_one(path)
        except (ValueError, OSError) as error:
            return str(error) if str(path) in str(error) else f"{path}: {error}"

    workers = min(4, os.cpu_count() or 1)  # each holds a whole volume in memory
    results = thread_map(attempt, paths, max_workers=workers, desc="Reading", unit="file", leave=False, disable=None)
    both = dict(zip(paths, results, strict=True))
    return (
        {path: result for path, result in both.items() if not isinstance(result, str)},
        {path: result for path, result in both.items() if isinstance(result, str)},
    )
