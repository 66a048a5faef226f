import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from scripts.data.images import UnreadableImageError, read_image, read_mask

RAMP_12_BIT = np.arange(4096, dtype=np.uint16).reshape(32, 128)
GREY = np.arange(6 * 9, dtype=np.uint8).reshape(6, 9)
COLOUR = (np.arange(6 * 9 * 3).reshape(6, 9, 3) * 1201 % 65536).astype(np.uint16)
ORIENTATION = 0x0112


def write_png(path: Path, array: np.ndarray) -> Path:
    """Writes a PNG by the letter of its specification, as Pillow writes no 16-bit colour."""
    channels = 1 if array.ndim == 2 else array.shape[2]
    kind, depth = {1: 0, 2: 4, 3: 2, 4: 6}[channels], array.dtype.itemsize * 8
    rows = b"".join(b"\0" + row.astype(array.dtype.newbyteorder(">")).tobytes() for row in array)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], depth, kind, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def assert_same(read: np.ndarray, expected: np.ndarray) -> None:
    assert read.dtype == expected.dtype
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("name", ["ramp.png", "ramp.tif", "lzw.tif", "big_endian.tif"])
def test_12_bit_ramp_survives_exactly(tmp_path, name):
    path = tmp_path / name
    if name == "ramp.png":
        write_png(path, RAMP_12_BIT)
    elif name == "lzw.tif":
        Image.fromarray(RAMP_12_BIT).save(path, compression="tiff_lzw")
    else:
        tifffile.imwrite(path, RAMP_12_BIT, byteorder=">" if name == "big_endian.tif" else "<")
    assert_same(read_image(path), RAMP_12_BIT)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "uint32", "float16", "float32", "float64"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 3)])
def test_tiff_keeps_its_dtype(tmp_path, dtype, compression, shape):
    array = (np.arange(np.prod(shape)).reshape(shape) * 31 % 251).astype(dtype)
    tifffile.imwrite(
        tmp_path / "a.tif", array, compression=compression, photometric="rgb" if len(shape) == 3 else "minisblack"
    )
    assert_same(read_image(tmp_path / "a.tif"), array)


def test_planar_tiff_has_its_channels_last(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(COLOUR, -1, 0), photometric="rgb", planarconfig="separate")
    assert_same(read_image(tmp_path / "a.tif"), COLOUR)


@pytest.mark.parametrize(("dtype", "compression"), [("uint8", "tiff_lzw"), ("uint16", "tiff_adobe_deflate")])
def test_tiff_of_another_writer(tmp_path, dtype, compression):
    array = GREY.astype(dtype) * 3
    Image.fromarray(array).save(tmp_path / "a.tif", compression=compression, tiffinfo={317: 2})  # with a predictor
    assert_same(read_image(tmp_path / "a.tif"), array)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_tiff_where_zero_is_white_is_inverted(tmp_path, dtype):
    array = GREY.astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="miniswhite")
    assert_same(read_image(tmp_path / "a.tif"), np.iinfo(dtype).max - array)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(("channels", "expected"), [(1, 0), (2, 0), (3, slice(None)), (4, slice(3))])
def test_png_of_any_channels_loses_only_its_alpha(tmp_path, dtype, channels, expected):
    array = np.concatenate([COLOUR, COLOUR[..., :1]], axis=-1)[..., :channels].astype(dtype)
    assert_same(read_image(write_png(tmp_path / "a.png", array)), array[..., expected])


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_palette_is_expanded(tmp_path, suffix):
    image = Image.fromarray(GREY % 3, mode="P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / f"plain{suffix}")
    expected = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]], np.uint8)[GREY % 3]
    assert_same(read_image(tmp_path / f"plain{suffix}"), expected)
    image.save(tmp_path / "transparent.png", transparency=bytes([0, 128, 255]))
    assert_same(read_image(tmp_path / "transparent.png"), expected)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_1_bit_becomes_0_and_255(tmp_path, suffix):
    Image.fromarray(GREY > 20).save(tmp_path / f"a{suffix}")
    assert_same(read_image(tmp_path / f"a{suffix}"), np.where(GREY > 20, 255, 0).astype(np.uint8))


def test_equal_channels_stay_three(tmp_path):
    array = np.repeat(GREY[..., None], 3, axis=-1)
    Image.fromarray(array).save(tmp_path / "a.png")
    assert_same(read_image(tmp_path / "a.png"), array)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "png16", "tif", "lzw", "tif16"])
