"""Image intensities keep their depth, and channels are three."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from scripts.transforms import ScaleToUnitd, SliceToImaged, ToThreeChannelsd


def test_eight_bits_become_zero_to_one_by_the_type_not_by_the_image() -> None:
    image = torch.tensor([[[0, 51, 102]]], dtype=torch.uint8)
    assert ScaleToUnitd("image")({"image": image})["image"].tolist() == [
        [[0.0, pytest.approx(0.2), pytest.approx(0.4)]]
    ]


def test_a_twelve_bit_ramp_keeps_all_its_values_and_what_lies_beyond() -> None:
    ramp = torch.arange(4096, dtype=torch.int32).view(1, 64, 64)
    scaled = ScaleToUnitd("image", [0, 4095])({"image": ramp})["image"]
    assert len(scaled.unique()) == 4096
    torch.testing.assert_close(scaled.double() * 4095, ramp.double(), rtol=0, atol=1e-3)
    beyond = ScaleToUnitd("image", [1000, 2000])({"image": ramp})["image"]
    assert (beyond.min().item(), beyond.max().item()) == (-1.0, pytest.approx(3.095))


def test_deeper_images_without_a_range_are_refused_by_name_with_the_remedy() -> None:
    image = MetaTensor(torch.tensor([[[7, 3000]]]), meta={"filename_or_obj": "scan.png"})
    with pytest.raises(
        ValueError,
        match=r"scan\.png is deeper than 8 bits \(its values go from 7 to 3000\).*intensity#intensity_range",
    ):
        ScaleToUnitd("image")({"image": image})


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ValueError, match="low < high"):
        ScaleToUnitd("image", [5, 5])


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_is_repeated_and_colour_passes(channels: int) -> None:
    image = torch.rand(channels, 4, 5)
    result = ToThreeChannelsd("image")({"image": image})["image"]
    torch.testing.assert_close(result, image.expand(3, 4, 5))


def test_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="has 4 channels"):
        ToThreeChannelsd("image")({"image": torch.rand(4, 2, 2)})


def volume(slices: int, **meta: int) -> MetaTensor:
    image = torch.arange(2.0 * 3 * slices).reshape(1, 2, 3, slices)
    return MetaTensor(image, affine=torch.diag(torch.tensor([2.0, 3, 4, 1], dtype=torch.float64)), meta=meta)


@pytest.mark.parametrize("slices", [1, 2, 5])
def test_neighbours_are_the_slice_before_the_slice_and_the_one_after(slices: int) -> None:
    image = volume(slices)
    result = ToThreeChannelsd("image", neighbours=True)({"image": image})["image"]
    assert result.shape == (3, 2, 3, slices)
    for index in range(slices):
        around = [max(index - 1, 0), index, min(index + 1, slices - 1)]
        np.testing.assert_array_equal(result[..., index], image[0][..., around].permute(2, 0, 1))
    np.testing.assert_array_equal(result.affine, image.affine)


def test_of_a_slice_with_its_neighbours_the_middle_is_left_in_its_place() -> None:
    image = volume(3, slice=7)
    result = ToThreeChannelsd("image", neighbours=True)({"image": image})["image"]
    np.testing.assert_array_equal(result[..., 0], image[0].permute(2, 0, 1))
    np.testing.assert_array_equal(result.affine[:3, 3], [0, 0, 4])


def test_one_channel_is_repeated_in_all_slices() -> None:
    image = volume(4)
    result = ToThreeChannelsd("image")({"image": image})["image"]
    np.testing.assert_array_equal(result, image.expand(3, 2, 3, 4))


def test_three_channels_have_no_neighbours() -> None:
    image = MetaTensor(torch.rand(3, 2, 2, 2), meta={"filename_or_obj": "scan.nii"})
    with pytest.raises(ValueError, match=r"scan\.nii has 3 channels.*neighbours only with one"):
        ToThreeChannelsd("image", neighbours=True)({"image": image})


def test_a_thin_volume_becomes_an_image_and_keeps_its_name() -> None:
    volume = MetaTensor(torch.rand(3, 4, 5, 1), meta={"filename_or_obj": "scan.nii (coronal slice 3)"})
    image = SliceToImaged("image")({"image": volume})["image"]
    torch.testing.assert_close(image.as_tensor(), volume.as_tensor()[..., 0])
    assert image.meta["filename_or_obj"] == "scan.nii (coronal slice 3)"
    with pytest.raises(ValueError, match=r"not an image of shape \(3, 4, 5, 2\)"):
        SliceToImaged("image")({"image": torch.rand(3, 4, 5, 2)})
