"""Reading of 2D image files in full bit depth, rows first and upright."""

from __future__ import annotations

import numpy as np
import png
import tifffile
from monai.config import PathLike
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
    """File that cannot be read faithfully as one 2D image; the message names the file and the remedy."""


def read_image(path: PathLike) -> np.ndarray:
    """Reads an image in its native depth, applies the EXIF orientation, expands palettes and drops alpha.

    Returns:
        Image, (H, W) for grey or (H, W, 3) for colour, in its native value range and native byte order; 1-bit images
        become 0 and 255.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If the file is empty, damaged, not an image, has several frames, or holds NaN or infinity.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (8, 6)).save(f"{folder}/a.png")
    ...     read_image(f"{folder}/a.png").shape
    (6, 8, 3)
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
    except Exception as error:  # on damaged bytes decoders raise anything from SyntaxError to struct.error
        reason = "it has no known image format" if isinstance(error, UnidentifiedImageError) else error
        raise UnreadableImageError(f"{path}: cannot be read as one 2D image: {reason}. {_REMEDY}") from error
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnreadableImageError(
            f"{path}: holds NaN or infinite values. Replace them with a finite background value, or leave the file out."
        )
    return np.require(array, array.dtype.newbyteorder("="), ["C", "W"])  # torch warns about read-only arrays


def read_mask(path: PathLike) -> np.ndarray:
    """Reads a mask in any image format; a pixel with any nonzero channel is anomalous.

    Returns:
        Mask, (H, W), uint8, 0 or 1.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If `read_image` cannot read the file.
    """
    array = read_image(path) != 0
    return (array.any(axis=-1) if array.ndim == 3 else array).astype(np.uint8)


def _read_pillow(path: PathLike) -> np.ndarray:
    """Reads an image that Pillow decodes exactly: 8 bits a channel, or grey in uint16 or float32."""
    with Image.open(path) as image:
        # In a camera's MPO, a kind of JPEG, the second frame is a preview; in other formats frames are separate images.
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
    """Reads a PNG, by pypng if it has 16 bits and several channels, which Pillow silently reduces to 8 bits."""
    with Image.open(path) as image:
        image.verify()  # checks the CRC of every chunk, which decoding does not
    if bit_depth <= 8:
        return _read_pillow(path)
    if colour_type == 0:
        return _read_pillow(path).astype(np.uint16)  # older versions of Pillow return int32
    with Image.open(path) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    with open(path, "rb") as file:
        width, height, rows, info = png.Reader(file=file).read()
        array = np.vstack([np.asarray(row, np.uint16) for row in rows])
    return _upright(array.reshape(height, width, info["planes"]), orientation)


def _read_tiff(path: PathLike) -> np.ndarray:
    """Reads a TIFF of one page by tifffile, which keeps any depth, or else by Pillow, which has more codecs."""
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
    """Drops alpha: (H, W, C) with 1 to 4 channels -> (H, W) or (H, W, 3)."""
    if array.ndim == 3 and array.shape[2] in (1, 2):
        array = array[..., 0]
    elif array.ndim == 3 and array.shape[2] == 4:
        array = array[..., :3]
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3):
        return array
    raise ValueError(f"its shape {array.shape} is not that of a grey or colour image")
