"""What all random anomalies have in common: seeds, places, foreground, and images left alone elsewhere."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose
from scipy.stats import chisquare

from scripts.transforms import CutPasted, FractalNoised, Lesiond, RandCutPasted, RandFractalNoised, RandLesiond

KINDS = {RandFractalNoised: FractalNoised, RandCutPasted: CutPasted, RandLesiond: Lesiond}
RANDOM = pytest.mark.parametrize("kind", KINDS)
AFFINE = torch.diag(torch.tensor([2.0, 3, 4, 1], dtype=torch.float64))


def _image(rows: int = 64, columns: int = 80, seed: int = 0) -> MetaTensor:
    """Textured tissue, an ellipse, in a background of 0."""
    random = np.random.default_rng(seed)
    image = random.uniform(0.1, 1, (3, rows, columns))
    down, right = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    image[:, down**2 + right**2 > 0.7] = 0
    return MetaTensor(torch.from_numpy(image.astype(np.float32)), AFFINE, {"filename_or_obj": "scan.png"})


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return np.array_equal(one.numpy(), other.numpy())


def _region(drawn: Any, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: where a deterministic transform may alter an image, found by its parameters."""
    region = np.zeros(shape, bool)
    if isinstance(drawn, Lesiond):
        down, right = np.indices(shape) - np.reshape(drawn.centre, (2, 1, 1))
        widest = 1 + sum(amplitude for amplitude, _ in drawn.outline)
        return np.hypot(down, right) < 2 * max(drawn.radii) * widest
    if isinstance(drawn, CutPasted):
        height, width = drawn.box[2:][::-1] if drawn.quarter_turns % 2 else drawn.box[2:]
        top, left = drawn.corner
    else:
        top, left, height, width = drawn.box
    region[top : top + height, left : left + width] = True
    return region


@RANDOM
def test_a_seed_repeats_a_sequence_of_anomalies_that_all_differ(kind: Any) -> None:
    image = _image()

    def anomalies(seed: int) -> list[torch.Tensor]:
        transform = kind("image").set_random_state(seed)
        return [transform({"image": image})["image"] for _ in range(4)]

    first, second, other = anomalies(5), anomalies(5), anomalies(6)
    assert all(_equal(one, two) for one, two in zip(first, second, strict=True))
    assert not any(_equal(one, two) for one, two in zip(first, other, strict=True))
    assert not any(_equal(first[i], first[j]) for i in range(4) for j in range(i))


@RANDOM
@pytest.mark.parametrize("foreground_only", [False, True])
def test_the_drawn_parameters_are_plain_numbers_that_repeat_the_anomaly(kind: Any, foreground_only: bool) -> None:
    image = _image()
    transform = kind("image", foreground_only=foreground_only).set_random_state(1)
    for _ in range(5):
        result = transform({"image": image})["image"]
        parameters = {name: value for name, value in vars(transform.drawn).items() if name != "keys"}
        # What survives being written and read is made of numbers alone.
        again = KINDS[kind]("image", **ast.literal_eval(repr(parameters)))
        assert _equal(again({"image": image})["image"], result)


@RANDOM
@pytest.mark.parametrize("foreground_only", [False, True])
def test_only_the_region_changes_and_the_input_stays(kind: Any, foreground_only: bool) -> None:
    image = _image()
    before = image.clone()
    transform = kind("image", foreground_only=foreground_only).set_random_state(2)
    for _ in range(30):
        data = transform({"image": image, "other": 1})
        result, region = data["image"], _region(transform.drawn, (64, 80))
        changed = (result != image).any(0).numpy()
        assert changed.any()
        assert not changed[~region].any()
        if foreground_only:
            assert not changed[image.amax(0).numpy() == 0].any()
        assert data["other"] == 1
        assert result.dtype == torch.float32
        assert result.meta["filename_or_obj"] == "scan.png"
        assert torch.equal(result.affine, AFFINE)
    assert _equal(image, before)


