"""Synthetic anomalies of the selection: where they are, what they leave alone, and that they can be drawn again."""

import numpy as np
import pytest
import torch

from bundle.select.anomalies import Anomalies

KINDS = ["lesion", "cut_paste", "noise"]


@pytest.fixture
def image() -> torch.Tensor:
    return 0.9 * torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) + 0.05


def disc(size: int, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    return np.hypot(rows, columns) < radius


@pytest.mark.parametrize("number", range(20))
def test_each_kind_alters_the_body_and_nothing_else(image: torch.Tensor, number: int) -> None:
    body = disc(64, 12)
    copies = Anomalies()(image, body, (number,))
    assert list(copies) == KINDS
    for copy in copies.values():
        changed = (copy != image).any(0).numpy()
        assert changed.any()
        assert not changed[~body].any()
        assert 0 <= copy.min() <= copy.max() <= 1


def test_an_image_that_exceeds_the_range_keeps_its_own(image: torch.Tensor) -> None:
    for copy in Anomalies()(4 * image, disc(64, 30), (0,)).values():
        assert copy.max() <= 4 * image.max()
        assert copy.max() > 3


def test_the_seed_and_the_number_of_the_image_decide_what_is_drawn(image: torch.Tensor) -> None:
    body = disc(64, 30)
    first, again = Anomalies(1)(image, body, (0, 5)), Anomalies(1)(image, body, (0, 5))
    for kind in KINDS:
        torch.testing.assert_close(first[kind], again[kind], rtol=0, atol=0)
        for seed, number in ((1, (0, 6)), (1, (1, 5)), (2, (0, 5))):
            assert not torch.equal(first[kind], Anomalies(seed)(image, body, number)[kind])


def test_a_slice_without_a_body_has_room_for_none(image: torch.Tensor) -> None:
    assert Anomalies()(image, np.zeros((64, 64), bool), (0,)) == {}


@pytest.mark.parametrize(("size", "side"), [(1, 512), (2, 256), (4, 128)])
def test_anomalies_grow_with_the_image_and_by_the_factor(size: float, side: int) -> None:
    """At 256 pixels they are as large as the transforms make them."""
    usual, double = Anomalies().kinds(256), Anomalies(size=size).kinds(side)
    assert usual["lesion"].radius == (5, 16)
    assert double["lesion"].radius == (10, 32)
    for kind in ("cut_paste", "noise"):
        assert usual[kind].side == (10, 31)
        assert double[kind].side == (20, 62)
    assert double["noise"].wavelength == 64


def test_the_smallest_anomaly_is_a_pixel() -> None:
    tiny = Anomalies().kinds(16)
    assert tiny["lesion"].radius == (1, 1)
    assert tiny["cut_paste"].side == (1, 2)
