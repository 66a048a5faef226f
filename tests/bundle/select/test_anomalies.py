"""Synthetic anomalies of the selection: where they are, what they leave alone, and that they can be drawn again."""

import numpy as np
import pytest
import torch

from bundle.select.anomalies import altered, kinds

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
    copies = altered(image, body, (0, number))
    assert list(copies) == KINDS
    for copy in copies.values():
        changed = (copy != image).any(0).numpy()
        assert changed.any()
        assert not changed[~body].any()
        assert 0 <= copy.min() <= copy.max() <= 1


def test_an_image_that_exceeds_the_range_keeps_its_own(image: torch.Tensor) -> None:
    for copy in altered(4 * image, disc(64, 30), (0, 0)).values():
        assert copy.max() <= 4 * image.max()
        assert copy.max() > 3


def test_the_seed_and_the_number_of_the_image_decide_what_is_drawn(image: torch.Tensor) -> None:
    body = disc(64, 30)
    first, again = altered(image, body, (1, 5)), altered(image, body, (1, 5))
    for kind in KINDS:
        torch.testing.assert_close(first[kind], again[kind], rtol=0, atol=0)
        for other in ((1, 6), (2, 5)):
            assert not torch.equal(first[kind], altered(image, body, other)[kind])


def test_a_slice_without_a_body_has_room_for_none(image: torch.Tensor) -> None:
    assert altered(image, np.zeros((64, 64), bool), (0, 0)) == {}


def test_anomalies_grow_with_the_image() -> None:
    """At 512 pixels they are as large in the body as at 256, the side that the transforms are meant for."""
    usual, double = kinds(256), kinds(512)
    assert usual["lesion"].radius == (5, 16)
    assert double["lesion"].radius == (10, 32)
    for kind in ("cut_paste", "noise"):
        assert usual[kind].side == (10, 31)
        assert double[kind].side == (20, 62)
    assert double["noise"].wavelength == 64
    assert kinds(16)["lesion"].radius == (1, 1)