def test_orientation_is_applied(tmp_path, orientation, kind):
    stored = np.zeros((16, 32), np.uint8)
    stored[:8, :8], stored[:8, 24:] = 250, 120  # blocks of a JPEG, so that they survive it
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    reference = Image.fromarray(stored)
    reference.getexif()[ORIENTATION] = orientation
    expected = np.asarray(ImageOps.exif_transpose(reference))
    path = tmp_path / f"a.{'tif' if kind == 'lzw' else kind[:3]}"
    if kind == "tif16":
        rgb = np.repeat(stored[..., None], 3, axis=-1).astype(np.uint16) * 257
        tifffile.imwrite(path, rgb, photometric="rgb", extratags=[(ORIENTATION, "H", 1, orientation, True)])
        read = read_image(path)[..., 1]
        expected = expected.astype(np.uint16) * 257
    else:
        image = Image.fromarray(stored.astype(np.uint16) * 257) if kind == "png16" else Image.fromarray(stored)
        image.save(path, exif=exif, **({"compression": "tiff_lzw"} if kind == "lzw" else {}))
        read = read_image(path)
        expected = expected.astype(np.uint16) * 257 if kind == "png16" else expected
    assert read.shape == expected.shape
    np.testing.assert_allclose(read.astype(float), expected, atol=3)


def damage(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / ("a.tif" if "tif" in kind else "a.jpg" if "jpg" in kind else "a.png")
    if kind == "empty png":
        path.write_bytes(b"")
    elif kind == "text png":
        path.write_text("<html>404 Not Found</html>")
    elif kind == "multi-frame tif":
        tifffile.imwrite(path, np.stack([RAMP_12_BIT] * 3), photometric="minisblack")
    elif kind == "nan tif":
        tifffile.imwrite(path, np.where(GREY == 3, np.nan, GREY).astype(np.float32))
    elif kind == "infinite tif":
        tifffile.imwrite(path, np.where(GREY == 3, np.inf, GREY).astype(np.float64))
    elif kind == "five-channel tif":
        tifffile.imwrite(path, np.zeros((6, 9, 5), np.uint16), photometric="minisblack", planarconfig="contig")
    elif kind == "animated png":
        frame = Image.fromarray(GREY)
        frame.save(path, save_all=True, append_images=[ImageOps.invert(frame)])
    else:
        noise = np.random.default_rng(0).integers(0, 2**16, (64, 64, 3), dtype=np.uint16)
        if "16" in kind and "png" in kind:
            write_png(path, noise)
        elif "16" in kind:
            tifffile.imwrite(path, noise, photometric="rgb")
        else:
            Image.fromarray((noise >> 8).astype(np.uint8)).save(path)
        content = bytearray(path.read_bytes())
        if "truncated" in kind:
            content = content[: len(content) // 2]
        else:
            content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "empty png",
        "text png",
        "multi-frame tif",
        "animated png",
        "nan tif",
        "infinite tif",
        "five-channel tif",
        *(f"truncated {kind}" for kind in ("png", "png16", "jpg", "tif", "tif16")),
        *(f"corrupt {kind}" for kind in ("png", "png16")),
    ],
)
def test_bad_file_is_named_with_a_remedy(tmp_path, kind):
    path = damage(tmp_path, kind)
    with pytest.raises(UnreadableImageError, match="(?i)leave .* out") as raised:
        read_image(path)
    assert str(path) in str(raised.value)
    assert isinstance(raised.value, ValueError)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


def test_mask_is_any_nonzero_pixel(tmp_path):
    anomaly = GREY % 4 == 1
    tifffile.imwrite(tmp_path / "float.tif", anomaly * np.float32(0.5))
    Image.fromarray(anomaly).save(tmp_path / "bits.png")
    write_png(tmp_path / "deep.png", anomaly.astype(np.uint16))
    blue = np.zeros((*anomaly.shape, 3), np.uint8)
    blue[..., 2] = anomaly
    Image.fromarray(blue).save(tmp_path / "blue.png")
    for name in ("float.tif", "bits.png", "deep.png", "blue.png"):
        assert_same(read_mask(tmp_path / name), anomaly.astype(np.uint8))
