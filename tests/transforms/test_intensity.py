"""Intensity of volumes: windows for CT, foreground quantiles and histogram landmarks for MR."""

import json
import logging
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from scripts.data.foreground import QUANTILES, foreground_quantiles
from scripts.data.landmarks import HistogramLandmarks
from scripts.transforms.intensity import WINDOWS, MatchLandmarksd, ScaleByForegroundd, Windowedd

AFFINE = torch.tensor([[0.0, -2.0, 0.0, 5.0], [1.0, 0.0, 0.0, -3.0], [0.0, 0.0, 4.0, 7.0], [0.0, 0.0, 0.0, 1.0]])


def _image(array: Any, **meta: Any) -> MetaTensor:
    """A volume (i, j, k) as a transform gets it."""
    return MetaTensor(torch.as_tensor(np.asarray(array))[None], AFFINE, {"filename_or_obj": "scan.nii", **meta})


def _applied(transform: Any, image: MetaTensor) -> MetaTensor:
    result = transform({"image": image, "other": 1})
    assert result["other"] == 1
    scaled = result["image"]
    assert scaled.dtype == torch.float32
    assert 0 <= scaled.min() <= scaled.max() <= 1
    assert scaled.meta["filename_or_obj"] == "scan.nii"
    assert torch.equal(scaled.affine, AFFINE.to(scaled.affine))
    return scaled


def _mr(seed: int = 0) -> np.ndarray:
    """Two tissues in air."""
    random = np.random.default_rng(seed)
    volume = random.normal(400, 30, (12, 11, 6)) + 300 * (random.random((12, 11, 6)) > 0.6)
    volume[:4] = random.random((4, 11, 6))
    return volume


def _learnt(*volumes: np.ndarray) -> HistogramLandmarks:
    landmarks = HistogramLandmarks()
    landmarks.learn([foreground_quantiles(volume) for volume in volumes])
    return landmarks


TRANSFORMS = {
    "one window": Windowedd("image", ["brain"]),
    "three windows": Windowedd("image", ["brain", "bone", [50, 350]]),
    "foreground": ScaleByForegroundd("image"),
    "landmarks": MatchLandmarksd("image", _learnt(_mr(1), _mr(2) * 3)),
}


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.float32, np.float64])
def test_a_window_is_linear_between_its_edges_and_clips_beyond(dtype: type) -> None:
    values = np.array([0, 10, 30, 55, 80, 90, 120], dtype).reshape(1, 7, 1)
    scaled = _applied(Windowedd("image", [[50, 60]]), _image(values))  # from 20 to 80
    assert scaled.shape == (1, 1, 7, 1)
    assert scaled.flatten().tolist() == pytest.approx([0, 0, 1 / 6, 35 / 60, 1, 1, 1])


@pytest.mark.parametrize("name", WINDOWS)
def test_named_windows_reach_from_black_to_white_around_their_level(name: str) -> None:
    level, width = WINDOWS[name]
    values = np.array([level - width, level - width / 2, level, level + width / 4, level + width / 2, 4000])
    scaled = _applied(Windowedd("image", [name]), _image(values.reshape(1, -1, 1)))
    assert scaled.flatten().tolist() == pytest.approx([0, 0, 0.5, 0.75, 1, 1])


