"""Corners of boxes are drawn from all places but the one that is excluded."""

import numpy as np
import pytest
from scipy.stats import chisquare

from scripts.transforms.synthesis.boxes import draw_corner


@pytest.mark.parametrize("other_than", [None, (0, 3), (2, 1), (7, 0)])  # (0, 3) and (7, 0) are no places of this box
def test_every_place_but_the_excluded_one_is_drawn_as_often(other_than: tuple[int, int] | None) -> None:
    random = np.random.RandomState(0)
    found = np.zeros((5, 2), int)
    for _ in range(2000):
        corner = draw_corner(random, np.ones((6, 6), bool), (2, 5), other_than)
        assert corner is not None
        found[corner] += 1
    expected = [place for place in np.ndindex(5, 2) if place != other_than]
    assert chisquare([found[place] for place in expected]).pvalue > 1e-3
    assert sum(found[place] for place in expected) == 2000
