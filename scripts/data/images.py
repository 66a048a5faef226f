"""Reads 2D image files without loss of depth, always rows first and upright."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import png
import tifffile
from monai.config import PathLike
from monai.data import ImageReader
from monai.data.utils import is_supported_format
from monai.utils import MetaKeys, ensure_tuple
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

_PNG_MAGIC = b"\x89PNG"
_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFFFILE_CODECS = (
    tifffile.COMPRESSION.NONE,
    tifffile.COMPRESSION.ADOBE_DEFLATE,
    tifffile.COMPRESSION.DEFLATE,
)
_TIFFFILE_COLOURS = (
    tifffile.PHOTOMETRIC.MINISBLACK,
    tifffile.PHOTOMETRIC.MINISWHITE,
    tifffile.PHOTOMETRIC.RGB,
    tifffile.PHOTOMETRIC.PALETTE,
)
_REMEDY = "Save it again as a single-frame PNG or uncompressed TIFF, or leave it out of the data set."


class UnreadableImageError(ValueError):
    """A file that cannot be read faithfully as one 2D image; the message names the file and the remedy."""


def read_image(path: PathLike) -> np.ndarray:
    """Reads one image in its native depth, with EXIF orientation applied, palette expanded and alpha dropped.

    Returns:
        (H, W) for grey or (H, W, 3) for colour, rows first, native value range and byte order; 1-bit becomes 0/255.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If it is empty, damaged, not an image, of several frames, or holds NaN or infinity.
    """
    with open(path, "rb") as file:
        head = file.read(26)
    if not head:
        raise UnreadableImageError(f"{path}: is empty (0 bytes). Fetch it again, or leave it out of the data set.")
    try:
        if head.startswith(_TIFF_MAGICS):
            array = _read_tiff(path)
        elif head.startswith(_PNG_MAGIC):
            array = _read_png(path, bit_depth=head[24], colour_type=head[25])
        else:
            array = _read_pillow(path)
        array = _without_alpha(array)
    except Exception as error:  # on damaged bytes the decoders raise anything, from SyntaxError to struct.error
        reason = "of no known image format" if isinstance(error, UnidentifiedImageError) else error
        raise UnreadableImageError(f"{path}: cannot be read as one 2D image: {reason}. {_REMEDY}") from error
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnreadableImageError(
            f"{path}: holds NaN or infinite values. Replace them by a finite background value, or leave the file out."
        )
    return np.require(array, array.dtype.newbyteorder("="), ["C", "W"])  # torch warns of arrays it cannot write to


def read_mask(path: PathLike) -> np.ndarray:
    """Reads a mask in any of the image formats; a pixel with any nonzero channel is an anomaly.

    Returns:
        (H, W) uint8 of 0 and 1.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: As `read_image`.
    """
    array = read_image(path) != 0
    return (array.any(axis=-1) if array.ndim == 3 else array).astype(np.uint8)


def _read_pillow(path: PathLike) -> np.ndarray:
    """Reads what Pillow decodes exactly: 8 bits a channel, and grey of uint16 or float32."""
    with Image.open(path) as image:
        # A camera's MPO is a JPEG with a preview as second frame; in any other format frames are images of their own.
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            raise ValueError(f"it has {image.n_frames} frames")  # type: ignore[attr-defined]
        upright = ImageOps.exif_transpose(image)
    if upright.mode == "1":
        upright = upright.convert("L")
    elif upright.mode in ("P", "PA"):
        upright = upright.convert("RGBA")
    elif upright.mode not in ("L", "LA", "RGB", "RGBA", "I", "F") and not upright.mode.startswith("I;16"):
        upright = upright.convert("RGB")
    return np.asarray(upright)


def _read_png(path: PathLike, bit_depth: int, colour_type: int) -> np.ndarray:
    """Reads a PNG; by pypng what Pillow cuts to 8 bits without a word: 16 bits in more channels than one."""
    with Image.open(path) as image:
        image.verify()  # Checks the CRC of every chunk, which decoding does not.
    if bit_depth <= 8:
        return _read_pillow(path)
    if colour_type == 0:
        return _read_pillow(path).astype(np.uint16)  # Older versions of Pillow give int32.
    with Image.open(path) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    with open(path, "rb") as file:
        width, height, rows, info = png.Reader(file=file).read()
        array = np.vstack([np.asarray(row, np.uint16) for row in rows])
    return _upright(array.reshape(height, width, info["planes"]), orientation)


def _read_tiff(path: PathLike) -> np.ndarray:
    """Reads a TIFF of one page: by tifffile, which keeps any depth, or by Pillow, which has more codecs."""
    with tifffile.TiffFile(path) as tiff:
        if len(tiff.pages) != 1:
            raise ValueError(f"it has {len(tiff.pages)} frames")
        page = tiff.pages.first
        if page.compression in _TIFFFILE_CODECS and page.photometric in _TIFFFILE_COLOURS:
            array = page.asarray()
            if page.axes == "SYX":
                array = np.moveaxis(array, 0, -1)
            if array.dtype == bool:
                array = array.astype(np.uint8) * 255
            if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
                array = (np.asarray(page.colormap) >> 8).astype(np.uint8).T[array]
            elif page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind == "u":
                array = np.iinfo(array.dtype).max - array
            return _upright(array, page.tags.valueof(ExifTags.Base.Orientation, default=1))
        exact = page.bitspersample <= 8 or (page.samplesperpixel, page.dtype) in ((1, np.uint16), (1, np.float32))
        if not exact or page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            raise ValueError(f"its compression {page.compression} cannot be read with its {page.dtype} values")
    return _read_pillow(path)


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation, 1 to 8, to an array (H, W, ...)."""
    if orientation >= 5:
        array = np.swapaxes(array, 0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def _without_alpha(array: np.ndarray) -> np.ndarray:
    """Turns (H, W, C) of 1 to 4 channels into (H, W) or (H, W, 3)."""
    if array.ndim == 3 and array.shape[2] in (1, 2):
        array = array[..., 0]
    elif array.ndim == 3 and array.shape[2] == 4:
        array = array[..., :3]
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3):
        return array
    raise ValueError(f"its shape is {array.shape}, not that of a grey or colour image")


