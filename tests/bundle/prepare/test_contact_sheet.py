import io
from dataclasses import replace

import nibabel as nib
import numpy as np
from PIL import Image

from bundle.prepare.contact_sheet import _picture, contact_sheet
from bundle.prepare.layouts import Sample
from scripts.data.planes import AXCODES


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_mask_is_outlined_and_values_are_scaled(tmp_path):
    image = np.full((32, 32), 1000, np.uint16)
    image[16:] = 3000
    mask = np.zeros((32, 32), np.uint8)
    mask[:12, 8:24] = 1  # reaches the border
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")

    def sheet(mask_path):
        samples = [
            Sample(tmp_path / "image.png", 0, "a", split="training"),
            Sample(tmp_path / "image.png", 1, "b", mask_path, split="test"),
        ]
        return contact_sheet(samples, "title", [1000, 3000], seed=0, cache_dir=tmp_path / "cache")

    plain, outlined = pixels(sheet(None)), pixels(sheet(tmp_path / "mask.png"))
    assert plain.shape == outlined.shape
    red = [((drawn[..., 0] - drawn[..., 1]) > 100).sum() for drawn in (plain, outlined)]
    assert red[1] > red[0] + 50
    black = (plain.max(axis=-1) == 0).mean()
    assert black > 0.02  # the halves of two cells at the low end of the range
    assert sheet(None) == sheet(None)


def test_scan_is_shown_where_its_anomaly_is(tmp_path):
    array = np.zeros((20, 24, 10), np.int16)
    array[2:18, 2:22, 1:9] = 100
    mask = np.zeros_like(array, np.uint8)
    mask[3:6, 15:20, 7] = 1
    array[mask == 1] = 1000
    for name, content in (("scan", array), ("mask", mask)):
        nib.save(nib.Nifti1Image(content, np.diag([-2.0, 2.0, 4.0, 1.0])), tmp_path / f"{name}.nii.gz")
    sample = Sample(tmp_path / "scan.nii.gz", 1, "p1", tmp_path / "mask.nii.gz", split="test")
    axial, coronal, sagittal = (_picture(sample, plane, tmp_path / "cache", None) for plane in AXCODES)
    # i runs to the patient's left, as pictures do; j to the front and k upwards, which are on top of pictures.
    assert np.array_equal(axial.mask, mask[:, ::-1, 7].T)
    assert np.array_equal(coronal.mask, mask[:, 15, ::-1].T)
    assert np.array_equal(sagittal.mask, mask[3, ::-1, ::-1].T)
    assert [picture.aspect for picture in (axial, coronal, sagittal)] == [1, 2, 2]
    for picture in (axial, coronal, sagittal):
        assert picture.pixels.shape == picture.mask.shape
        assert picture.pixels.min() == 0
        assert (picture.pixels[picture.mask == 1] == 1).all()
    plain = contact_sheet([replace(sample, mask=None)], "title", None, 0, tmp_path / "cache")
    outlined = contact_sheet([sample], "title", None, 0, tmp_path / "cache")
    red = [((sheet[..., 0] - sheet[..., 1]) > 100).sum() for sheet in (pixels(plain), pixels(outlined))]
    assert red[1] > red[0] + 50
