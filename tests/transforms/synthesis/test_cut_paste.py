"""A pasted patch has the values of the place that it was cut from."""

import numpy as np
import pytest
import torch

from scripts.transforms import CutPasted, RandCutPasted

IMAGE = torch.from_numpy(np.random.default_rng(0).random((3, 40, 50), dtype=np.float32))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("quarter_turns", range(4))
def test_the_patch_is_mirrored_then_turned_then_brightened(flip: bool, quarter_turns: int) -> None:
    transform = CutPasted("image", (3, 5, 12, 9), (20, 30), flip, quarter_turns, brightness=1.5)
    result = transform({"image": IMAGE})["image"].numpy()
    patch = IMAGE.numpy()[:, 3:15, 5:14]
    for channel, pasted in zip(patch, result, strict=True):
        expected = np.rot90(np.fliplr(channel) if flip else channel, quarter_turns) * np.float32(1.5)
        np.testing.assert_array_equal(pasted[20 : 20 + expected.shape[0], 30 : 30 + expected.shape[1]], expected)
    assert result.max() > 1


def test_an_overlapping_patch_shows_the_image_as_it_was() -> None:
    result = CutPasted("image", (3, 5, 12, 9), (5, 6))({"image": IMAGE})["image"]
    assert torch.equal(result[:, 5:17, 6:15], IMAGE[:, 3:15, 5:14])


def test_all_that_is_drawn_reaches_its_bounds_and_the_place_is_another() -> None:
    transform = RandCutPasted("image", side=(4, 6), brightness=(0.5, 2)).set_random_state(0)
    drawn = []
    for _ in range(3000):
        transform.randomize(IMAGE[:, :8, :9])
        assert isinstance(transform.drawn, CutPasted)
        drawn.append(transform.drawn)
    assert {one.box[2:] for one in drawn} == {(height, width) for height in (4, 5, 6) for width in (4, 5, 6)}
    assert {(one.flip, one.quarter_turns) for one in drawn} == {(flip, k) for flip in (False, True) for k in range(4)}
    assert {one.corner for one in drawn if one.box[2:] == (4, 4)} == {
        (top, left) for top in range(5) for left in range(6)
    }
    assert not [one for one in drawn if one.corner == one.box[:2]]
    brightness = np.array([one.brightness for one in drawn])
    assert 0.5 <= brightness.min() < 0.51
    assert 1.98 < brightness.max() <= 2
    assert brightness.mean() == pytest.approx(1.25, abs=0.04)


def test_flips_turns_and_brightness_can_be_left_out() -> None:
    transform = RandCutPasted("image", brightness=(1, 1), flip=False, rotate=False).set_random_state(0)
    for _ in range(20):
        result = transform({"image": IMAGE})["image"]
        assert isinstance(transform.drawn, CutPasted)
        (row, column, height, width), (top, left) = transform.drawn.box, transform.drawn.corner
        pasted = result[:, top : top + height, left : left + width]
        assert torch.equal(pasted, IMAGE[:, row : row + height, column : column + width])


def test_a_patch_that_fills_the_image_has_no_other_place() -> None:
    image = IMAGE[:, :5, :5]
    transform = RandCutPasted("image").set_random_state(0)
    assert torch.equal(transform({"image": image})["image"], image)