class ImageFileReader(ImageReader):
    """Gives `read_image` to MONAI's `LoadImage`: (H, W) or (H, W, 3), rows first, not transposed."""

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Says whether every file name ends like a 2D image."""
        return is_supported_format(filename, [suffix[1:] for suffix in IMAGE_SUFFIXES])

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> PathLike:
        """Returns the path alone: decoding waits for `get_data`.

        `LoadImage` answers an exception here by trying its other readers, which would take a damaged or multi-frame
        file and transpose it; an exception in `get_data` reaches the user.

        Raises:
            ValueError: If several files are given.
        """
        paths = ensure_tuple(data)
        if len(paths) != 1:
            raise ValueError(f"An item's image must be one 2D file, got {len(paths)}: give each its own item.")
        return paths[0]

    def get_data(self, img: PathLike) -> tuple[np.ndarray, dict[str, Any]]:
        """Reads the file.

        Returns:
            The array of `_load` and its metadata: spatial shape (H, W), identity affine, where the channels are.

        Raises:
            UnreadableImageError: As `read_image`.
        """
        array = self._load(img)
        return array, {
            MetaKeys.SPATIAL_SHAPE: np.asarray(array.shape[:2]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: -1 if array.ndim == 3 else float("nan"),
            MetaKeys.AFFINE: np.eye(4),
            MetaKeys.ORIGINAL_AFFINE: np.eye(4),
        }

    def _load(self, path: PathLike) -> np.ndarray:
        return read_image(path)


class MaskFileReader(ImageFileReader):
    """Gives `read_mask` to MONAI's `LoadImage`: (H, W) of 0 and 1."""

    def _load(self, path: PathLike) -> np.ndarray:
        return read_mask(path)
