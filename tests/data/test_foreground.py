"""Foreground: one threshold for CT and MR, and the quantiles of what lies above it."""

import numpy as np
import pytest

from scripts.data import foreground
from scripts.data.foreground import QUANTILES, foreground_quantiles, foreground_threshold


def test_the_threshold_lies_a_tenth_of_the_way_between_the_outermost_percentiles() -> None:
    array = np.arange(1001.0).reshape(7, 11, 13)
    assert foreground_threshold(array) == pytest.approx(5 + 0.1 * 990)  # the percentiles of 0 to 1000 are 5 and 995
    assert foreground_threshold(array + 500) == pytest.approx(505 + 0.1 * 990)


def test_the_undershoot_of_resampling_does_not_turn_air_into_foreground() -> None:
    volume = np.zeros((20, 20, 10))
    volume[5:15, 5:15] = 100
    volume[4, 4, :5] = -40
    assert foreground_threshold(volume) == pytest.approx(10)


def test_the_padding_of_a_ct_scanner_counts_as_air() -> None:
    ct = np.full((10, 10, 10), -1000, np.int16)
    ct[2:8, 2:8, 2:8] = 40
    padded = ct.copy()
    padded[0] = -2000
    assert foreground_threshold(ct) == pytest.approx(-1000 + 0.1 * 1040)
    assert foreground_threshold(padded) == pytest.approx(-1024 + 0.1 * 1064)
    assert (foreground_quantiles(padded) == 40).all()


def test_quantiles_are_those_of_the_foreground_alone() -> None:
    body = np.random.default_rng(0).integers(200, 2000, (20, 20, 6)).astype(np.int16)
    volume = np.pad(body, ((10, 10), (10, 10), (0, 0)))
    quantiles = foreground_quantiles(volume)
    assert quantiles.shape == (len(QUANTILES),)
    assert quantiles.dtype == np.float64
    threshold = foreground_threshold(volume)
    assert threshold < 200
    np.testing.assert_allclose(quantiles, np.percentile(body.ravel(), [100 * value for value in QUANTILES]))


@pytest.mark.parametrize("value", [0, 5, -2000])
def test_a_constant_volume_has_no_foreground_and_its_own_value_as_quantiles(value: int) -> None:
    volume = np.full((3, 4, 5), value, np.int16)
    assert not (volume > foreground_threshold(volume)).any()
    assert (foreground_quantiles(volume) == value).all()


def test_a_large_volume_is_judged_by_a_sample_of_every_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    smooth = np.add.outer(np.add.outer(np.linspace(0, 1, 61), np.linspace(0, 1, 61)), np.linspace(0, 1, 5))
    whole = foreground_quantiles(smooth)
    monkeypatch.setattr(foreground, "_ENOUGH", 5 * 31 * 31)  # every second voxel along i and j
    np.testing.assert_array_equal(foreground_quantiles(smooth), foreground_quantiles(smooth[::2, ::2]))
    assert foreground_threshold(smooth) == foreground_threshold(smooth[::2, ::2])
    np.testing.assert_allclose(foreground_quantiles(smooth), whole, atol=0.03)