@RANDOM
def test_anomalies_are_centred_in_the_foreground_uniformly(kind: Any) -> None:
    image = torch.zeros(3, 40, 40)
    image[1, 16:20, 20:24] = 0.5  # one channel suffices
    transform = kind("image", foreground_only=True).set_random_state(3)
    centres = np.zeros((40, 40), int)
    for _ in range(800):
        transform.randomize(image)
        drawn: Any = transform.drawn
        if isinstance(drawn, Lesiond):
            row, column = drawn.centre
        elif isinstance(drawn, CutPasted):
            height, width = drawn.box[2:][::-1] if drawn.quarter_turns % 2 else drawn.box[2:]
            row, column = drawn.corner[0] + height // 2, drawn.corner[1] + width // 2
            assert image[1, drawn.box[0] + drawn.box[2] // 2, drawn.box[1] + drawn.box[3] // 2] > 0
        else:
            row, column = (drawn.box[axis] + drawn.box[axis + 2] // 2 for axis in (0, 1))
        centres[row, column] += 1
    assert centres[16:20, 20:24].sum() == 800
    assert chisquare(centres[16:20, 20:24].ravel()).pvalue > 1e-3


@RANDOM
def test_an_image_without_foreground_stays_as_it_is(kind: Any) -> None:
    image = torch.zeros(3, 40, 40)
    transform = kind("image", foreground_only=True).set_random_state(4)
    assert not any(transform({"image": image})["image"].any() for _ in range(5))
    assert transform.drawn is None


@RANDOM
def test_an_item_is_altered_with_the_given_probability(kind: Any) -> None:
    image = _image()
    transform = kind("image", prob=0.3).set_random_state(5)
    altered = [not _equal(transform({"image": image})["image"], image) for _ in range(400)]
    assert abs(np.mean(altered) - 0.3) < 3.5 * np.sqrt(0.3 * 0.7 / 400)


@RANDOM
@pytest.mark.parametrize("size", [(7, 20), (20, 7), (5, 5), (1, 2)])
def test_small_images_get_small_anomalies(kind: Any, size: tuple[int, int]) -> None:
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    transform = kind("image").set_random_state(6)
    for _ in range(20):
        result = transform({"image": image})["image"]
        assert result.shape == image.shape
        assert torch.isfinite(result).all()


@RANDOM
def test_all_images_of_an_item_get_the_same_anomaly(kind: Any) -> None:
    image = _image()
    transform = kind(["image", "copy", "missing"], allow_missing_keys=True).set_random_state(7)
    result = transform({"image": image, "copy": image.as_tensor()})
    assert _equal(result["image"], result["copy"])
    assert not isinstance(result["copy"], MetaTensor)
    assert transform({"other": 1}) == {"other": 1}


@RANDOM
def test_volumes_are_refused_by_name(kind: Any) -> None:
    volume = MetaTensor(torch.rand(3, 8, 8, 1), meta={"filename_or_obj": "scan.nii"})
    with pytest.raises(ValueError, match=r"scan\.nii has the shape \(3, 8, 8, 1\).*SliceToImaged"):
        kind("image")({"image": volume})


@RANDOM
def test_workers_draw_differently_and_repeat_with_the_seed(kind: Any) -> None:
    image = _image()

    def batch(seed: int) -> torch.Tensor:
        dataset = Dataset([{"image": image} for _ in range(8)], Compose([kind("image")]))
        loader = DataLoader(dataset, num_workers=2, batch_size=2, generator=torch.Generator().manual_seed(seed))
        return torch.cat([one["image"].as_tensor() for one in loader])

    first = batch(0)
    assert len(first.unique(dim=0)) == 8
    assert torch.equal(first, batch(0))
    assert not torch.equal(first, batch(1))


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        (RandFractalNoised, {"side": (31, 10)}, r"side must be .*ascending within \[1, inf\], got \[31, 10\]"),
        (RandCutPasted, {"side": (0, 10)}, "side must be"),
        (RandCutPasted, {"brightness": (-1, 1)}, "brightness must be"),
        (RandLesiond, {"radius": (0, 3)}, "radius must be"),
        (RandLesiond, {"softness": (0, 2)}, "softness must be"),
        (RandLesiond, {"swelling": (-1, 1)}, "swelling must be"),
        (RandLesiond, {"intensity": (-1, 1)}, "intensity must be"),
        (RandLesiond, {"irregularity": 1}, "irregularity must be"),
    ],
)
def test_ranges_that_cannot_be_drawn_from_are_refused(kind: Any, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind("image", **parameters)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (FractalNoised("image", (5, 5, 10, 10), 0), r"\(5, 5, 10, 10\) is not within an image of 12 x 30"),
        (CutPasted("image", (0, 0, 4, 9), (4, 0), quarter_turns=1), r"\(4, 0, 9, 4\) is not within"),
        (Lesiond("image", (12, 3), (2, 2), intensity=1), r"centre \(row, column\) \(12, 3\) is not within"),
    ],
)
def test_parameters_for_larger_images_are_refused(transform: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transform({"image": torch.rand(3, 12, 30)})
