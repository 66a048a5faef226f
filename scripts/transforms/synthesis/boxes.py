"""Rectangles in images: (top, left, height, width) in pixels."""

from __future__ import annotations

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray
from torch import Tensor

Box = tuple[int, int, int, int]


def draw_sides(random: RandomState, side: tuple[int, int], limits: tuple[int, int]) -> tuple[int, int]:
    """Draws height and width separately and uniformly from ``side``, ends included, and cuts them to ``limits``."""
    height, width = (min(int(random.randint(side[0], side[1] + 1)), limit) for limit in limits)
    return height, width


def draw_corner(
    random: RandomState,
    foreground: NDArray[np.bool_],
    sides: tuple[int, int],
    other_than: tuple[int, int] | None = None,
) -> tuple[int, int] | None:
    """Draws a box within the image, uniformly among those whose central pixel lies in the foreground.

    The central pixel is at half the sides, rounded down.

    Args:
        random: Source of random numbers.
        foreground: Foreground, (H, W).
        sides: Height and width of the box, at most those of the image.
        other_than: Corner that must not be drawn.

    Returns:
        Top and left of the box; None if there is no such box.
    """
    (height, width), (rows, columns) = sides, foreground.shape
    places = foreground[height // 2 : height // 2 + rows - height + 1, width // 2 : width // 2 + columns - width + 1]
    free = np.flatnonzero(places)
    if other_than is not None and other_than[1] < places.shape[1]:
        free = free[free != other_than[0] * places.shape[1] + other_than[1]]
    if not len(free):
        return None
    top, left = divmod(int(free[random.randint(len(free))]), places.shape[1])
    return top, left


def part(image: Tensor, box: Box) -> Tensor:
    """View of a box in an image: (C, H, W) -> (C, height, width).

    Raises:
        ValueError: If the box is not within the image.
    """
    top, left, height, width = box
    rows, columns = image.shape[1:]
    if min(top, left) < 0 or min(height, width) < 1 or top + height > rows or left + width > columns:
        raise ValueError(
            f"The box (top, left, height, width) {box} is not within an image of {rows} x {columns} pixels: apply the "
            "transform to images of the size for which its parameters were drawn."
        )
    return image[:, top : top + height, left : left + width]