def test_three_windows_become_three_channels() -> None:
    volume = np.random.default_rng(0).integers(-1000, 2000, (5, 4, 3)).astype(np.int16)
    scaled = _applied(Windowedd("image", ["brain", "lung", [50, 350]]), _image(volume))
    assert scaled.shape == (3, 5, 4, 3)
    for channel, (level, width) in zip(scaled.numpy(), [(40, 80), (-600, 1500), (50, 350)], strict=True):
        expected = np.interp(volume, [level - width / 2, level + width / 2], [0, 1])
        np.testing.assert_allclose(channel, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        (["brian"], "no window 'brian'.*brain, subdural, stroke, bone, lung, mediastinum, abdomen, liver"),
        (["brain", "bone"], "one or three windows"),
        ([], "one or three windows"),
        ("brain", "a list of one"),
        ([[40, 80, 1]], r"\[40, 80, 1\] is not a window: use \[level, width\] in Hounsfield"),
        ([40], "40 is not a window"),
        ([[40, 0]], "width above 0"),
        ([[40, -80]], "width above 0"),
        ([[float("nan"), 80]], "needs a level"),
    ],
)
def test_windows_that_are_none_are_refused_with_the_names(windows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Windowedd("image", windows)


@pytest.mark.parametrize(("lower", "upper"), [(0.005, 0.995), (0.01, 0.99), (0.5, 0.9)])
def test_the_quantiles_of_the_foreground_become_black_and_white(lower: float, upper: float) -> None:
    volume = _mr()
    scaled = _applied(ScaleByForegroundd("image", lower, upper), _image(volume))
    low, high = np.percentile(volume[4:], [100 * lower, 100 * upper])  # the air ends at row 4
    np.testing.assert_allclose(scaled[0], np.interp(volume, [low, high], [0, 1]), atol=1e-5)


@pytest.mark.parametrize(("lower", "upper"), [(0.02, 0.99), (0.01, 1), (0.9, 0.1), (0.5, 0.5)])
def test_other_quantiles_are_refused_with_those_there_are(lower: float, upper: float) -> None:
    with pytest.raises(ValueError, match=r"two of \(0\.005, 0\.01, .*0\.995\), ascending"):
        ScaleByForegroundd("image", lower, upper)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("convert", [np.asarray, list, torch.from_numpy])
def test_a_slice_looks_as_it_does_in_its_volume(name: str, convert: Any) -> None:
    volume = _mr()
    whole = _applied(TRANSFORMS[name], _image(volume))
    meta = {"foreground_quantiles": convert(foreground_quantiles(volume)), "slice": 2}
    thin = _applied(TRANSFORMS[name], _image(volume[..., 2:3], **meta))
    torch.testing.assert_close(thin, whole[..., 2:3], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["foreground", "landmarks"])
@pytest.mark.parametrize("part", [np.s_[..., 2:3], np.s_[..., 1:4]])
def test_a_slice_of_an_unknown_volume_is_refused(name: str, part: Any) -> None:
    with pytest.raises(ValueError, match=r"scan\.nii is a slice.*foreground_quantiles"):
        TRANSFORMS[name]({"image": _image(_mr()[part], slice=2)})


def test_quantiles_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scan\.nii has foreground quantiles of shape \(2,\)"):
        TRANSFORMS["foreground"]({"image": _image(_mr(), foreground_quantiles=[0, 1])})


@pytest.mark.parametrize("name", ["foreground", "landmarks"])
def test_a_constant_volume_becomes_black_with_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        scaled = _applied(TRANSFORMS[name], _image(np.full((4, 5, 3), 7, np.int16)))
    assert not scaled.any()
    assert "scan.nii has no contrast: its foreground is 7 everywhere" in caplog.text


def test_landmarks_undo_the_gain_and_the_offset_of_a_scanner() -> None:
    volume, match = _mr(), TRANSFORMS["landmarks"]
    np.testing.assert_allclose(
        _applied(match, _image(3.5 * volume + 120)), _applied(match, _image(volume)), rtol=0, atol=1e-5
    )


def test_matching_brings_each_quantile_to_its_landmark() -> None:
    landmarks = _learnt(_mr(1), _mr(2) ** 1.5)
    volume = _mr()
    quantiles = foreground_quantiles(volume)
    image = _image(np.array([-500, *quantiles, 5000]).reshape(-1, 1, 1), foreground_quantiles=quantiles)
    matched = _applied(MatchLandmarksd("image", landmarks), image)
    np.testing.assert_allclose(matched.flatten(), [0, *landmarks.values, 1], atol=1e-6)


def test_the_histogram_of_a_matched_volume_has_the_landmarks_as_quantiles() -> None:
    landmarks = _learnt(*(_mr(seed) for seed in range(1, 5)))
    volume = 2 * _mr() ** 1.3
    matched = _applied(MatchLandmarksd("image", landmarks), _image(volume))
    np.testing.assert_allclose(np.quantile(matched[0, 4:], QUANTILES), landmarks.values, atol=0.02)


@pytest.mark.parametrize("ties", [np.s_[:2], np.s_[4:7], np.s_[-2:], np.s_[:-1], np.s_[1:]])
def test_matching_keeps_the_order_of_intensities_where_quantiles_are_equal(ties: slice) -> None:
    quantiles = np.linspace(10, 24, len(QUANTILES))
    quantiles[ties] = quantiles[ties][-1 if ties.start is None else 0]
    ramp = np.linspace(5, 30, 501).reshape(-1, 1, 1)
    matched = _applied(TRANSFORMS["landmarks"], _image(ramp, foreground_quantiles=quantiles)).flatten()
    assert (matched.diff() >= 0).all()
    assert (matched[0], matched[-1]) == (0, 1)


def test_matching_without_landmarks_is_refused_with_the_remedy() -> None:
    with pytest.raises(RuntimeError, match="load a checkpoint"):
        MatchLandmarksd("image", HistogramLandmarks())({"image": _image(_mr())})


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("shape", [(3, 4, 4, 1), (1, 4, 4)])
def test_images_of_another_shape_are_refused(name: str, shape: tuple[int, ...]) -> None:
    image = MetaTensor(torch.rand(shape), meta={"filename_or_obj": "photo.png"})
    with pytest.raises(ValueError, match=r"photo\.png has the shape .* but one channel"):
        TRANSFORMS[name]({"image": image})


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_plain_tensor_is_scaled_like_a_scan(name: str) -> None:
    image = _image(_mr())
    scaled = TRANSFORMS[name]({"image": image.as_tensor()})["image"]
    torch.testing.assert_close(scaled, TRANSFORMS[name]({"image": image})["image"].as_tensor())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("three windows", {"name": "Windowedd", "windows": [[40, 80], [600, 2800], [50, 350]]}),
        ("foreground", {"name": "ScaleByForegroundd", "lower": 0.005, "upper": 0.995}),
        ("landmarks", {"name": "MatchLandmarksd"}),
    ],
)
def test_settings_survive_json(name: str, settings: dict[str, Any]) -> None:
    assert json.loads(json.dumps(TRANSFORMS[name].settings)) == TRANSFORMS[name].settings == settings


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64], ids=["8 bits", "16 bits, as they are read"])
def test_grey_values_of_a_picture_are_no_hounsfield_units(dtype: torch.dtype) -> None:
    def image(name: str, kind: torch.dtype) -> MetaTensor:
        return MetaTensor(torch.full((1, 2, 2, 1), 40, dtype=kind), meta={"filename_or_obj": name})

    with pytest.raises(ValueError, match=r"scan\.PNG holds grey values and no Hounsfield units.*NIfTI or DICOM"):
        Windowedd("image", ["brain"])({"image": image("scan.PNG", dtype)})
    for name, kind in (("scan.nii.gz", dtype), ("scan.tiff", torch.int16)):
        assert Windowedd("image", ["brain"])({"image": image(name, kind)})["image"].unique().tolist() == [0.5]
