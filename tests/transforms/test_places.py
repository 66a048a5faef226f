"""Places of slices: the same whether a scan is read whole or slice by slice, in any plane and orientation."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from scripts.transforms import Preprocessing, ScaleToUnitd, SlicePlaced
from scripts.transforms.places import slice_places

FILLED = slice(2, 9)  # slices with foreground, of 12


def preprocessing(folder: Path, plane: str = "axial", neighbours: bool = False) -> Preprocessing:
    intensity = ScaleToUnitd("image", [0, 100])
    return Preprocessing(intensity, 32, plane, folder / "cache", crop_to_foreground=True, neighbours=neighbours)


@pytest.mark.parametrize("neighbours", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("plane", "axis"), [("axial", 2), ("coronal", 1), ("sagittal", 0)])
def test_a_slice_lies_where_it_does_in_its_scan(
    tmp_path: Path, plane: str, axis: int, reverse: bool, neighbours: bool
) -> None:
    voxels = np.zeros((12, 12, 12), np.int16)
    index = [slice(1, 11)] * 3
    index[axis] = FILLED
    voxels[tuple(index)] = 100
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    if reverse:
        affine[axis] *= -1
    path = tmp_path / "scan.nii"
    nib.save(nib.Nifti1Image(voxels, affine), path)
    read = preprocessing(tmp_path, plane, neighbours)
    whole = slice_places(read({"image": str(path)})["image"])
    expected = np.clip((np.arange(12) - 1.5) / 7, 0, 1)
    runs_backwards = (plane != "axial") ^ reverse  # coronal slices run to posterior, sagittal ones to the left
    assert whole.tolist() == pytest.approx((1 - expected[::-1] if runs_backwards else expected).tolist(), abs=1e-6)
    alone = [SlicePlaced("image")(read({"image": str(path), "slice": one}))["place"].item() for one in range(12)]
    assert alone == pytest.approx(whole.tolist(), abs=1e-6)


def test_an_image_lies_in_the_middle(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 50, np.uint8)).save(tmp_path / "image.png")
    item = preprocessing(tmp_path)({"image": str(tmp_path / "image.png")})
    assert slice_places(item["image"]).tolist() == [0.5]
