"""Borders of radiographs: counted at each side, letters notwithstanding."""

import numpy as np
import pytest

from scripts.data.borders import borders

SIZES = (12, 5, 0, 9)


def _framed(border: float, sizes: tuple[int, int, int, int] = SIZES, noise: int = 0) -> np.ndarray:
    """A picture of 100 x 80 between 500 and 3500, framed by ``border``."""
    random = np.random.default_rng(0)
    top, bottom, left, right = sizes
    inside = random.integers(500, 3500, (100, 80))
    framed = np.pad(inside, ((top, bottom), (left, right)), constant_values=int(border))
    frame = np.pad(np.zeros_like(inside), ((top, bottom), (left, right)), constant_values=1)
    return (framed + frame * random.integers(0, noise + 1, framed.shape)).astype(np.uint16)


@pytest.mark.parametrize("border", [0, 4095, 2000])
def test_black_white_and_constant_borders_are_counted(border: float) -> None:
    assert borders(_framed(border)) == SIZES


@pytest.mark.parametrize("border", [0, 3900])
def test_borders_may_be_noisy(border: float) -> None:
    assert borders(_framed(border, noise=100)) == SIZES


def test_a_picture_without_borders_has_none() -> None:
    assert borders(_framed(0, (0, 0, 0, 0))) == (0, 0, 0, 0)


@pytest.mark.parametrize("where", [np.s_[2:10, 30:37], np.s_[50:58, 82:88]])
def test_a_letter_on_the_border_belongs_to_it(where: tuple[slice, slice]) -> None:
    picture = _framed(0)
    picture[where] = 4095
    assert borders(picture) == SIZES


@pytest.mark.parametrize("picture", [np.zeros((6, 7)), np.eye(30), np.full((1, 1), 3)])
def test_what_would_be_border_all_over_has_none(picture: np.ndarray) -> None:
    assert borders(picture) == (0, 0, 0, 0)
